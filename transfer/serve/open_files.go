package serve

import (
	"container/list"
	"kwikcp/transfer/source"
	"sync"
)

// maxOpenFiles bounds the files that are open for the contents of all batches. More reads than that
// at a time wait for each other.
const maxOpenFiles = 64

// maxRemoteFiles is maxOpenFiles of a remote root. Files are opened ahead there, and need no
// descriptor.
const maxRemoteFiles = 1024

// An openFiles keeps files of batches open between reads, since one read may end in a file in which
// the next one begins. It closes those that were not used for longest.
type openFiles struct {
	limit int

	mu     sync.Mutex
	freed  sync.Cond // a file is no longer in use, or was closed
	count  int       // open files, and those that are being opened
	unused map[openKey]*list.Element
	order  list.List // of unused *openFile, the least recently used first
}

// An openKey identifies a file of a content.
type openKey struct {
	content *batchContent
	index   int // in batchContent.files
}

// An openFile is an open file that its user releases.
type openFile struct {
	source.Object
	key openKey
	// isAhead is set while the file was opened by prepare and not acquired since.
	isAhead bool
}

// newOpenFiles returns the files of a root.
func newOpenFiles(isRemote bool) *openFiles {
	limit := maxOpenFiles
	if isRemote {
		limit = maxRemoteFiles
	}
	o := &openFiles{limit: limit, unused: make(map[openKey]*list.Element)}
	o.freed.L = &o.mu
	return o
}

// acquire returns the file of a key, which it opens if it is not open. It waits while limit files
// are in use. The caller releases the file.
func (o *openFiles) acquire(key openKey, open func() (source.Object, error)) (*openFile, error) {
	if f := o.reserve(key); f != nil {
		return f, nil
	}
	return o.open(key, open)
}

// open opens the file of a key, which is counted already.
func (o *openFiles) open(key openKey, open func() (source.Object, error)) (f *openFile, err error) {
	defer func() { // also after a panic
		if f == nil {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.count--
			o.freed.Signal()
		}
	}()
	file, err := open()
	if err != nil {
		return nil, err
	}
	return &openFile{Object: file, key: key}, nil
}

// prepare opens the file of a key before it is acquired, and calls use with it. It does nothing
// while limit files are in use.
func (o *openFiles) prepare(key openKey, open func() (source.Object, error), use func(source.Object)) error {
	f, isReserved := o.reserveAhead(key)
	if !isReserved {
		return nil
	}
	if f == nil {
		var err error
		if f, err = o.open(key, open); err != nil {
			return err
		}
	}
	use(f.Object)
	f.isAhead = true
	o.release(f)
	return nil
}

// reserveAhead is reserve for prepare: ok is false if it would have to wait.
func (o *openFiles) reserveAhead(key openKey) (f *openFile, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if place := o.unused[key]; place != nil {
		return o.take(place), true
	}
	if o.count == o.limit && !o.evict() {
		return nil, false
	}
	o.count++
	return nil, true
}

// evict closes the least recently used of the files that no read uses, if possible one that was not
// opened ahead. It reports whether there was one. The lock must be held.
func (o *openFiles) evict() bool {
	victim := o.order.Front()
	for place := victim; place != nil; place = place.Next() {
		if !place.Value.(*openFile).isAhead {
			victim = place
			break
		}
	}
	if victim == nil {
		return false
	}
	o.take(victim).Object.Close()
	o.count--
	return true
}

// reserve returns the file of a key if it is open. If not, it counts one more open file and returns
// nil.
func (o *openFiles) reserve(key openKey) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	if place := o.unused[key]; place != nil {
		return o.take(place)
	}
	for o.count == o.limit && o.order.Len() == 0 {
		o.freed.Wait()
	}
	if o.count == o.limit {
		o.evict()
	}
	o.count++
	return nil
}

// take takes a file from the unused ones. The lock must be held.
func (o *openFiles) take(place *list.Element) *openFile {
	f := o.order.Remove(place).(*openFile)
	delete(o.unused, f.key)
	f.isAhead = false
	return f
}

// release ends the use of a file, which remains open for the next.
func (o *openFiles) release(f *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unused[f.key] = o.order.PushBack(f)
	o.freed.Signal()
}

// closeAll closes the files of a content, none of which may be in use.
func (o *openFiles) closeAll(c *batchContent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for place := o.order.Front(); place != nil; {
		next := place.Next()
		if f := place.Value.(*openFile); f.key.content == c {
			o.take(place).Object.Close()
			o.count--
			o.freed.Signal()
		}
		place = next
	}
}
