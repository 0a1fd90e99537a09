package kwik

import (
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// headWindow is how many bytes a frameReader reads ahead for the head of a frame. That is enough
// for OPEN and the head of the first DATA frame. It is little payload, since payload should go
// straight to its place.
const headWindow = 64

// A frameReader reads a secondary stream for its metadataProtocol. It reads a little ahead for a
// frame's head. While short frames follow one another (gather) it reads far ahead, into a pooled
// block. Reading ahead never waits: a Read of a QUIC stream returns the bytes that have arrived. It
// is for one goroutine, which must call release.
//
// An error of a Read of the underlying stream must be permanent: if a Read returns it with
// bytes, the next Read returns it again.
type frameReader struct {
	r         io.Reader
	readAhead int // bytes to read ahead for a head; 0 means headWindow
	head      [headWindow]byte
	b         *block // memory of the window while frames are short; nil otherwise
	window    []byte // read and not consumed: a part of head or b
}

// Read reads from the window or, where p is long and the window empty, straight from the stream.
func (f *frameReader) Read(p []byte) (int, error) {
	if len(f.window) == 0 {
		if len(p) >= headWindow {
			f.release()
			return f.r.Read(p)
		}
		n, err := f.r.Read(f.buffer())
		if n == 0 {
			return 0, err
		}
		f.window = f.buffer()[:n]
	}
	n := copy(p, f.window)
	f.window = f.window[n:]
	return n, nil
}

// buffer returns the memory for the next head.
func (f *frameReader) buffer() []byte {
	if f.readAhead == 0 {
		f.release()
		return f.head[:]
	}
	if f.b == nil {
		f.b = newBlock(f.readAhead)
	}
	return f.b.data
}

// gather blocks until the next n bytes are in the window. It also takes the bytes that have
// arrived after them, up to most bytes in all. n and headWindow are at most most, which is the
// same in each call. From then on heads are read as far ahead. It calls arrived with the
// number of the n bytes that each Read returned.
func (f *frameReader) gather(n, most int, arrived func(int)) error {
	f.readAhead = most
	switch {
	case len(f.window) >= n:
		arrived(n)
		return nil
	case f.b == nil:
		b := newBlock(most)
		k := copy(b.data, f.window)
		f.release()
		f.b, f.window = b, b.data[:k]
	default:
		f.window = f.b.data[:copy(f.b.data, f.window)]
	}
	for counted := 0; ; {
		have := min(n, len(f.window))
		arrived(have - counted)
		if counted = have; have == n {
			return nil
		}
		end := len(f.window)
		k, err := f.r.Read(f.b.data[end:])
		f.window = f.b.data[:end+k]
		if k == 0 && err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// ready reports whether the window holds a whole frame, so that reading the frame does not block.
func (f *frameReader) ready() bool {
	length, n := protowire.ConsumeVarint(f.window)
	return n > 0 && length <= uint64(len(f.window)-n)
}

// resetReadAhead ends reading far ahead.
func (f *frameReader) resetReadAhead() { f.readAhead = 0 }

// buffered returns the number of bytes in the window.
func (f *frameReader) buffered() int { return len(f.window) }

// release discards the window.
func (f *frameReader) release() {
	f.window = nil
	if f.b != nil {
		f.b.release()
		f.b = nil
	}
}
