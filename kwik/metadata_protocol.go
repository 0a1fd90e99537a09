package kwik

import (
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
)

const (
	// maxMetadataFrame bounds every StreamMetadataFrame but a DATA frame, in bytes.
	maxMetadataFrame = 4 << 10
	// maxDataPayload bounds the payload of a DATA frame, in bytes.
	maxDataPayload = 1 << 20
	// maxDataOverhead bounds the bytes of a DATA frame besides its payload.
	maxDataOverhead = 64
)

// Field numbers that the hot path writes and reads by hand (kwik/proto).
const (
	frameFieldType    = 2 // StreamMetadataFrame.type
	frameFieldPayload = 3 // StreamMetadataFrame.payload
	dataFieldStreamID = 1 // SecondaryStreamData.secondary_stream_id
	dataFieldKwikID   = 2 // SecondaryStreamData.kwik_stream_id
	dataFieldOffset   = 3 // SecondaryStreamData.offset
	dataFieldData     = 4 // SecondaryStreamData.data
)

// appendDataHeader appends the bytes that precede n bytes of payload in a DATA frame. The payload
// follows on the stream. It is never copied into a message.
func appendDataHeader(dst []byte, n int) []byte {
	message := 1 + protowire.SizeBytes(n)         // SecondaryStreamData{data}
	frame := 2 + 1 + protowire.SizeBytes(message) // StreamMetadataFrame{type, payload}
	dst = protowire.AppendVarint(dst, uint64(frame))
	dst = protowire.AppendTag(dst, frameFieldType, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA))
	dst = protowire.AppendTag(dst, frameFieldPayload, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(message))
	dst = protowire.AppendTag(dst, dataFieldData, protowire.BytesType)
	return protowire.AppendVarint(dst, uint64(n))
}

// appendMetadataFrame appends a whole frame other than DATA, preceded by its length.
func appendMetadataFrame(dst []byte, kind kwikpb.MetadataFrameType, message proto.Message) ([]byte, error) {
	frame, err := wrapMetadata(kind, message)
	if err != nil {
		return dst, err
	}
	raw, err := proto.Marshal(frame)
	if err != nil {
		return dst, err
	}
	if len(raw) > maxMetadataFrame {
		return dst, errorf(ErrMetadataProtocolViolation, "%v frame of %d bytes", kind, len(raw))
	}
	dst = protowire.AppendVarint(dst, uint64(len(raw)))
	return append(dst, raw...), nil
}

// wrapMetadata returns the frame of a message, for control streams and for appendMetadataFrame.
func wrapMetadata(kind kwikpb.MetadataFrameType, message proto.Message) (*kwikpb.StreamMetadataFrame, error) {
	payload, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	return &kwikpb.StreamMetadataFrame{Type: kind, Payload: payload}, nil
}

// A streamFrame is a frame of a secondary stream. Either open or close is set, or dataLen is
// positive and as many bytes of payload follow on the stream.
type streamFrame struct {
	open    *kwikpb.SecondaryStreamOpen
	close   *kwikpb.SecondaryStreamClose
	dataLen int
}

// A metadataProtocol parses and validates the frames of one secondary stream. It reads no byte
// beyond the frame, and of a DATA frame no byte beyond its header. The caller reads the payload
// straight into its place.
//
// Errors of the stream are returned as they are, io.EOF only between frames. A violation of
// docs/PROTOCOL.md, section 6, is an [*Error] with code ErrMetadataProtocolViolation.
type metadataProtocol struct {
	r  io.Reader
	id uint64 // the secondary stream's QUIC stream id
	// length is the length of the current frame, and left the part that was not read yet, in
	// bytes.
	length, left uint64

	one  [1]byte
	meta []byte // a whole frame other than DATA, at most maxMetadataFrame bytes; reused
}

