package kwik

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file holds the rules by which every parser reads the same frame (docs/PROTOCOL.md,
// section 6). KWIK is stricter than Protocol Buffers. It refuses a field that occurs twice, a
// varint that is longer than necessary, and a known field of a wrong wire type. It skips unknown
// fields.

// maxElements bounds the elements of all repeated fields of one message. A decoder takes up to 80
// bytes of memory for an element of 2 bytes.
const maxElements = sched.MaxSegments

func tooManyElements(d protoreflect.MessageDescriptor) error {
	return errorf(ErrMetadataProtocolViolation, "%s with more than %d repeated fields", d.Name(), maxElements)
}

// checkCanonical checks an encoded message and the messages in it. It also refuses what does not
// parse, except text that is not UTF-8: the decoder refuses that.
func checkCanonical(raw []byte, d protoreflect.MessageDescriptor) error {
	var seen uint64 // by field number; a oneof has the number of its first member
	elements := 0   // of all repeated fields
	fields := d.Fields()
	for len(raw) > 0 {
		number, wire, value, n, err := consumeCanonical(raw)
		if err != nil {
			return err
		}
		raw = raw[n:]
		field := fields.ByNumber(number)
		if field == nil {
			continue
		}
		want := wireType(field.Kind())
		if field.IsList() && wire == protowire.BytesType && want == protowire.VarintType { // packed
			for len(value) > 0 {
				_, n, err := consumeVarint(value)
				if err != nil {
					return err
				}
				value = value[n:]
				if elements++; elements > maxElements {
					return tooManyElements(d)
				}
			}
			continue
		}
		if wire != want {
			return errorf(ErrMetadataProtocolViolation, "field %s of wire type %d", field.Name(), wire)
		}
		if wire == protowire.VarintType && !fits(value, field.Kind()) {
			return errorf(ErrMetadataProtocolViolation, "field %s is too large", field.Name())
		}
		if field.IsList() {
			if elements++; elements > maxElements {
				return tooManyElements(d)
			}
		} else {
			bit := uint64(1) << number
			if oneof := field.ContainingOneof(); oneof != nil {
				bit = 1 << oneof.Fields().Get(0).Number()
			}
			if seen&bit != 0 {
				return errorf(ErrMetadataProtocolViolation, "field %s comes twice", field.Name())
			}
			seen |= bit
			if d == frameDescriptor && number == frameFieldType && seen&(1<<frameFieldPayload) != 0 {
				return errorf(ErrMetadataProtocolViolation, "type after payload")
			}
		}
		if field.Kind() == protoreflect.MessageKind {
			if err := checkCanonical(value, field.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmarshalCanonical checks a message and decodes it.
func unmarshalCanonical(raw []byte, m proto.Message) error {
	d := m.ProtoReflect().Descriptor()
	if err := checkCanonical(raw, d); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
		return errorf(ErrMetadataProtocolViolation, "%s does not parse: %w", d.Name(), err)
	}
	return nil
}

var frameDescriptor = (*kwikpb.StreamMetadataFrame)(nil).ProtoReflect().Descriptor()

// consumeCanonical reads the field at the start of raw. value is the varint, the fixed bytes or the
// content. n is the length of the whole field.
func consumeCanonical(raw []byte) (number protowire.Number, wire protowire.Type, value []byte, n int, err error) {
	tag, n, err := consumeVarint(raw)
	if err != nil {
		return 0, 0, nil, 0, err
	}
	if number, wire = protowire.DecodeTag(tag); !number.IsValid() {
		return 0, 0, nil, 0, errorf(ErrMetadataProtocolViolation, "field number %d", tag>>3)
	}
	length := 0
	switch wire {
	case protowire.VarintType:
		if _, length, err = consumeVarint(raw[n:]); err != nil {
			return 0, 0, nil, 0, err
		}
	case protowire.Fixed32Type:
		length = 4
	case protowire.Fixed64Type:
		length = 8
	case protowire.BytesType:
		v, k, err := consumeVarint(raw[n:])
		if err != nil {
			return 0, 0, nil, 0, err
		}
		length = int(min(v, math.MaxInt32)) // a larger length is refused below as well
		n += k
	default:
		return 0, 0, nil, 0, errorf(ErrMetadataProtocolViolation, "field of wire type %d", wire)
	}
	if length > len(raw)-n {
		return 0, 0, nil, 0, errorf(ErrMetadataProtocolViolation, "field of %d bytes in %d bytes", length, len(raw)-n)
	}
	return number, wire, raw[n : n+length], n + length, nil
}

// consumeVarint reads a varint that has no superfluous bytes.
func consumeVarint(raw []byte) (v uint64, n int, err error) {
	if v, n = protowire.ConsumeVarint(raw); n < 0 || n != protowire.SizeVarint(v) {
		return 0, 0, errorf(ErrMetadataProtocolViolation, "varint that is cut off or too long")
	}
	return v, n, nil
}

// fits reports whether a varint is in the range of its field's type. A decoder would truncate it
// otherwise.
func fits(value []byte, kind protoreflect.Kind) bool {
	v, _ := protowire.ConsumeVarint(value)
	switch kind {
	case protoreflect.BoolKind:
		return v <= 1
	case protoreflect.Uint32Kind, protoreflect.EnumKind:
		return v <= math.MaxUint32
	}
	return true
}

// wireType returns the wire type of a kind of field, for the kinds that KWIK's messages have.
func wireType(kind protoreflect.Kind) protowire.Type {
	switch kind {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	}
	return protowire.VarintType
}

// A fieldCheck applies the same rules to a message that is parsed from a stream as it arrives.
type fieldCheck struct {
	wires []protowire.Type // of the known fields, by number; element 0 is unused
	seen  uint32
}

// The known fields of StreamMetadataFrame and SecondaryStreamData.
var (
	frameWires = []protowire.Type{
		-1, protowire.VarintType, protowire.VarintType, protowire.BytesType, protowire.VarintType, protowire.BytesType,
	}
	dataWires = []protowire.Type{
		-1, protowire.VarintType, protowire.VarintType, protowire.VarintType, protowire.BytesType,
		protowire.VarintType, protowire.VarintType, protowire.BytesType,
	}
)

// check returns an error if a field must not occur here, and records it otherwise.
func (c *fieldCheck) check(number protowire.Number, wire protowire.Type) error {
	if int(number) >= len(c.wires) {
		return nil // unknown
	}
	if wire != c.wires[number] {
		return errorf(ErrMetadataProtocolViolation, "field %d of wire type %d", number, wire)
	}
	if c.seen&(1<<number) != 0 {
		return errorf(ErrMetadataProtocolViolation, "field %d comes twice", number)
	}
	c.seen |= 1 << number
	return nil
}
