// Package wire encodes and decodes the messages of the file protocol. It holds the rules and
// limits of paths, batches and times that clients and servers share. docs/PROTOCOL.md sections 12
// and 13 are the reference.
package wire
