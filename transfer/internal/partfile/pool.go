package partfile

import (
	"slices"
	"sync"

	"kwikcp/transfer/disk"
)

// A Pool bounds how many part files are open at a time. Beyond that the ones that were opened
// first are parked: closed until bytes arrive for them. A nil Pool has no bound.
type Pool struct {
	limit int

	// mu is held for a look at files alone, and no other lock is taken under it.
	mu    sync.Mutex
	files []*PartFile // open, in the order of their opening
}

// NewPool returns a Pool for at most limit open files. There are more if all are in use at the
// same time.
func NewPool(limit int) *Pool { return &Pool{limit: limit} }

// Len returns how many part files are open.
func (o *Pool) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.files)
}

// admit adds a part file that was opened, and parks others if there are too many. No lock of a
// part file may be held.
func (o *Pool) admit(p *PartFile) {
	if o == nil {
		return
	}
	o.mu.Lock()
	o.files = append(o.files, p)
	tries := len(o.files) - 1
	o.mu.Unlock()
	for range tries {
		first := o.popExcess()
		if first == nil {
			return
		}
		if first != p && !first.park() {
			continue
		}
		o.mu.Lock()
		o.files = append(o.files, first)
		o.mu.Unlock()
	}
}

// popExcess removes the part file that was opened first, if there are more than the limit.
func (o *Pool) popExcess() *PartFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.files) <= o.limit {
		return nil
	}
	first := o.files[0]
	o.files = slices.Delete(o.files, 0, 1)
	return first
}

func (o *Pool) remove(p *PartFile) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(o.files, p); i >= 0 {
		o.files = slices.Delete(o.files, i, i+1)
	}
}

// park closes a part file that no method uses now. It reports whether the file stays open and
// belongs to the pool.
func (p *PartFile) park() (stays bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isReceiving := p.state == Unproved || p.state == Cold || p.state == Proved || p.state == Windowed
	canWait := p.state == Proved && p.users == 0 && !p.whole() // a whole one is about to be finished
	if !isReceiving || !canWait {
		return isReceiving
	}
	if err := p.writeback.stop(); err != nil {
		p.spoil(err)
		return false
	}
	info, err := p.file.Stat()
	if err != nil {
		p.writeback = newWriteback(p.checkpoint)
		return true
	}
	p.saved = disk.VersionOf(info)
	p.file.Close()
	p.state = Parked
	return false
}

// reopen opens and locks a parked file. The error is ErrBusy if another process has written to
// it. Called with the lock held.
func (p *PartFile) reopen() error {
	f, err := p.claim().adopt()
	if err == errTryAgain {
		return ErrGone
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && disk.VersionOf(info) != p.saved {
		err = ErrBusy
	}
	if err != nil {
		f.Close()
		return err
	}
	p.file = p.file.reopened(f)
	p.writeback = newWriteback(p.checkpoint)
	return nil
}
