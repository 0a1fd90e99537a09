package kwik

import "time"

const (
	// minFrameSize is the payload of an attachment's first DATA frame, in bytes.
	minFrameSize = 64 << 10
	// maxFrameTime bounds the time that a path needs for a usual DATA frame.
	maxFrameTime = 50 * time.Millisecond
)

// A frameSizer chooses how much payload the next DATA frame has. A frame tells its length first.
// If the client takes its bytes back, the server still writes all of it, and the client discards
// them. So frames are small until the path has shown that it takes large ones in a short time.
type frameSizer struct {
	size, most int64 // of the next frame and of the largest, bytes
}

// newFrameSizer returns a frameSizer for frames of at most most bytes.
func newFrameSizer(most int64) frameSizer { return frameSizer{min(minFrameSize, most), most} }

// wrote records how long it took to write a frame of n bytes: until all but its last packets were
// sent.
func (f *frameSizer) wrote(n int64, took time.Duration) {
	switch {
	case took > maxFrameTime:
		f.size = max(f.size/2, min(minFrameSize, f.most))
	case took < maxFrameTime/2 && n > f.size/2: // frames are whole units
		f.size = min(2*f.size, f.most)
	}
}
