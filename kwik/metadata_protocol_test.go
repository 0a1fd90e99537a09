package kwik

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
)

const (
	typeOpen  = kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN
	typeData  = kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA
	typeClose = kwikpb.MetadataFrameType_SECONDARY_STREAM_CLOSE
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// The bytes of docs/PROTOCOL.md section 6.
func TestDataHeaderVectors(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{1, "07 10 01 1a 03 22 01"},
		{125, "8301 10 01 1a 7f 22 7d"}, // the longest with lengths of one byte
		{126, "8501 10 01 1a 8001 22 7e"},
		{65536, "8a 80 04  10 01  1a 84 80 04  22 80 80 04"},
		{maxDataPayload, "8a 80 40  10 01  1a 84 80 40  22 80 80 40"},
	} {
		if got := appendDataHeader(nil, tt.n); !bytes.Equal(got, unhex(tt.want)) {
			t.Errorf("header of %d bytes: % x, want %s", tt.n, got, tt.want)
		}
	}
	open, err := appendMetadataFrame([]byte{0xff}, typeOpen, &kwikpb.SecondaryStreamOpen{
		TargetKwikStreamId: uint64(firstAggregateStreamID), InitialOffset: 65536, GrantId: 3,
	})
	want := unhex("ff  12  1a 10  10 808080808080808040  18 808004  30 03")
	if err != nil || !bytes.Equal(open, want) {
		t.Errorf("OPEN % x, %v, want % x", open, err, want)
	}
	end, err := appendMetadataFrame(nil, typeClose, &kwikpb.SecondaryStreamClose{FinalOffset: 1})
	if want := unhex("06  10 02  1a 02  20 01"); err != nil || !bytes.Equal(end, want) {
		t.Errorf("CLOSE % x, %v, want % x", end, err, want)
	}
}

// Any Protocol Buffers parser reads the frames that the fast path writes, and the fast path
// reads those of any encoder.
func TestDataFramesArePlainProtobuf(t *testing.T) {
	for _, n := range []int{1, 2, 125, 126, 127, 128, 16381, 16384, 65535, 65536, 65537, maxDataPayload - 1, maxDataPayload} {
		payload := randomBytes(byte(n), n)
		raw := append(appendDataHeader(nil, n), payload...)
		length, k := protowire.ConsumeVarint(raw)
		if k < 0 || int(length) != len(raw)-k {
			t.Fatalf("%d bytes: length %d of %d", n, length, len(raw)-k)
		}
		if overhead := int(length) - n; overhead > maxDataOverhead {
			t.Errorf("%d bytes: overhead %d", n, overhead)
		}
		var frame kwikpb.StreamMetadataFrame
		var data kwikpb.SecondaryStreamData
		if err := proto.Unmarshal(raw[k:], &frame); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(frame.GetPayload(), &data); err != nil {
			t.Fatal(err)
		}
		if frame.GetType() != typeData || !bytes.Equal(data.GetData(), payload) {
			t.Errorf("%d bytes: plain protobuf parses something else", n)
		}
		frame.Reset()
		frame.Type, frame.Payload = typeData, marshal(&kwikpb.SecondaryStreamData{KwikStreamId: 5, Offset: 7, Data: payload})
		raw = delimited(marshal(&frame))
		if f, err := (&metadataProtocol{r: bytes.NewReader(raw)}).next(5, 7); err != nil || f.dataLen != n {
			t.Errorf("%d bytes with the redundant fields: %+v, %v", n, f, err)
		}
	}
}

func marshal(m proto.Message) []byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return raw
}

func delimited(frame []byte) []byte {
	return append(protowire.AppendVarint(nil, uint64(len(frame))), frame...)
}

// field appends a field of bytes.
func field(number protowire.Number, value string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value))
}

// number appends a field of a varint.
func number(n protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v))
}

const isData = "\x10\x01"

