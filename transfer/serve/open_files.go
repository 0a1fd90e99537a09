package serve

import (
	"container/list"
	"kwikcp/transfer/source"
	"sync"
)

// maxOpenFiles bounds the files that are open for the contents of all batches. More reads than that
// at a time wait for each other.
const maxOpenFiles = 64

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
}

func newOpenFiles() *openFiles {
	o := &openFiles{limit: maxOpenFiles, unused: make(map[openKey]*list.Element)}
	o.freed.L = &o.mu
	return o
}

// acquire returns the file of a key, which it opens if it is not open. It waits while limit files
// are in use. The caller releases the file.
func (o *openFiles) acquire(key openKey, open func() (source.Object, error)) (*openFile, error) {
	if f := o.reserve(key); f != nil {
		return f, nil
	}
	file, err := open()
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.count--
		o.freed.Signal()
		return nil, err
	}
	return &openFile{file, key}, nil
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
		o.take(o.order.Front()).Object.Close()
		o.count--
	}
	o.count++
	return nil
}

// take takes a file from the unused ones. The lock must be held.
func (o *openFiles) take(place *list.Element) *openFile {
	f := o.order.Remove(place).(*openFile)
	delete(o.unused, f.key)
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
