package partfile

import (
	"context"
	"math"
	"sync"
	"time"

	"kwikcp/internal/procs"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

const (
	// surveySpan is how many bytes of a file are read and hashed at a time: the whole groups that
	// fit, or one that is larger.
	surveySpan = 1 << 20
	// reportInterval is the least time between two reports of progress.
	reportInterval = 100 * time.Millisecond
)

// A Report is called with how many bytes of a file were looked at, of how many. A nil Report is
// fine.
type Report func(done, total int64)

// Survey hashes the first size bytes of a file, which are at most those of tree, on all cores.
// It returns the ranges of whole groups that are verified. Groups that are wrong, torn, missing
// or cannot be read are not among them, and are no error.
//
// It starts goroutines and waits for them.
func Survey(ctx context.Context, f disk.File, size int64, tree Tree, report Report) (rangeset.Set, error) {
	s := newSurveyor(f, size, tree, report)
	err := s.run(ctx)
	return s.proved, err
}

// Matches reports whether a file of the given size is the one of tree. It stops at the first
// group that is not. The error is the cause of ctx.
func Matches(ctx context.Context, f disk.File, size int64, tree Tree, report Report) (bool, error) {
	if size != tree.Size() {
		return false, nil
	}
	s := newSurveyor(withHoles{f}, size, tree, report)
	s.strict = true
	err := s.run(ctx)
	return s.proved.Total() == size, err
}

// withHoles is a file whose holes are read like data.
type withHoles struct{ disk.File }

func (withHoles) NextData(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }

// A surveyor shares out the work of a survey.
type surveyor struct {
	file  disk.File
	tree  Tree
	unit  int64 // bytes of a group
	span  int64 // bytes that are looked at at a time, whole groups
	limit int64 // end of the bytes to look at: the end of a group, or of the file

	strict bool // the file is useless unless all of it is right
	// keep, if set, takes a group that is right before it counts. It is called by several
	// goroutines at once.
	keep func(group []byte, off int64) error

	mu       sync.Mutex
	next     int64 // all before it was taken or is a hole
	dataEnd  int64 // from next up to here the file may have data
	proved   rangeset.Set
	err      error // the first one of keep
	report   Report
	reported time.Time
}

func newSurveyor(f disk.File, size int64, tree Tree, report Report) *surveyor {
	s := &surveyor{file: f, tree: tree, unit: tree.GroupBytes(), limit: size, report: report,
		reported: time.Now()}
	s.span = s.unit * max(1, surveySpan/s.unit)
	if size < tree.Size() {
		s.limit -= size % s.unit // the last group is not there as a whole
	}
	return s
}

// run looks at all of the file, on all cores.
func (s *surveyor) run(ctx context.Context) error {
	spans := (s.limit + s.span - 1) / s.span
	var wg sync.WaitGroup
	for range min(int64(procs.Max), spans) {
		wg.Go(func() {
			buf := make([]byte, min(s.span, s.limit))
			for ctx.Err() == nil {
				start, end, ok := s.take()
				if !ok {
					return
				}
				s.look(buf[:end-start], start)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		s.proved = rangeset.Set{}
		return context.Cause(ctx)
	}
	return s.err
}

// take returns the next whole groups to look at, of at most span bytes.
func (s *surveyor) take() (start, end int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next >= s.limit {
		return 0, 0, false
	}
	if s.next >= s.dataEnd {
		from, to, ok := s.file.NextData(s.next)
		if !ok || from >= s.limit {
			s.next = s.limit
			return 0, 0, false
		}
		s.next = max(s.next, from-from%s.unit)
		s.dataEnd = max(to, s.next+1)
	}
	start = s.next
	end = min(start+s.span, s.limit)
	if s.dataEnd < end { // the group in which the data ends is looked at, too
		end = min(end, s.dataEnd+(s.unit-s.dataEnd%s.unit)%s.unit)
	}
	s.next = end
	if s.report != nil && time.Since(s.reported) >= reportInterval {
		s.reported = time.Now()
		s.report(start, s.limit)
	}
	return start, end, true
}

// look reads groups into buf and notes those that are right.
func (s *surveyor) look(buf []byte, start int64) {
	n, _ := s.file.ReadAt(buf, start) // bytes that could not be read are fetched
	for off := int64(0); off < int64(len(buf)); off += s.unit {
		end := min(off+s.unit, int64(len(buf)))
		right := end <= int64(n) && s.tree.Verify(start+off, buf[off:end]) == nil
		var err error
		if right && s.keep != nil {
			err = s.keep(buf[off:end], start+off)
		}
		s.note(start+off, start+end, right, err)
	}
}

// note takes the verdict on the group of bytes [start, end). err is keep's.
func (s *surveyor) note(start, end int64, right bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.next = s.limit
		if s.err == nil {
			s.err = err
		}
	case right:
		s.proved.Add(start, end)
	case s.strict:
		s.next = s.limit
	}
}