// Every rule of docs/PROTOCOL.md section 6, kept and broken. Frames are given without their length.
func TestMetadataProtocol(t *testing.T) {
	openMessage := string(marshal(&kwikpb.SecondaryStreamOpen{TargetKwikStreamId: 1 << 62, GrantId: 9}))
	closeMessage := string(marshal(&kwikpb.SecondaryStreamClose{FinalOffset: 9}))
	long := strings.Repeat("x", maxMetadataFrame)
	for _, tt := range []struct {
		name  string
		frame string
		want  string // "open", "close", "data n" or "violation"
	}{
		{"open", field(3, openMessage), "open"},
		{"open with its type", number(2, 0) + field(3, openMessage), "open"},
		{"an empty open", number(1, 1), "open"},
		{"close", number(2, 2) + field(3, closeMessage), "close"},
		{"an empty close", number(2, 2), "close"},
		{"unknown fields around open", field(99, "x") + field(3, openMessage) + number(98, 1), "open"},
		{"unknown fields in open", field(3, openMessage+field(99, "x")), "open"},
		{"fields of every wire type are skipped", number(1, 300) + "\x49xxxxxxxx" + field(5, "p") + "\x35xxxx" + isData + field(3, field(4, "abc")), "data 3"},
		{"unknown fields may come twice", number(6, 1) + isData + number(6, 1) + field(3, field(4, "abc")), "data 3"},
		{"every known field once", number(4, 1) + number(1, 1) + field(5, "p") + isData + field(3, number(6, 1)+field(7, "p")+number(5, 1)+field(4, "abc")), "data 3"},
		{"fields around open", number(1, 1) + field(3, openMessage) + number(4, 1) + field(5, "p"), "open"},
		{"data", isData + field(3, field(4, "abc")), "data 3"},
		{"data with ids that are right", isData + field(3, number(1, 3)+number(2, 77)+number(3, 1000)+field(4, "abc")), "data 3"},
		{"unknown fields before the data", isData + field(3, field(99, "x")+field(4, "abc")), "data 3"},
		{"one byte", isData + field(3, field(4, "a")), "data 1"},
		{"the longest data", isData + field(3, field(4, strings.Repeat("a", maxDataPayload))), "data 1048576"},
		{"an OPEN of the longest frame", field(5, long[:maxMetadataFrame-3-2-len(openMessage)]) + field(3, openMessage), "open"},

		{"no frame", "", "violation"},
		{"type after the payload of open", field(3, openMessage) + number(2, 0), "violation"},
		{"two types", number(2, 2) + isData + field(3, field(4, "abc")), "violation"},
		{"two types of open", number(2, 0) + number(2, 0) + field(3, openMessage), "violation"},
		{"a field before and after open", number(1, 1) + field(3, openMessage) + number(1, 1), "violation"},
		{"two frame ids", number(1, 1) + number(1, 1) + isData + field(3, field(4, "abc")), "violation"},
		{"two offsets", isData + field(3, number(3, 1000)+number(3, 1000)+field(4, "abc")), "violation"},
		{"two targets in open", field(3, openMessage+openMessage), "violation"},
		{"a type of another wire type", "\x15xxxx" + field(3, openMessage), "violation"},
		{"a timestamp of another wire type", "\x21xxxxxxxx" + field(3, openMessage), "violation"},
		{"a grant of another wire type in open", field(3, field(6, "x")), "violation"},
		{"a tag that is longer than need be", "\x90\x00\x01" + field(3, field(4, "abc")), "violation"},
		{"a number that is longer than need be", "\x10\x81\x00" + field(3, field(4, "abc")), "violation"},
		{"a number that is longer than need be in open", field(3, "\x10\x81\x00"), "violation"},
		{"a length that is longer than need be", isData + "\x1a\x86\x00\x22\x03abc", "violation"},
		{"an unknown number that is longer than need be", "\x30\x81\x00" + field(3, openMessage), "violation"},
		{"an unknown number that is longer than need be after open", field(3, openMessage) + "\x30\x81\x00", "violation"},
		{"a group in open", field(3, "\x7b\x7c"), "violation"},
		{"two payloads", field(3, openMessage) + field(3, openMessage), "violation"},
		{"a type of control streams", number(2, 3) + field(3, openMessage), "violation"},
		{"an unknown type", number(2, 1<<32), "violation"},
		{"a field after the payload of data", isData + field(3, field(4, "abc")) + number(4, 1), "violation"},
		{"a field after the data", isData + field(3, field(4, "abc")+number(6, 1)), "violation"},
		{"data without payload", isData, "violation"},
		{"data without data", isData + field(3, number(2, 77)), "violation"},
		{"no bytes of data", isData + field(3, field(4, "")), "violation"},
		{"a wrong secondary stream", isData + field(3, number(1, 4)+field(4, "abc")), "violation"},
		{"a byte of data in a long frame", isData + field(3, field(5, strings.Repeat("a", 64))+field(4, "a")), "violation"},
		{"a wrong stream", isData + field(3, number(2, 78)+field(4, "abc")), "violation"},
		{"a wrong offset", isData + field(3, number(3, 1001)+field(4, "abc")), "violation"},
		{"an offset of another wire type", isData + field(3, field(3, "x")+field(4, "abc")), "violation"},
		{"a byte too much data", isData + field(3, field(4, strings.Repeat("a", maxDataPayload+1))), "violation"},
		{"an OPEN a byte too long", field(5, long[:maxMetadataFrame-3-1-len(openMessage)]) + field(3, openMessage), "violation"},
		{"an OPEN too long in small fields", strings.Repeat(field(5, long[:1000]), 5) + field(3, openMessage), "violation"},
		{"a payload longer than its frame", "\x1a\x05abcd", "violation"},
		{"a data payload longer than its frame", isData + "\x1a\x05abcd", "violation"},
		{"data longer than its payload", isData + field(3, "\x22\x05abcd"), "violation"},
		{"data shorter than its payload", isData + field(3, "\x22\x03abcd"), "violation"},
		{"a field that passes the frame", "\x2a\x05abcd", "violation"},
		{"a number that passes the frame", "\x08\x80", "violation"},
		{"field number 0", "\x00\x00", "violation"},
		{"field number 2^29", number(1<<29, 0), "violation"},
		{"a group", "\x0b\x0c", "violation"},
		{"wire type 7", "\x0f", "violation"},
		{"a varint of 65 bits", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "violation"},
		{"an open that does not parse", field(3, "\x0a"), "violation"},
		{"field number 2^29 after open", field(3, openMessage) + number(1<<29, 0), "violation"},
		{"fields after open that do not parse", field(3, openMessage) + "\x0a", "violation"},
		{"text that is not UTF-8", field(3, field(4, "\xff")), "violation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := bytes.NewReader(append(delimited([]byte(tt.frame)), "next"...))
			p := &metadataProtocol{r: r, id: 3}
			f, err := p.next(77, 1000)
			got := describe(f)
			if err != nil {
				if got = "violation"; !errors.Is(err, ErrMetadataProtocolViolation) {
					got = err.Error()
				}
			}
			if got != tt.want {
				t.Fatalf("%s (%v), want %s", got, err, tt.want)
			}
			if err == nil && r.Len() != f.dataLen+len("next") {
				t.Errorf("%d bytes are left, %d of payload", r.Len(), f.dataLen)
			}
		})
	}
	for _, length := range []uint64{0, maxDataPayload + maxDataOverhead + 1, 1 << 40, 1<<64 - 1} {
		_, err := (&metadataProtocol{r: bytes.NewReader(protowire.AppendVarint(nil, length))}).next(0, 0)
		if !errors.Is(err, ErrMetadataProtocolViolation) {
			t.Errorf("frame of %d bytes: %v", length, err)
		}
	}
}

