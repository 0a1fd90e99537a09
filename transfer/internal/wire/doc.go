// Package wire encodes and decodes the messages of the file protocol, and holds the rules and limits that clients and
// servers share: of paths, of batches and of time. docs/PROTOCOL.md sections 12 and 13 are the reference.
package wire
