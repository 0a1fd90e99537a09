package transfer

import (
	"bufio"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	protocolVersion = 1
	// maxMessage bounds a message of the file protocol, in bytes.
	maxMessage = 64 << 10
	// treePart is how many bytes of chaining values go into one Tree message: whole ones, with room for the rest.
	treePart = hashSize * 2000
	// hashSize is the length of a chaining value, in bytes.
	hashSize = 32
)

// writeMessage writes a message with its length before it.
func writeMessage(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

// appendMessage appends a message with its length before it.
func appendMessage(dst []byte, m proto.Message) ([]byte, error) {
	dst = protowire.AppendVarint(dst, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, m)
}

// readMessage reads a message. Its length is checked before memory is taken.
func readMessage(r *bufio.Reader, m proto.Message) error {
	return protodelim.UnmarshalOptions{MaxSize: maxMessage, UnmarshalOptions: proto.UnmarshalOptions{DiscardUnknown: true}}.UnmarshalFrom(r, m)
}
