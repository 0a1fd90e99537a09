// Package serve is the server's side of the file protocol, in both roles alike.
//
// A [Server] answers requests for files, batches and listings, keeps the trees of the files that it has hashed ([TreeStore]
// keeps them across restarts), and opens the content of aggregate streams.
//
// docs/PROTOCOL.md sections 12 and 13 are the reference for the messages.
package serve
