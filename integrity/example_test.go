package integrity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"kwikcp/integrity"
)

// file is the content in the examples: 300,000 bytes, or five groups.
var file = []byte(strings.Repeat("0123456789", 30_000))

func buildTree() *integrity.Tree {
	size := int64(len(file))
	tree, err := integrity.Build(context.Background(), bytes.NewReader(file), size, integrity.GroupSizeFor(size), nil)
	if err != nil {
		panic(err)
	}
	return tree
}

// The root equals the output of b3sum.
func ExampleBuild() {
	tree := buildTree()
	fmt.Println(tree.Root())
	fmt.Println(tree.Groups(), "groups of", tree.GroupSize().Bytes(), "bytes")
	// Output:
	// 9138eba5948c46a836ee6a75fdc49dca3d6cd2fc1143edb3cebb7c015960a96b
	// 5 groups of 65536 bytes
}

// A receiver that trusts the root can take the chaining values and the bytes from
// untrusted senders.
func ExampleTree_Verify() {
	sent := buildTree()
	tree, err := integrity.FromCVs(sent.Size(), sent.GroupSize(), sent.CVs(), sent.Root())
	if err != nil {
		panic(err)
	}
	fmt.Println(tree.Verify(65536, file[65536:131072]))
	wrong := bytes.ToUpper(file)
	wrong[200_000] = 'x'
	err = tree.Verify(0, wrong)
	var bad *integrity.GroupError
	fmt.Println(errors.As(err, &bad), bad.Offset, bad.Length)
	// Output:
	// <nil>
	// true 196608 65536
}

// A receiver of a range needs only the values that prove it, not the whole tree.
func ExampleFromRangeProof() {
	tree := buildTree()
	proof, err := tree.ProveRange(100_000, 100_010)
	if err != nil {
		panic(err)
	}
	part, err := integrity.FromRangeProof(tree.Size(), tree.GroupSize(), 100_000, 100_010, proof, tree.Root())
	if err != nil {
		panic(err)
	}
	start, end := part.Range()
	fmt.Printf("%d bytes prove [%d,%d): %v\n", len(proof), start, end, part.Verify(start, file[start:end]))
	// Output:
	// 128 bytes prove [65536,131072): <nil>
}

// A sender serves a file while it hashes it. The receiver checks the bytes against
// the values so far, and proves all of them when it learns the root.
func ExampleGrowingTree() {
	size, group := int64(len(file)), integrity.DefaultGroupSize
	growing, err := integrity.NewGrowingTree(size, group)
	if err != nil {
		panic(err)
	}
	tree, err := integrity.Build(context.Background(), bytes.NewReader(file), size, group, func(_ int64, cvs []byte) {
		if err := growing.Append(cvs); err != nil { // over a network, in an application
			panic(err)
		}
		end := growing.End()
		fmt.Println("up to", end, growing.Verify(0, file[:end]))
	})
	if err != nil {
		panic(err)
	}
	proved, err := growing.Finish(tree.Root())
	fmt.Println("proved", proved.Size(), err)
	// Output:
	// up to 300000 <nil>
	// proved 300000 <nil>
}

// A stored tree saves hashing the file again, and detects its own damage.
func ExampleParseTree() {
	stored, err := buildTree().AppendBinary(nil)
	if err != nil {
		panic(err)
	}
	tree, err := integrity.ParseTree(stored)
	fmt.Println(len(stored), tree.Verify(0, file), err)
	stored[100] ^= 1
	_, err = integrity.ParseTree(stored)
	fmt.Println(err)
	// Output:
	// 218 <nil> <nil>
	// integrity: not a stored tree, or damaged
}
