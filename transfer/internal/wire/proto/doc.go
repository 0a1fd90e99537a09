// Package transferpb holds the messages of kwikcp's file protocol, generated from transfer.proto.
// docs/PROTOCOL.md is the reference for their use.
package transferpb

//go:generate go run ../../../../internal/protogen .
