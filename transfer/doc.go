// Package transfer fetches files and directories over KWIK. It is the client's side; package
// serve is the server's.
//
// [Get] fetches a file and [Mirror] a directory. [List] reads the entries of a directory. [Compare]
// finds the bytes in which a local file differs from a server's. A [Pool] shares sessions between
// transfers.
//
// # A file
//
// The client sends the primary a request for a path. The primary answers with a manifest (size,
// BLAKE3 root, number of the aggregate stream) and the tree (the chaining values of the chunk
// groups). The client verifies the tree against the root and looks for verified bytes of an
// earlier transfer. Then it copies the missing bytes of the aggregate stream, to which every
// server contributes, into a part file beside the target. Each chunk group is verified before it
// is written. A complete part file is synced and renamed. After an error the part file stays, and
// the next transfer resumes from it.
//
//	request -> manifest, tree -> verified tree -> part file <- aggregate stream (verified groups) -> sync, rename
//	                                                 '-> groups of an earlier transfer, verified again
//
// Matching groups of other local files are copied (GetOptions.Reuse, GetOptions.Seed). For a byte
// range only its chunk groups are fetched, with the few values that prove them. If the target is
// identical already, nothing is fetched.
//
// # A directory
//
// A mirror follows the listing of a directory and fetches files in batches. A batch is one
// aggregate stream. Each file in it is verified against its own root, and many files are put in
// place together.
//
//	listing -> plan -> batch: manifests, trees -> local bytes -> files <- aggregate stream (verified groups) -> sync, renames
//
// # Environment
//
// The caller provides the file system ([disk.Dir], [disk.TreeDir]), the socket and the clock
// ([kwik.ClientConfig]), so that package sim runs whole transfers in a simulated world. There is
// one exception: a byte range that goes to GetOptions.Output is first written to a directory in
// [os.TempDir].
//
// The package reports through [Reporter] and never prints. A nil Reporter is valid. Errors are of
// type [*Error], [*TimeLimitError], or the cause of the context. The messages are specified in
// docs/PROTOCOL.md, sections 12 and 13.
package transfer
