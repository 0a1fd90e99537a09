package kwik

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
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
	// freeControlBytes is the length of a frame, or of a queue of frames, that is not charged to
	// the client's memory.
	freeControlBytes = 8 << 10
	// frameTimeout bounds the time from the first byte of a frame to its last, besides the time
	// that its bytes take at minFrameRate. It is QUIC's idle time-out.
	frameTimeout = 30 * time.Second
	// minFrameRate is the rate at which a peer has to send a long frame, in bytes per second.
	minFrameRate = 4 << 10
	// frameSilence is how long no packet arrives before the end of a frame's time from a peer that
	// seems gone. It is longer than the interval of keep-alives.
	frameSilence = frameTimeout / 2
)

// A controlStream is one end of a path's control stream. Any goroutine may queue frames and does
// not wait. One goroutine, writeLoop, writes them. One goroutine of the owner reads.
type controlStream struct {
	conn    *quic.Conn
	stream  *quic.Stream
	r       *bufio.Reader
	session *ServerSession // whose memory is charged; nil on a client
	rate    rateShare      // of a server's side; set before writeLoop

	// The reader's.
	due       time.Time // when the next frame must have arrived whole; zero for no such time
	frameSize int64     // charged for the frame that was received last, bytes
	frameDue  time.Time // when the frame that has begun must be whole; zero if only due counts
	isLast    bool      // frameSilence before frameDue has passed, and heard is known
	heard     uint64    // packets that had arrived then

	mu      sync.Mutex
	queue   []byte        // encoded frames that wait
	wake    chan struct{} // has an element while the queue is not empty
	unsent  int           // bytes in the queue and being written, at most maxControlQueue
	charged int64         // for unsent
	closed  bool
	full    error // why no more may be queued; writeLoop ends with it
}

func newControlStream(conn *quic.Conn, s *quic.Stream) *controlStream {
	c := &controlStream{conn: conn, stream: s, wake: make(chan struct{}, 1)}
	c.r = bufio.NewReaderSize(controlReader{c}, 4<<10)
	return c
}

