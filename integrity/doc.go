// Package integrity proves bytes against a BLAKE3 root, one chunk group at a time.
// It reads files only through [io.ReaderAt]; it uses no network, clock or disk.
//
// # The tree
//
// BLAKE3 cuts a file into chunks of 1024 bytes and hashes them up a binary tree in
// which every left subtree is complete. A chunk group is a complete subtree of 2^g
// chunks. The last group of a file may hold fewer chunks, and its last chunk may be
// short. The chaining values of the groups alone give the root of the file:
//
//	               root                 compressed with the ROOT flag
//	             /      \
//	          parent     CV 4           group 4: short
//	        /        \
//	   parent        parent
//	   /    \        /    \
//	 CV 0   CV 1   CV 2   CV 3          32 bytes for each group
//	  |      |      |      |
//	bytes  bytes  bytes  bytes          2^g chunks of 1024 bytes
//
// The root is the standard BLAKE3 hash of the file, as b3sum prints it. A file of
// one group has no chaining values: the node of its group is the root node.
//
// # Usage
//
// A sender calls [Build] to hash a file, or uses a [Builder] to hash it in steps. The
// result is a [Tree]. A receiver that knows the root calls [FromCVs] with the
// chaining values of the sender, which it need not trust. Then [Tree.Verify] proves
// whole groups, in any order and from any source.
//
// Two other types prove less than a whole file:
//
//	type         verifies                made by               from
//	Tree         all groups              FromCVs               Tree.CVs
//	                                     ParseTree             Tree.AppendBinary
//	RangeTree    the groups of a range   FromRangeProof        Tree.ProveRange
//	GrowingTree  the groups known so far GrowingTree.Append    Progress of Build
//
// A range proof holds the chaining values of the groups of a range, and of the few
// subtrees that lead from them to the root. Its size grows with the range and with
// the logarithm of the file.
//
// A GrowingTree is for a file that is served while it is hashed. It checks bytes
// against chaining values whose root is not known yet, and proves all of them once
// the root is known.
//
// [Tree.AppendBinary] stores a tree in a form that detects its own damage. [Sum]
// hashes a stream that can only be read in order.
//
// # What is proved, and what is not
//
// FromCVs, ParseTree and FromRangeProof prove that the chaining values belong to
// the root. They do not prove the size:
//
//   - Sizes that differ only within the last group share all chaining values.
//   - An attacker can present inner nodes of a larger tree as groups of a smaller
//     file.
//
// In both cases Verify accepts no bytes for the last group under the wrong size. So
// the size is proved when the last group is. Until then a size must not decide
// anything that cannot be undone. FromCVs proves the size 0 by itself.
//
// Verified bytes are the bytes of the file at that offset, whatever size and group
// size were claimed: BLAKE3 hashes the index of each chunk. Only a GrowingTree
// proves less before Finish.
//
// The strength is that of BLAKE3: 128 bits against collisions. Hashes are public
// and are not compared in constant time.
//
// # Source
//
// Section numbers in this package are those of "The BLAKE3 Hashing Framework"
// (c2sp.org/BLAKE3, the text of draft-aumasson-blake3-00). They are 2.4 flags, 3
// compression function, 4.2 chunks, and 4.3 parents and incomplete trees.
package integrity
