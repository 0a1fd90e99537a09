package kwik

import (
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// headWindow is how far, in bytes, a frameReader reads ahead for the head of a frame: enough for OPEN with the head of the
// first DATA frame, and little of the payload, which is to go straight to its place.
const headWindow = 64

// A frameReader reads a secondary stream for its metadataProtocol. It reads a little ahead for a frame's head, and far ahead,
// into a pooled block, where short frames follow one another (gather): a Read of a QUIC stream returns what has arrived,
// so that whatever the window holds has been waited for by nobody. It is used by one goroutine, which drops it in the end.
//
// An error of the stream underneath must stay: one that comes with bytes is returned by the Read after them.
type frameReader struct {
	r         io.Reader
	readAhead int // how far to read ahead for a head, in bytes; 0 means headWindow
	head      [headWindow]byte
	b         *block // the window's room while frames are short; nil otherwise
	window    []byte // what was read and not consumed: a part of head or b
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

// buffer returns what the next head is read into.
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

// gather waits until the next n bytes are in the window and takes along what has arrived behind them, up to most bytes in all,
// n <= most and headWindow <= most, which is the same in each call. From then on it reads as far ahead for heads, too. arrived
// hears of the n bytes as they come.
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

// ready reports whether the window holds a whole frame, so that reading it does not wait.
func (f *frameReader) ready() bool {
	length, n := protowire.ConsumeVarint(f.window)
	return n > 0 && length <= uint64(len(f.window)-n)
}

// resetReadAhead ends the reading far ahead.
func (f *frameReader) resetReadAhead() { f.readAhead = 0 }

// buffered returns how many bytes are in the window.
func (f *frameReader) buffered() int { return len(f.window) }

// release gives the window up.
func (f *frameReader) release() {
	f.window = nil
	if f.b != nil {
		f.b.release()
		f.b = nil
	}
}