// next reads the next frame. If a DATA frame has the redundant fields for stream and offset, they
// must equal kwikID and offset.
func (p *metadataProtocol) next(kwikID StreamID, offset int64) (streamFrame, error) {
	p.left = 10 // for the length itself
	length, err := p.varint()
	if err != nil {
		return streamFrame{}, err // io.EOF between frames is the caller's to judge
	}
	if length == 0 || length > maxDataPayload+maxDataOverhead {
		return streamFrame{}, errorf(ErrMetadataProtocolViolation, "frame of %d bytes", length)
	}
	p.length, p.left = length, length
	f, err := p.frame(kwikID, offset)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// frame reads the fields of a frame up to its payload.
func (p *metadataProtocol) frame(kwikID StreamID, offset int64) (streamFrame, error) {
	kind := kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN // proto3 leaves the zero value out
	fields := fieldCheck{wires: frameWires}
	for p.left > 0 {
		number, wire, err := p.tag(&fields)
		if err != nil {
			return streamFrame{}, err
		}
		switch number {
		case frameFieldType:
			v, err := p.varint()
			if err != nil {
				return streamFrame{}, err
			}
			if v > uint64(kwikpb.MetadataFrameType_SECONDARY_STREAM_CLOSE) {
				return streamFrame{}, errorf(ErrMetadataProtocolViolation, "frame type %d on a secondary stream", v)
			}
			kind = kwikpb.MetadataFrameType(v)
		case frameFieldPayload:
			n, err := p.varint()
			if err != nil {
				return streamFrame{}, err
			}
			if n > p.left {
				return streamFrame{}, errorf(ErrMetadataProtocolViolation,
					"payload of %d bytes in %d bytes of frame", n, p.left)
			}
			if kind == kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA {
				if n != p.left {
					return streamFrame{}, errorf(ErrMetadataProtocolViolation, "payload does not end its DATA frame")
				}
				return p.data(kwikID, offset)
			}
			return p.message(kind, n, &fields)
		default:
			if err := p.skip(wire); err != nil {
				return streamFrame{}, err
			}
		}
	}
	return p.message(kind, 0, &fields) // an empty message is left out altogether
}

// data reads the header of a SecondaryStreamData that fills the rest of the frame.
func (p *metadataProtocol) data(kwikID StreamID, offset int64) (streamFrame, error) {
	fields := fieldCheck{wires: dataWires}
	for p.left > 0 {
		number, wire, err := p.tag(&fields)
		if err != nil {
			return streamFrame{}, err
		}
		switch number {
		case dataFieldData:
			n, err := p.varint()
			if err != nil {
				return streamFrame{}, err
			}
			if n != p.left || n == 0 || n > maxDataPayload || p.length-n > maxDataOverhead {
				return streamFrame{}, errorf(ErrMetadataProtocolViolation,
					"data of %d bytes in %d bytes of frame", n, p.left)
			}
			return streamFrame{dataLen: int(n)}, nil
		case dataFieldStreamID, dataFieldKwikID, dataFieldOffset:
			want := p.id
			switch number {
			case dataFieldKwikID:
				want = uint64(kwikID)
			case dataFieldOffset:
				want = uint64(offset)
			}
			v, err := p.varint()
			if err != nil {
				return streamFrame{}, err
			}
			if v != want {
				return streamFrame{}, errorf(ErrMetadataProtocolViolation, "DATA says %d where %d is due", v, want)
			}
		default:
			if err := p.skip(wire); err != nil {
				return streamFrame{}, err
			}
		}
	}
	return streamFrame{}, errorf(ErrMetadataProtocolViolation, "DATA frame without data")
}

// message reads an OPEN or CLOSE message of n bytes and the fields that follow it in the frame.
// fields are those before it.
func (p *metadataProtocol) message(kind kwikpb.MetadataFrameType, n uint64, fields *fieldCheck) (streamFrame, error) {
	if p.length > maxMetadataFrame {
		return streamFrame{}, errorf(ErrMetadataProtocolViolation, "%v frame of %d bytes", kind, p.length)
	}
	if cap(p.meta) == 0 {
		p.meta = make([]byte, maxMetadataFrame)
	}
	raw := p.meta[:p.left]
	if _, err := io.ReadFull(p.r, raw); err != nil {
		return streamFrame{}, err
	}
	p.left = 0
	for rest := raw[n:]; len(rest) > 0; { // fields after the payload: skipped, but they must be fields
		number, wire, _, total, err := consumeCanonical(rest)
		if err == nil {
			err = fields.check(number, wire)
		}
		if err != nil {
			return streamFrame{}, err
		}
		if number == frameFieldType {
			return streamFrame{}, errorf(ErrMetadataProtocolViolation, "type after payload")
		}
		rest = rest[total:]
	}
	var (
		f       streamFrame
		message proto.Message
	)
	switch kind {
	case kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN:
		f.open = &kwikpb.SecondaryStreamOpen{}
		message = f.open
	case kwikpb.MetadataFrameType_SECONDARY_STREAM_CLOSE:
		f.close = &kwikpb.SecondaryStreamClose{}
		message = f.close
	default:
		return streamFrame{}, errorf(ErrMetadataProtocolViolation, "%v frame without data", kind)
	}
	if err := unmarshalCanonical(raw[:n], message); err != nil {
		return streamFrame{}, err
	}
	return f, nil
}

// unmarshalMetadata decodes the message of a frame of a control stream.
func unmarshalMetadata(m *kwikpb.StreamMetadataFrame, message proto.Message) error {
	if len(m.GetPayload()) > maxMetadataFrame {
		return errorf(ErrMetadataProtocolViolation, "%v of %d bytes", m.GetType(), len(m.GetPayload()))
	}
	return unmarshalCanonical(m.GetPayload(), message)
}

// skip skips an unknown field, which must be small: it is read byte by byte.
func (p *metadataProtocol) skip(wire protowire.Type) error {
	n := uint64(0)
	switch wire {
	case protowire.VarintType:
		_, err := p.varint()
		return err
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.BytesType:
		var err error
		if n, err = p.varint(); err != nil {
			return err
		}
	default:
		return errorf(ErrMetadataProtocolViolation, "field of wire type %d", wire)
	}
	if n > p.left || n > maxMetadataFrame {
		return errorf(ErrMetadataProtocolViolation, "field of %d bytes in %d bytes of frame", n, p.left)
	}
	for range n {
		if _, err := p.ReadByte(); err != nil {
			return err
		}
	}
	return nil
}

// tag reads and checks a field's tag.
func (p *metadataProtocol) tag(fields *fieldCheck) (protowire.Number, protowire.Type, error) {
	v, err := p.varint()
	if err != nil {
		return 0, 0, err
	}
	number, wire := protowire.DecodeTag(v)
	if !number.IsValid() {
		return 0, 0, errorf(ErrMetadataProtocolViolation, "field number %d", v>>3)
	}
	return number, wire, fields.check(number, wire)
}

// varint reads a varint byte by byte, so as not to read past it.
func (p *metadataProtocol) varint() (uint64, error) { return readVarint(p) }

// ReadByte reads a byte of the current frame.
func (p *metadataProtocol) ReadByte() (byte, error) {
	if p.left == 0 {
		return 0, errorf(ErrMetadataProtocolViolation, "field passes the end of its frame")
	}
	if _, err := io.ReadFull(p.r, p.one[:]); err != nil {
		return 0, err
	}
	p.left--
	return p.one[0], nil
}
