// Package transfer moves files over KWIK.
//
// A client asks a primary for a path ([Get]). The primary answers with a manifest: the file's
// size, its BLAKE3 root, the chaining values of its chunk groups, and the id of an aggregate
// stream. The client proves the chaining values up to the root, looks what an earlier transfer
// left of the file, then copies what is missing of the aggregate stream, to which every server
// contributes, into a part file beside the destination; each chunk group is proved before it is
// written. When all are there the part file is synced and renamed. A transfer that fails leaves
// the part file to the next one.
//
//	request -> manifest, tree -> proof of the tree -> part file <- aggregate stream (proved groups) -> sync -> rename
//	                                                     '-> groups of an earlier transfer, proved again
//
// Groups of other files that are right are copied in the same way (uptodate.go). Of a range
// (range.go) only the groups that cover it are fetched. The part file is in package
// transfer/internal/partfile. A target that is the file already is up to date (uptodate.go),
// and nothing is fetched. [Compare] asks for a manifest only, and says in which bytes a local
// file differs.
//
// A directory is fetched in batches of files ([Mirror]): each batch is one aggregate stream, in
// which every file is proved against its own root, and many files are put in place together.
// [List] says what is in a directory.
//
//	listing -> plan -> batch: manifests and trees -> what is here already -> files <- aggregate stream (proved groups) -> sync -> renames
//
// The file system, the socket and the clock come in from outside (disk.Dir, kwik.Config and
// kwik.ClientConfig), so that package transfer/sim runs whole transfers in a simulated world.
// The package reports through [Reporter] and never prints. docs/PROTOCOL.md sections 12 and 13
// are the reference for the messages.
package transfer
