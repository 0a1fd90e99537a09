// Package kwikpb holds the messages of the KWIK wire format, generated from the .proto files
// beside it. docs/PROTOCOL.md is the reference for their use.
package kwikpb

//go:generate go run ../../internal/protogen .
