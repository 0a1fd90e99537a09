package kwik

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
)

const (
	protocolVersion = 1
	// maxControlFrame bounds a ControlFrame, in bytes.
	maxControlFrame = 1 << 20
	// maxJoinFrame bounds a JoinFrame, in bytes.
	maxJoinFrame = 4 << 10
	// maxControlQueue bounds the frames that wait for a peer that does not read, in bytes.
	maxControlQueue = 1 << 20
	// readStep bounds the memory that is allocated before a frame's bytes arrive, in bytes.
	readStep = 64 << 10
)

// A controlStream is one end of a path's control stream. Any goroutine may queue frames and does
// not wait. One goroutine, writeLoop, writes them. One goroutine of the owner reads.
type controlStream struct {
	stream *quic.Stream
	r      *bufio.Reader
	rate   rateShare // of a server's side; set before writeLoop

	mu     sync.Mutex
	queue  []byte        // encoded frames that wait, at most maxControlQueue bytes
	wake   chan struct{} // has an element while the queue is not empty
	closed bool
	full   bool // more than maxControlQueue was unread; writeLoop ends with an error
}

func newControlStream(s *quic.Stream) *controlStream {
	return &controlStream{stream: s, r: bufio.NewReaderSize(s, 4<<10), wake: make(chan struct{}, 1)}
}

// send queues a frame. If too many bytes are queued already, writeLoop ends with an error.
func (c *controlStream) send(f *kwikpb.ControlFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.full {
		return
	}
	queue, err := appendDelimited(c.queue, f)
	if err != nil {
		// Encoding fails for a string that is not UTF-8 only, and no string of a peer is sent.
		panic("kwik: internal error: " + err.Error())
	}
	c.queue = queue
	if len(queue) > maxControlQueue {
		c.full = true
		c.stream.SetWriteDeadline(time.Unix(1, 0)) // writeLoop may be waiting for the peer
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sendMetadata queues a metadata frame of the specification.
func (c *controlStream) sendMetadata(kind kwikpb.MetadataFrameType, message proto.Message) {
	frame, err := wrapMetadata(kind, message)
	if err != nil {
		panic("kwik: internal error: " + err.Error()) // as in send
	}
	c.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Metadata{Metadata: frame}})
}

// writeLoop writes queued frames until done is closed or the stream fails. The path's owner runs
// it, waits for it, and closes the path if it returns an error.
func (c *controlStream) writeLoop(done <-chan struct{}) error {
	defer func() {
		c.mu.Lock()
		c.closed, c.queue = true, nil
		c.mu.Unlock()
	}()
	var spare []byte
	for {
		select {
		case <-done:
			return nil
		case <-c.wake:
		}
		c.mu.Lock()
		batch := c.queue
		c.queue = spare[:0]
		c.mu.Unlock()
		if err := c.write(batch); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.full {
				return errorf(ErrSecondaryStreamOverflow, "the peer does not read its control stream")
			}
			return err
		}
		spare = batch
	}
}

// write writes encoded frames as the rate limit allows.
func (c *controlStream) write(p []byte) error {
	for len(p) > 0 {
		k := c.rate.cut(len(p))
		if err := c.rate.wait(c.stream.Context(), k); err != nil {
			return err
		}
		if _, err := c.stream.Write(p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// receive reads the next frame.
func (c *controlStream) receive() (*kwikpb.ControlFrame, error) {
	f := &kwikpb.ControlFrame{}
	if err := readDelimited(c.r, maxControlFrame, f); err != nil {
		return nil, err
	}
	return f, nil
}

// appendDelimited appends a message, preceded by its length.
func appendDelimited(dst []byte, m proto.Message) ([]byte, error) {
	raw, err := proto.Marshal(m)
	if err != nil {
		return dst, err
	}
	dst = protowire.AppendVarint(dst, uint64(len(raw)))
	return append(dst, raw...), nil
}

// readDelimited reads a message of at most limit bytes. It allocates memory as the bytes arrive,
// not as the length announces. It returns io.EOF only before the first byte.
func readDelimited(r *bufio.Reader, limit int, m proto.Message) error {
	length, err := readVarint(r)
	if err != nil {
		return err
	}
	if length > uint64(limit) {
		return errorf(ErrMetadataProtocolViolation, "frame of %d bytes, at most %d are allowed", length, limit)
	}
	var raw bytes.Buffer
	raw.Grow(int(min(length, readStep)))
	if _, err := io.CopyN(&raw, r, int64(length)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return unmarshalCanonical(raw.Bytes(), m)
}

func readVarint(r io.ByteReader) (uint64, error) {
	var v uint64
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && shift > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if shift == 63 && b > 1 {
			return 0, errorf(ErrMetadataProtocolViolation, "varint of more than 64 bits")
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 {
				return 0, errorf(ErrMetadataProtocolViolation, "varint that is longer than it need be")
			}
			return v, nil
		}
	}
}
