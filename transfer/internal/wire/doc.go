// Package wire holds the messages of the file protocol as they travel, and the rules and limits of paths and batches, which
// clients and servers share. docs/PROTOCOL.md sections 12 and 13 are the reference.
package wire
