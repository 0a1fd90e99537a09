package kwik

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
)

// A frameVector is an entry of testdata/kwik-frames.json, which describes its fields.
type frameVector struct {
	Name      string
	Stream    string
	Type      string
	Hex       string
	Valid     bool
	Canonical bool
	Message   json.RawMessage
	Meaning   string
	WhyNot    string `json:"why_not"`
}

// messageOf returns an empty message of a frame type.
func messageOf(kind kwikpb.MetadataFrameType) proto.Message {
	return map[kwikpb.MetadataFrameType]proto.Message{
		typeOpen:  &kwikpb.SecondaryStreamOpen{},
		typeData:  &kwikpb.SecondaryStreamData{},
		typeClose: &kwikpb.SecondaryStreamClose{},
		kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST:   &kwikpb.OffsetSyncRequest{},
		kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE:  &kwikpb.OffsetSyncResponse{},
		kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE: &kwikpb.StreamMappingUpdate{},
	}[kind]
}

// A vectorFile is testdata/kwik-frames.json.
type vectorFile struct {
	Context struct {
		SecondaryStreamID uint64 `json:"secondary_stream_id"`
		KWIKStreamID      uint64 `json:"kwik_stream_id,string"`
		Offset            int64
	}
	Frames []frameVector
}

func frameVectors(t testing.TB) (file vectorFile) {
	t.Helper()
	text, err := os.ReadFile("../testdata/kwik-frames.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// The vectors for other implementations agree with this implementation and with plain Protocol
// Buffers.
func TestFrameVectors(t *testing.T) {
	file := frameVectors(t)
	types, names := make(map[string]int), make(map[string]bool)
	for _, v := range file.Frames {
		t.Run(v.Name, func(t *testing.T) {
			if names[v.Name] || (v.Meaning == "") == (v.WhyNot == "") || v.Valid != (v.Meaning != "") {
				t.Error("a vector must have a unique name, and either a meaning or a reason why it has none")
			}
			names[v.Name] = true
			raw := unhex(v.Hex)
			var err error
			var frame *kwikpb.StreamMetadataFrame
			switch v.Stream {
			case "secondary":
				p := &metadataProtocol{r: bytes.NewReader(raw), id: file.Context.SecondaryStreamID}
				_, err = p.next(StreamID(file.Context.KWIKStreamID), file.Context.Offset)
			case "control":
				f := &kwikpb.ControlFrame{}
				if err = readDelimited(bufio.NewReader(bytes.NewReader(raw)), maxControlFrame, f); err == nil {
					err = unmarshalMetadata(f.GetMetadata(), messageOf(f.GetMetadata().GetType()))
				}
			}
			if (err == nil) != v.Valid || (err != nil && !errors.Is(err, ErrMetadataProtocolViolation)) {
				t.Fatalf("valid %v: %v", v.Valid, err)
			}
			if !v.Valid {
				return
			}
			// Plain Protocol Buffers sees the same.
			length, n := protowire.ConsumeVarint(raw)
			if int(length) != len(raw)-n {
				t.Fatalf("length %d of %d bytes", length, len(raw)-n)
			}
			var again []byte
			plain := proto.UnmarshalOptions{DiscardUnknown: true}
			if v.Stream == "control" {
				f := &kwikpb.ControlFrame{}
				if err := plain.Unmarshal(raw[n:], f); err != nil {
					t.Fatal(err)
				}
				frame, again = f.GetMetadata(), delimited(marshal(f))
			} else {
				frame = &kwikpb.StreamMetadataFrame{}
				if err := plain.Unmarshal(raw[n:], frame); err != nil {
					t.Fatal(err)
				}
				again = delimited(marshal(frame))
			}
			got, want := messageOf(frame.GetType()), messageOf(frame.GetType())
			if err := plain.Unmarshal(frame.GetPayload(), got); err != nil {
				t.Fatal(err)
			}
			if err := protojson.Unmarshal(v.Message, want); err != nil {
				t.Fatal(err)
			}
			if same := bytes.Equal(again, raw) && bytes.Equal(marshal(want), frame.GetPayload()); same != v.Canonical {
				t.Errorf("canonical %v, encoded again:\n% x, want\n% x", v.Canonical, again, raw)
			}
			if !proto.Equal(got, want) || frame.GetType().String() != v.Type {
				t.Errorf("%v %v, want %v %v", frame.GetType(), got, v.Type, want)
			}
			types[v.Type]++
		})
	}
	if len(types) != len(kwikpb.MetadataFrameType_name) || len(file.Frames) < 40 {
		t.Errorf("%d vectors of the types %v", len(file.Frames), types)
	}
}
