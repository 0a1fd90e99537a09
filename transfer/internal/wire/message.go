package wire

import (
	"bufio"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	ProtocolVersion = 1
	// maxMessage bounds a message of the file protocol, in bytes.
	maxMessage = 64 << 10
	// TreePart is the number of bytes of chaining values in one Tree or RangeProof message at
	// most: whole values, with space for the other fields.
	TreePart = HashSize * 2000
	// HashSize is the length of a chaining value, in bytes.
	HashSize = 32
)

// WriteMessage writes a message with its length before it.
func WriteMessage(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

// AppendMessage appends a message with its length before it.
func AppendMessage(dst []byte, m proto.Message) ([]byte, error) {
	dst = protowire.AppendVarint(dst, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, m)
}

// ReadMessage reads a message. Its length is checked before memory is taken.
func ReadMessage(r *bufio.Reader, m proto.Message) error {
	return protodelim.UnmarshalOptions{MaxSize: maxMessage, UnmarshalOptions: proto.UnmarshalOptions{DiscardUnknown: true}}.UnmarshalFrom(r, m)
}
