// Package serve is the server's side of the file protocol, for primaries and secondaries alike.
//
// A [Server] serves the regular files below a directory. It responds to requests for files, batches of files and
// listings, and opens the content of aggregate streams. It hashes a file when a client requests it, and keeps the tree
// in memory. A [TreeStore] keeps trees across restarts, so that files are not hashed again.
//
// A server of either role is assembled from three parts:
//
//   - disk.OpenDir or disk.OpenTree opens the directory. Only a tree can be listed and mirrored.
//   - [NewServer] returns the server of the directory.
//   - kwik.Listen returns the listener that [Server.Serve] serves. Its configuration gets [Server.OpenContent], and for
//     a primary [Server.Verify].
//
// docs/PROTOCOL.md sections 12 and 13 are the reference for the messages.
package serve
