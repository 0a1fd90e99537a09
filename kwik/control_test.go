package kwik

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

func helloFrame() *kwikpb.ControlFrame {
	return &kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: &kwikpb.Hello{
		Version: 1, SessionId: []byte("0123456789abcdef"), PathId: "s1", Ticket: make([]byte, ticketSize),
	}}}
}

func TestReadDelimited(t *testing.T) {
	raw, err := appendDelimited([]byte("x"), helloFrame())
	if err != nil {
		t.Fatal(err)
	}
	raw = raw[1:]
	size := len(raw) - 1 // of the message: its length takes one byte
	overflow := strings.Repeat("\xff", 9) + "\x02"
	for _, tt := range []struct {
		name  string
		in    string
		limit int
		want  error // nil, io.EOF, io.ErrUnexpectedEOF or a code
	}{
		{"a frame", string(raw), maxControlFrame, nil},
		{"and another after it", string(raw) + "\x05", maxControlFrame, nil},
		{"at the limit", string(raw), size, nil},
		{"a byte over the limit", string(raw), size - 1, ErrMetadataProtocolViolation},
		{"no message is a message", "\x00", 0, nil},
		{"unknown fields", "\x03\x98\x06\x01", 3, nil},
		{"the end between frames", "", maxControlFrame, io.EOF},
		{"the end in the length", "\x80", maxControlFrame, io.ErrUnexpectedEOF},
		{"the end before the message", "\x05", maxControlFrame, io.ErrUnexpectedEOF},
		{"not a message", "\x02\x0a\x05", maxControlFrame, ErrMetadataProtocolViolation},
		{"a length beyond everything", strings.Repeat("\xff", 9) + "\x01", maxControlFrame, ErrMetadataProtocolViolation},
		{"a length of 65 bits", overflow, maxControlFrame, ErrMetadataProtocolViolation},
		{"a length that is longer than it need be", "\x83\x00\x98\x06\x01", 3, ErrMetadataProtocolViolation},
		{"a field twice", "\x06\x0a\x04\x08\x01\x08\x01", maxControlFrame, ErrMetadataProtocolViolation},
		{"a member twice", "\x04\x0a\x00\x0a\x00", maxControlFrame, ErrMetadataProtocolViolation},
		{"two members", "\x04\x0a\x00\x12\x00", maxControlFrame, ErrMetadataProtocolViolation},
		{"a version beyond its type", "\x08\x0a\x06\x08\x80\x80\x80\x80\x10", maxControlFrame, ErrMetadataProtocolViolation},
		{"segments that are longer than they need be", "\x06\x32\x04\x2a\x02\x81\x00", maxControlFrame, ErrMetadataProtocolViolation},
		{"the most segments", segmentsFrame(sched.MaxSegments), maxControlFrame, nil},
		{"one segment more", segmentsFrame(sched.MaxSegments + 1), maxControlFrame, ErrMetadataProtocolViolation},
		{"a ticket more", segmentsFrame(sched.MaxSegments, 0x32, 0), maxControlFrame, ErrMetadataProtocolViolation},
		{"segments, packed and not", "\x08\x32\x06\x2a\x02\x01\x02\x28\x03", maxControlFrame, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f kwikpb.ControlFrame
			r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(tt.in)))
			if err := readDelimited(r, tt.limit, &f); !errors.Is(err, tt.want) || (tt.want == nil && err != nil) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	for n := 1; n < len(raw); n++ {
		if err := readDelimited(bufio.NewReader(bytes.NewReader(raw[:n])), maxControlFrame, &kwikpb.ControlFrame{}); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// A length that is announced but not sent costs little memory.
func TestReadDelimitedTakesMemoryAsBytesArrive(t *testing.T) {
	for name, tt := range map[string]struct {
		length uint64
		come   int
		most   uint64
	}{
		"announced only":     {maxControlFrame, 0, 3 * readStep},
		"a little has come":  {maxControlFrame, readStep / 2, 3 * readStep},
		"two steps":          {maxControlFrame, 2 * readStep, 15 * readStep},
		"beyond the limit":   {maxControlFrame + 1, 0, readStep / 4},
		"far beyond it":      {1 << 62, 0, readStep / 4},
		"a small one itself": {100, 0, readStep / 4},
	} {
		in := append(protowire.AppendVarint(nil, tt.length), make([]byte, tt.come)...)
		r := bufio.NewReader(bytes.NewReader(in))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := readDelimited(r, maxControlFrame, &kwikpb.ControlFrame{})
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > tt.most {
			t.Errorf("%s: took %d bytes, at most %d are right", name, took, tt.most)
		}
	}
}

// segmentsFrame encodes a StreamOffer with n segments of one byte, and more fields after them.
func segmentsFrame(n int, more ...byte) string {
	offer := protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), bytes.Repeat([]byte{1}, n))
	offer = append(offer, more...)
	frame := protowire.AppendBytes(protowire.AppendTag(nil, 6, protowire.BytesType), offer)
	return string(protowire.AppendBytes(nil, frame))
}

func FuzzReadDelimited(f *testing.F) {
	raw, _ := appendDelimited(nil, helloFrame())
	f.Add(raw, 1000)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), 10)
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		limit = max(0, min(limit, maxControlFrame))
		in = append(in, "rest"...)
		r := bufio.NewReader(bytes.NewReader(in))
		var got, want kwikpb.ControlFrame
		err := readDelimited(r, limit, &got)
		left, _ := io.ReadAll(r)
		length, n := protowire.ConsumeVarint(in)
		if n < 0 || length > uint64(limit) || length > uint64(len(in)-n) || proto.Unmarshal(in[n:n+int(length)], &want) != nil {
			if err == nil {
				t.Fatal("accepted")
			}
			return
		}
		if errors.Is(err, ErrMetadataProtocolViolation) { // not canonical, then, so that an encoder writes it in another way
			want.Reset()
			proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(in[n:n+int(length)], &want)
			isLong := strings.Contains(err.Error(), "repeated fields")
			if again, _ := appendDelimited(nil, &want); !isLong && bytes.Equal(again, in[:n+int(length)]) {
				t.Fatalf("refused what an encoder writes: %v", err)
			}
			return
		}
		if err != nil || len(left) != len(in)-n-int(length) {
			t.Fatalf("error %v, %d bytes are left", err, len(left))
		}
		want.Reset()
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(in[n:n+int(length)], &want); err != nil || !proto.Equal(&got, &want) {
			t.Fatalf("%v, want %v", &got, &want)
		}
	})
}
