package wire

import (
	"bufio"
	"encoding/binary"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// ProtocolVersion is the version of the file protocol, which each Request has.
	ProtocolVersion = 1
	// maxMessage bounds a message of the file protocol, in bytes.
	maxMessage = 64 << 10
	// TreePart bounds the chaining values in one Tree or RangeProof message, in bytes. It is a
	// whole number of them.
	TreePart = HashSize * 2000
	// HashSize is the length of a chaining value, in bytes.
	HashSize = 32
)

// WriteMessage writes the length of a message and the message.
func WriteMessage(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

// AppendMessage appends the length of a message and the message to dst.
func AppendMessage(dst []byte, m proto.Message) ([]byte, error) {
	dst = protowire.AppendVarint(dst, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, m)
}

// ReadCharged is ReadMessage, except that it calls charge with the memory that the message takes
// before it allocates any, in bytes. It returns charge's error.
func ReadCharged(r *bufio.Reader, m proto.Message, charge func(bytes int64) error) error {
	length, err := binary.ReadUvarint(r)
	switch {
	case err != nil:
		return err
	case length > maxMessage:
		return &protodelim.SizeTooLargeError{Size: length, MaxSize: maxMessage}
	}
	if err := charge(2 * int64(length)); err != nil { // the bytes and what is made of them
		return err
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(r, raw); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, m)
}

// ReadMessage reads a message of at most 64 KiB. It checks the length before it allocates memory,
// and ignores unknown fields. At the end of the stream the error is io.EOF.
func ReadMessage(r *bufio.Reader, m proto.Message) error {
	return protodelim.UnmarshalOptions{
		MaxSize:          maxMessage,
		UnmarshalOptions: proto.UnmarshalOptions{DiscardUnknown: true},
	}.UnmarshalFrom(r, m)
}