func describe(f streamFrame) string {
	switch {
	case f.open != nil:
		return "open"
	case f.close != nil:
		return "close"
	}
	return fmt.Sprintf("data %d", f.dataLen)
}

// A stream that ends inside a frame was interrupted. This is not its regular end, and no
// violation.
func TestMetadataProtocolTruncation(t *testing.T) {
	open, _ := appendMetadataFrame(nil, typeOpen, &kwikpb.SecondaryStreamOpen{TargetKwikStreamId: 1 << 62, InitialOffset: 300, GrantId: 9})
	for name, raw := range map[string][]byte{"open": open, "data": appendDataHeader(nil, 65536)} {
		for n := range raw {
			_, err := (&metadataProtocol{r: bytes.NewReader(raw[:n])}).next(0, 0)
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if err != want {
				t.Errorf("%s cut at %d of %d: %v, want %v", name, n, len(raw), err, want)
			}
		}
		if _, err := (&metadataProtocol{r: bytes.NewReader(raw)}).next(0, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	for n := range open {
		r := io.MultiReader(bytes.NewReader(open[:n]), errorReader{broken})
		if _, err := (&metadataProtocol{r: r}).next(0, 0); err != broken {
			t.Errorf("an error of the stream after %d bytes: %v", n, err)
		}
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestAppendMetadataFrameLimit(t *testing.T) {
	for n, fits := range map[int]bool{maxMetadataFrame - 9: true, maxMetadataFrame - 8: true, maxMetadataFrame - 7: false} {
		raw, err := appendMetadataFrame(nil, typeClose, &kwikpb.SecondaryStreamClose{Reason: strings.Repeat("x", n)})
		if (err == nil) != fits {
			t.Errorf("reason of %d bytes: frame of %d, %v", n, len(raw), err)
		}
	}
	if _, err := appendMetadataFrame(nil, typeClose, &kwikpb.SecondaryStreamClose{Reason: "\xff"}); err == nil {
		t.Error("text that is not UTF-8 was encoded")
	}
}

func TestMetadataProtocolAllocations(t *testing.T) {
	raw := appendDataHeader(nil, 65536)
	r := bytes.NewReader(nil)
	p := &metadataProtocol{r: r}
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(raw)
		if f, err := p.next(1, 2); err != nil || f.dataLen != 65536 {
			t.Fatal(f, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a DATA frame read", n)
	}
	var buf [blockHeadroom]byte
	if n := testing.AllocsPerRun(100, func() { appendDataHeader(buf[:0], 65536) }); n != 0 {
		t.Errorf("%v allocations a DATA frame written", n)
	}
}

// For any input the parser does not panic, does not read past a frame, and takes no more
// memory than one small frame. Protocol Buffers parses every accepted frame to the same
// result.
func FuzzMetadataProtocol(f *testing.F) {
	f.Add(append(appendDataHeader(nil, 3), "abc"...))
	for _, v := range frameVectors(f).Frames {
		f.Add(unhex(v.Hex))
	}
	f.Add(delimited([]byte(field(3, number(2, 1<<62)+number(6, 1)))))
	f.Add(delimited([]byte(number(2, 2) + field(3, number(4, 9)))))
	f.Add(delimited([]byte(number(1, 7) + isData + field(3, number(2, 77)+number(3, 1000)+field(4, "abc")))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		p := &metadataProtocol{r: r}
		got, err := p.next(77, 1000)
		if cap(p.meta) > maxMetadataFrame {
			t.Fatalf("took %d bytes", cap(p.meta))
		}
		length, n := protowire.ConsumeVarint(raw)
		if err == nil && n != protowire.SizeVarint(length) {
			t.Fatal("accepted a length that is longer than it need be")
		}
		if n > 0 && length <= uint64(len(raw)-n) && len(raw)-r.Len() > n+int(length) {
			t.Fatalf("read %d bytes of a frame of %d", len(raw)-r.Len(), n+int(length))
		}
		if err != nil {
			if n > 0 && length <= uint64(len(raw)-n) && encoded(raw[:n+int(length)]) {
				t.Fatalf("refused what an encoder writes: %v", err)
			}
			return
		}
		if got.dataLen > 0 && r.Len() < got.dataLen {
			return // truncated payload: the caller's to find
		}
		if err := checkTwice(raw[n:n+int(length)], got); err != nil {
			t.Fatal(err)
		}
		var frame kwikpb.StreamMetadataFrame
		if err := proto.Unmarshal(raw[n:n+int(length)], &frame); err != nil {
			if strings.Contains(err.Error(), "UTF-8") {
				return // source_path_id, which is skipped
			}
			t.Fatalf("accepted what protobuf does not parse: %v", err)
		}
		var want string
		switch frame.GetType() {
		case typeOpen:
			var m kwikpb.SecondaryStreamOpen
			if want = "open"; proto.Unmarshal(frame.GetPayload(), &m) != nil || m.GetGrantId() != got.open.GetGrantId() || m.GetInitialOffset() != got.open.GetInitialOffset() {
				t.Fatalf("another OPEN: %v, %v", &m, got.open)
			}
		case typeClose:
			var m kwikpb.SecondaryStreamClose
			if want = "close"; proto.Unmarshal(frame.GetPayload(), &m) != nil || m.GetFinalOffset() != got.close.GetFinalOffset() {
				t.Fatalf("another CLOSE: %v, %v", &m, got.close)
			}
		case typeData:
			var m kwikpb.SecondaryStreamData
			if err := proto.Unmarshal(frame.GetPayload(), &m); err != nil && !strings.Contains(err.Error(), "UTF-8") {
				t.Fatalf("another DATA: %v", err)
			} else if err == nil && !bytes.HasSuffix(raw[:n+int(length)], m.GetData()) {
				t.Fatal("the payload is not where the frame ends")
			}
			want = fmt.Sprintf("data %d", got.dataLen)
		}
		if describe(got) != want {
			t.Fatalf("%s, protobuf says %s", describe(got), want)
		}
	})
}

// encoded reports whether a frame, with its length, is one that a plain encoder writes. It is
// an OPEN, a CLOSE, or a DATA with the right IDs.
func encoded(raw []byte) bool {
	length, n := protowire.ConsumeVarint(raw)
	var frame kwikpb.StreamMetadataFrame
	if length > maxMetadataFrame || proto.Unmarshal(raw[n:], &frame) != nil {
		return false
	}
	var m proto.Message
	switch frame.GetType() {
	case typeOpen:
		m = &kwikpb.SecondaryStreamOpen{}
	case typeClose:
		m = &kwikpb.SecondaryStreamClose{}
	case typeData:
		m = &kwikpb.SecondaryStreamData{}
	default:
		return false
	}
	if proto.Unmarshal(frame.GetPayload(), m) != nil || !bytes.Equal(marshal(m), frame.GetPayload()) || !bytes.Equal(delimited(marshal(&frame)), raw) {
		return false
	}
	if frame.GetType() == typeOpen || frame.GetType() == typeClose {
		return length > 0 && !hasUnknown(&frame) && !hasUnknown(m)
	}
	data := m.(*kwikpb.SecondaryStreamData)
	inPlace := !data.GetFin() && data.GetTimestamp() == 0 && data.GetSourcePathId() == "" && frame.GetTimestamp() == 0 && frame.GetSourcePathId() == ""
	rightIDs := data.GetSecondaryStreamId() == 0 && (data.GetKwikStreamId() == 0 || data.GetKwikStreamId() == 77) && (data.GetOffset() == 0 || data.GetOffset() == 1000)
	return inPlace && rightIDs && len(data.GetData()) > 0 && length-uint64(len(data.GetData())) <= maxDataOverhead && !hasUnknown(&frame) && !hasUnknown(data)
}

func hasUnknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

// checkTwice returns an error if an accepted frame or its message has a known field twice.
func checkTwice(frame []byte, got streamFrame) error {
	once := func(raw []byte, known protowire.Number) error {
		seen := make(map[protowire.Number]bool)
		for len(raw) > 0 {
			number, _, n := protowire.ConsumeField(raw)
			if n < 0 {
				return nil // the payload may be cut off
			}
			if seen[number] && number <= known {
				return fmt.Errorf("field %d came twice", number)
			}
			seen[number] = true
			raw = raw[n:]
		}
		return nil
	}
	if err := once(frame, 5); err != nil {
		return err
	}
	var f kwikpb.StreamMetadataFrame
	proto.Unmarshal(frame, &f)
	known := protowire.Number(5)
	switch {
	case got.open != nil:
		known = 6
	case got.dataLen > 0:
		known = 7
	}
	return once(f.GetPayload(), known)
}

// BenchmarkMetadataProtocol writes and reads DATA frames without touching the payload. It
// measures the cost and the size of the frames alone.
func BenchmarkMetadataProtocol(b *testing.B) {
	for _, n := range []int{1 << 10, 64 << 10, 256 << 10} {
		raw := appendDataHeader(nil, n)
		report := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/frame")
			b.ReportMetric(100*float64(len(raw))/float64(n), "%overhead")
		}
		b.Run(fmt.Sprintf("encapsulate %d", n), func(b *testing.B) {
			b.ReportAllocs()
			var header [blockHeadroom]byte
			for b.Loop() {
				appendDataHeader(header[:0], n)
			}
			report(b)
		})
		b.Run(fmt.Sprintf("decapsulate %d", n), func(b *testing.B) {
			b.ReportAllocs()
			r := bytes.NewReader(nil)
			p := &metadataProtocol{r: r}
			for b.Loop() {
				r.Reset(raw)
				if f, err := p.next(1, 0); err != nil || f.dataLen != n {
					b.Fatal(err)
				}
			}
			report(b)
		})
	}
}
