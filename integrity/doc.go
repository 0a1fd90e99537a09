// Package integrity proves bytes against a BLAKE3 root, one chunk group at a
// time. It is pure: it knows files only as an [io.ReaderAt] and knows no
// network, no clock and no disk.
//
// # The tree
//
// BLAKE3 cuts a file into chunks of 1024 bytes and hashes them up a binary tree
// whose left subtrees are always complete. A chunk group is a complete subtree
// of 2^g chunks; the last group of a file may hold fewer, and its last chunk may
// be short. So the tree over the groups is left-complete as well, and the
// chaining values of the groups alone give the file's root:
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
// The root is the file's ordinary BLAKE3 hash, the one that b3sum prints. A file
// of one group has no chaining values: its group node is the root node.
//
// [Build] makes the [Tree] of a file that we hold; [Sum] the root alone of what can
// only be read in order. [FromCVs] makes it from
// chaining values that anyone sent, and proves them first. [Tree.Verify] then
// proves any whole groups, in any order, from any source.
//
// There are trees of less than a whole file, too:
//
//	             verifies              is made by            from
//	Tree         all groups            FromCVs               Tree.CVs
//	                                   ParseTree             Tree.AppendBinary
//	RangeTree    those of one range    FromRangeProof        Tree.ProveRange
//	GrowingTree  those known so far    GrowingTree.Append    Progress of Build
//
// A [Collector] takes bytes, lets through what one of them verifies, and knows
// what it has and what is missing.
//
// A range proof has the chaining values of the range, and of the few subtrees
// that lead from it to the root: it grows with the range and with the logarithm
// of the file. A GrowingTree is for a file that is served while it is hashed: it
// holds bytes against chaining values whose root is not known yet, and proves
// all of it once it is. [Tree.AppendBinary] is for a tree that we keep: it finds
// its own damage.
//
// Bytes, chunks and groups are counted in types of their own: offsets and sizes
// in bytes are int64, indexes of chunks and of groups [chunkNum] and [groupNum],
// and a [GroupSize] turns one into the other.
//
// # What is proved, and what is not
//
// After FromCVs, ParseTree and FromRangeProof the chaining values are those of
// the root. The size is still a claim: sizes that differ only within the last
// group share all chaining values, and a liar may present inner nodes of a larger
// tree as groups of a smaller one. No bytes can be found that Verify accepts under
// such a claim for the last group, so the size is proved when the last group is.
// Until then a size should decide nothing that cannot be undone. The one exception
// is size 0, which FromCVs proves by itself.
//
// Bytes that were verified are the file's at that offset, whatever was claimed
// about size and groups: each chunk is hashed with its index. Only a GrowingTree
// says less before Finish.
//
// The strength is BLAKE3's: 128 bits against collisions. Hashes are not
// compared in constant time; they are public.
//
// # Source
//
// Section numbers in this package are those of "The BLAKE3 Hashing Framework"
// (c2sp.org/BLAKE3, the text of draft-aumasson-blake3-00): 2.4 flags, 3
// compression function, 4.2 chunks, 4.3 parents and incomplete trees.
package integrity