// send queues a frame. If too many bytes are queued already, writeLoop ends with an error.
func (c *controlStream) send(f *kwikpb.ControlFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.full != nil {
		return
	}
	queue, err := appendDelimited(c.queue, f)
	if err != nil {
		// Encoding fails for a string that is not UTF-8 only, and no string of a peer is sent.
		panic("kwik: internal error: " + err.Error())
	}
	c.unsent += len(queue) - len(c.queue)
	c.queue = queue
	switch {
	case c.unsent > maxControlQueue:
		c.full = errorf(ErrSecondaryStreamOverflow, "the peer does not read its control stream")
	case !c.charge():
		c.full = errorf(ErrServerBusy, "the server has no memory for further control frames to this client")
	}
	if c.full != nil {
		c.stream.SetWriteDeadline(time.Unix(1, 0)) // writeLoop may be waiting for the peer
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// charge charges the unsent frames to the session: twice their length, since buffers grow by
// doubling. It returns false if the session may not have that. Called with the lock held.
func (c *controlStream) charge() bool {
	if c.session == nil {
		return true
	}
	due := 2 * int64(max(0, c.unsent-freeControlBytes))
	if due > c.charged && !c.session.frames.Reserve(due-c.charged) {
		return false
	}
	if due < c.charged {
		c.session.frames.Release(c.charged - due)
	}
	c.charged = due
	return true
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
		c.closed, c.queue, c.unsent = true, nil, 0
		c.charge()
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
		err := c.write(batch)
		spare = batch
		if cap(batch) > freeControlBytes {
			spare = nil
		}
		c.mu.Lock()
		c.unsent -= len(batch)
		c.charge()
		if c.full != nil {
			err = c.full
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// write writes frames as the rate limit allows. A server does not wait for ever for a client that
// reads none.
func (c *controlStream) write(frames []byte) error {
	if c.session == nil {
		_, err := c.stream.Write(frames)
		return err
	}
	return c.rate.write(c.stream.Context(), frames, func(piece []byte) error {
		return c.session.writeTaken(c.stream.Write, piece, func(t time.Time) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.full != nil {
				return c.full
			}
			return c.stream.SetWriteDeadline(t)
		}, c.session.stalled)
	})
}

// receive reads the next frame. A frame whose first byte has arrived must arrive whole within
// frameTime, unless the peer seems gone. A long frame is charged to the session's memory until the
// next call.
func (c *controlStream) receive() (*kwikpb.ControlFrame, error) {
	c.releaseFrame()
	c.frameDue = time.Time{}
	c.stream.SetReadDeadline(c.due)
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	start := time.Now()
	c.setFrameDeadline(start, 0)
	length, err := readLength(c.r, maxControlFrame)
	if err != nil {
		return nil, c.late(err)
	}
	if c.session != nil && length > freeControlBytes {
		n := 2 * int64(length) // the buffer grows by doubling
		if _, err := c.session.acquire(c.session.conn.Context(), c.session.memory, n, n); err != nil {
			return nil, err
		}
		c.frameSize, start = n, time.Now()
	}
	c.setFrameDeadline(start, length)
	f := &kwikpb.ControlFrame{}
	if err := readMessage(c.r, length, f); err != nil {
		return nil, c.late(err)
	}
	return f, nil
}

// setFrameDeadline sets the time at which a frame of n bytes, which began at start, must have
// arrived. Bytes that are buffered need no deadline.
func (c *controlStream) setFrameDeadline(start time.Time, n int) {
	if isWhole := c.r.Buffered() >= max(n, maxVarint); isWhole {
		return
	}
	deadline := start.Add(frameTime(n))
	if c.due.IsZero() {
		c.frameDue, c.isLast = deadline, false
		deadline = deadline.Add(-frameSilence)
	} else if c.due.Before(deadline) {
		deadline = c.due
	}
	c.stream.SetReadDeadline(deadline)
}

// A controlReader reads a control stream for its bufio.Reader. It goes on after a deadline that
// mayGoOn extends.
type controlReader struct{ c *controlStream }

func (r controlReader) Read(p []byte) (int, error) {
	for {
		n, err := r.c.stream.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !r.c.mayGoOn() {
			return n, err
		}
	}
}

// mayGoOn extends the read deadline, and reports whether it did. A peer that died within a frame
// broke no rule: while no packet arrives, QUIC's idle time-out has to end the path.
func (c *controlStream) mayGoOn() bool {
	heard := c.conn.ConnectionStats().PacketsReceived
	switch {
	case c.frameDue.IsZero():
		return false
	case !c.isLast:
		c.isLast, c.heard = true, heard
		c.stream.SetReadDeadline(c.frameDue)
	case heard != c.heard:
		return false
	default:
		c.stream.SetReadDeadline(time.Now().Add(time.Second))
	}
	return true
}

// frameTime returns how long a frame of n bytes may take.
func frameTime(n int) time.Duration {
	return frameTimeout + time.Duration(n)*time.Second/minFrameRate
}

// late returns err, or a violation of the protocol if a frame was not complete in time.
func (c *controlStream) late(err error) error {
	if c.due.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
		return errorf(ErrMetadataProtocolViolation, "a control frame was not complete in time")
	}
	return err
}

// releaseFrame returns the memory of the frame that was received last.
func (c *controlStream) releaseFrame() {
	if c.frameSize > 0 {
		c.session.memory.Release(c.frameSize)
		c.frameSize = 0
	}
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
	length, err := readLength(r, limit)
	if err != nil {
		return err
	}
	return readMessage(r, length, m)
}

// readLength reads the length of a message of at most limit bytes. It returns io.EOF only before
// the first byte.
func readLength(r *bufio.Reader, limit int) (int, error) {
	length, err := readVarint(r)
	if err != nil {
		return 0, err
	}
	if length > uint64(limit) {
		return 0, errorf(ErrMetadataProtocolViolation, "frame of %d bytes, at most %d are allowed", length, limit)
	}
	return int(length), nil
}

// readMessage reads a message of the given length.
func readMessage(r *bufio.Reader, length int, m proto.Message) error {
	var raw bytes.Buffer
	raw.Grow(min(length, readStep))
	if _, err := io.CopyN(&raw, r, int64(length)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return unmarshalCanonical(raw.Bytes(), m)
}

// maxVarint is the length of the longest varint, in bytes.
const maxVarint = 10

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
