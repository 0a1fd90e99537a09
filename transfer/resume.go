package transfer

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"sync"
	"time"
)

// surveySpan is how much of a part file is read and hashed at a time, in bytes: a multiple of every group size.
const surveySpan = 1 << 20

// prove finds out which of the bytes in the part file are those of tree, and forgets the others. It cuts what is beyond the
// end. Bytes that are proved against this tree already are not read again. report, which may be nil, is told now and then
// how much of the file has been looked at. After an error, which is the end of ctx or a file that cannot be cut, nothing is
// known about the bytes.
func (p *partFile) prove(ctx context.Context, tree *integrity.Tree, report func(done, total int64)) error {
	if sameTree(p.tree, tree) {
		return nil
	}
	p.tree = nil
	info, err := p.file.Stat()
	if err != nil {
		return p.wrap(err)
	}
	size := min(info.Size(), tree.Size())
	if info.Size() > size {
		if err := p.file.Truncate(size); err != nil {
			return p.wrap(err)
		}
	}
	had, err := survey(ctx, p.file, size, tree, report)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree, p.had = tree, had
	p.reserved, p.refused = false, false
	return nil
}

// proved says that all that this transfer has written is right, and of which tree.
func (p *partFile) proved(tree *integrity.Tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree = tree
}

func sameTree(old, tree fileTree) bool {
	return old != nil && old.Root() == tree.Root() && old.Size() == tree.Size() && old.GroupSize() == tree.GroupSize()
}

// survey hashes the first size bytes of a file, which are at most those of tree, on all cores, and returns the ranges of whole
// groups that are proved. What is wrong, torn, missing or cannot be read is not among them, and no error.
//
// It starts goroutines and waits for them.
func survey(ctx context.Context, f disk.File, size int64, tree *integrity.Tree, report func(done, total int64)) (rangeset.Set, error) {
	s := newSurveyor(f, size, tree, report)
	err := s.run(ctx)
	return s.proved, err
}

// matches reports whether a file is the one of tree. It stops where it is not. An error is the end of ctx.
func matches(ctx context.Context, f disk.File, size int64, tree *integrity.Tree, report func(done, total int64)) (bool, error) {
	if size != tree.Size() {
		return false, nil
	}
	s := newSurveyor(&wholly{File: f}, size, tree, report)
	s.strict = true
	err := s.run(ctx)
	return s.proved.Total() == size, err
}

// A surveyor shares out the work of a survey.
type surveyor struct {
	file  disk.File
	tree  *integrity.Tree
	unit  int64 // bytes of a group
	limit int64 // end of what is looked at: the end of a group, or of the file

	strict bool // it is of no use unless all of it is right
	// keep, if set, takes a group that is right before it counts. It is called by several goroutines at once.
	keep func(group []byte, off int64) error

	mu       sync.Mutex
	next     int64 // all before it was taken or is a hole
	dataEnd  int64 // from next up to here the file may have data
	proved   rangeset.Set
	err      error // the first one of keep
	report   func(done, total int64)
	reported time.Time
}

func newSurveyor(f disk.File, size int64, tree *integrity.Tree, report func(done, total int64)) *surveyor {
	s := &surveyor{file: f, tree: tree, unit: tree.GroupSize().Bytes(), limit: size, report: report, reported: time.Now()}
	if size < tree.Size() {
		s.limit -= size % s.unit // the last group is not there as a whole
	}
	return s
}

// run looks at all of the file, on all cores.
func (s *surveyor) run(ctx context.Context) error {
	spans := (s.limit + surveySpan - 1) / surveySpan
	var wg sync.WaitGroup
	for range min(int64(procs.Max), spans) {
		wg.Go(func() {
			buf := make([]byte, min(surveySpan, s.limit))
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

// take returns the next whole groups to look at, of at most surveySpan bytes.
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
	end = min(start+surveySpan, s.limit)
	if s.dataEnd < end { // the group in which the data ends is looked at, too
		end = min(end, s.dataEnd+(s.unit-s.dataEnd%s.unit)%s.unit)
	}
	s.next = end
	if s.report != nil && time.Since(s.reported) >= observeInterval {
		s.reported = time.Now()
		s.report(start, s.limit)
	}
	return start, end, true
}

// look reads groups into buf and notes those that are right.
func (s *surveyor) look(buf []byte, start int64) {
	n, _ := s.file.ReadAt(buf, start) // what could not be read is fetched
	for off := int64(0); off < int64(len(buf)); off += s.unit {
		end := min(off+s.unit, int64(len(buf)))
		right := end <= int64(n) && s.tree.Verify(start+off, buf[off:end]) == nil
		var err error
		if right && s.keep != nil {
			err = s.keep(buf[off:end], start+off)
		}
		s.mu.Lock()
		if err != nil {
			s.next = s.limit
			if s.err == nil {
				s.err = err
			}
		} else if right {
			s.proved.Add(start+off, start+end)
		} else if s.strict {
			s.next = s.limit
		}
		s.mu.Unlock()
	}
}
