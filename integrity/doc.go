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
// [Build] makes the [Tree] of a file that we hold. [FromCVs] makes it from
// chaining values that anyone sent, and proves them first. [Tree.Verify] then
// proves any whole groups, in any order, from any source.
//
// [Tree.ProveRange] and [FromRangeProof] do the same for the groups of one range
// alone, with a proof whose length grows with the range and with the logarithm of
// the file.
//
// Build tells its [Progress] the chaining values that it has so far. Whoever
// gets them can check bytes with a [GrowingTree] before the root is known, and
// prove all of it once it is.
//
// # What is proved, and what is not
//
// After FromCVs the chaining values are those of the root. The size is still a
// claim: sizes that differ only within the last group share all chaining values,
// and a liar may present inner nodes of a larger tree as groups of a smaller one.
// No bytes can be found that Verify accepts under such a claim for the last
// group, so the size is proved when the last group is. Until then a size
// should decide nothing that cannot be undone. The one exception is size 0,
// which FromCVs proves by itself.
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
