package serve

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"path/filepath"
	"sync"
	"time"
)

const (
	// maxStoredTrees bounds the file of a TreeStore, in bytes: that of the trees of about 500 GiB
	// of files.
	maxStoredTrees = 256 << 20
	// maxRecords bounds the records of a TreeStore, whose places are kept in memory.
	maxRecords = 1 << 20
	// minStored is the size, in bytes, from which on a file's tree is stored. Smaller files are
	// hashed fast.
	minStored = 1 << 20
	// minWaste is the size of removed and damaged records, in bytes, from which on they are
	// overwritten by others.
	minWaste = 4 << 20
	// lockAttempts and lockDelay bound the wait for another process that has the store open.
	lockAttempts, lockDelay = 20, 10 * time.Millisecond
)

// A TreeStore keeps the trees of files across restarts of a server, in one file. It is a cache: if
// the file or a part of it is damaged or removed, at any time, the server hashes files again. A
// record holds the tree of one version of a file, under the path relative to the served directory.
// The tree is found under the other names of the file as well. One process at a time can have a
// store open.
//
// The file is read and written with system calls alone. A mapping would turn an unreadable disk
// into a fault of the process.
type TreeStore struct {
	dir  disk.Dir // that has the file
	name string   // of the file in dir
	seed maphash.Seed
	// maxBytes and maxRecords bound the file; see maxStoredTrees.
	maxBytes   int64
	maxRecords int

	mu   sync.Mutex // guards the fields below; get does not hold it while it reads
	file disk.File
	end  int64 // where the next record goes, in bytes
	live int64 // bytes of the records that byPath has
	// byPath and byFile have the places of the records, by hashes of the path and of the version.
	// Hashes may collide, and a place may be that of an older record. So a reader checks a record.
	byPath, byFile map[uint64]int64
	moves          int   // counts what makes places of before invalid
	damage         error // that was found and not taken; nil if there is none
}

// ErrStoreBusy is returned by [OpenTreeStore] if another process has the store open.
var ErrStoreBusy = errors.New("another server uses it")

// OpenTreeStore opens the store in the file path, or creates it. Damaged records are left out, and
// a file that is not a store is replaced. It waits at most 200 ms for another process. The error
// is ErrStoreBusy or one of the file system. The caller closes the store.
func OpenTreeStore(path string) (*TreeStore, error) {
	dir, err := disk.OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	s := newTreeStore(dir, filepath.Base(path))
	if err := s.open(); err != nil {
		dir.Close()
		return nil, err
	}
	return s, nil
}

func newTreeStore(dir disk.Dir, name string) *TreeStore {
	return &TreeStore{
		dir: dir, name: name, seed: maphash.MakeSeed(), maxBytes: maxStoredTrees, maxRecords: maxRecords,
	}
}

// Close closes the store. The [Server] that uses it must have been closed.
func (s *TreeStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.file != nil {
		err = s.file.Close()
		s.file = nil
	}
	return errors.Join(err, s.dir.Close())
}

// Len returns the number of records.
func (s *TreeStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byPath)
}

// takeDamage returns the first damage of the file that was found since the last call; nil if there
// was none.
func (s *TreeStore) takeDamage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	damage := s.damage
	s.damage = nil
	return damage
}

// open opens or creates the file, locks it and finds its records. The lock must be held, or the
// store not be shared yet.
func (s *TreeStore) open() error {
	f, err := s.openFile()
	if err != nil {
		return err
	}
	if err := awaitLock(f); err != nil {
		f.Close()
		return err
	}
	s.file = f
	if err := s.load(); err != nil {
		f.Close()
		s.file = nil
		return err
	}
	return nil
}

func (s *TreeStore) openFile() (disk.File, error) {
	f, err := s.dir.OpenPart(s.name)
	if errors.Is(err, disk.ErrNotAFile) {
		s.damage = err
		if err := s.dir.Remove(s.name); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return s.dir.Create(s.name)
	}
	return f, err
}

// awaitLock takes the lock of a file. The error is ErrStoreBusy, or one of the file system.
func awaitLock(f disk.File) error {
	for range lockAttempts {
		locked, err := f.TryLock()
		if locked || err != nil {
			return err
		}
		time.Sleep(lockDelay)
	}
	return ErrStoreBusy
}

// load finds the records of the file. A file without a store's header becomes an empty store.
func (s *TreeStore) load() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	header := make([]byte, len(storeHeader))
	_, failed := s.file.ReadAt(header, 0)
	isStore := failed == nil && string(header) == storeHeader && size <= 2*s.maxBytes
	if !isStore {
		if size > 0 {
			s.note(errors.New("it is damaged, or of another version of kwikcp"))
		}
		return s.reset()
	}
	s.clear()
	s.end = size
	w := walker{file: s.file, size: size}
	for w.next() {
		s.enter(w.head, w.at)
	}
	switch {
	case w.err != nil:
		s.note(w.err)
	case w.skipped > 0:
		s.note(fmt.Errorf("%d of its %d bytes are damaged", w.skipped, size))
	}
	return nil
}

// clear forgets the places of all records.
func (s *TreeStore) clear() {
	s.byPath, s.byFile, s.live = make(map[uint64]int64), make(map[uint64]int64), 0
	s.moves++
}

// reset makes the store empty.
func (s *TreeStore) reset() error {
	s.clear()
	s.end = int64(len(storeHeader))
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	_, err := s.file.WriteAt([]byte(storeHeader), 0)
	return err
}

// note keeps the first damage.
func (s *TreeStore) note(damage error) {
	if s.damage == nil {
		s.damage = damage
	}
}

func (s *TreeStore) pathHash(path string) uint64 { return maphash.String(s.seed, path) }
func (s *TreeStore) fileHash(v disk.Version) uint64 {
	return maphash.Bytes(s.seed, appendVersion(nil, v))
}

// enter makes a record the one of its path and its file.
func (s *TreeStore) enter(h recordHead, at int64) {
	if old, err := readHead(s.file, s.placeOf(h.path), s.end); err == nil && old.path == h.path {
		s.live -= old.length
	}
	s.byPath[s.pathHash(h.path)] = at
	if h.version.IsIdentified() {
		s.byFile[s.fileHash(h.version)] = at
	}
	s.live += h.length
}

// placeOf returns the place of the record that a path may have, 0 if it has none.
func (s *TreeStore) placeOf(path string) int64 { return s.byPath[s.pathHash(path)] }

// get returns the tree of a version of a file; nil if it is not in the store.
func (s *TreeStore) get(path string, version disk.Version) *integrity.Tree {
	s.mu.Lock()
	r := storeReader{store: s, file: s.file, end: s.end, moves: s.moves}
	byPath, byFile := s.placeOf(path), s.byFile[s.fileHash(version)]
	s.mu.Unlock()
	if r.file == nil {
		return nil
	}
	// The number of a device may be another one after a restart of the system, and a path leads to
	// one device.
	anyDevice := func(h recordHead) bool {
		h.version.Device = version.Device
		return h.path == path && h.version == version
	}
	if tree := r.read(byPath, anyDevice); tree != nil || !version.IsIdentified() {
		return tree
	}
	return r.read(byFile, func(h recordHead) bool { return h.version == version })
}

// A storeReader reads records at places that were known at one moment. It does not hold the lock,
// so they may be moved meanwhile. Then their checksums are wrong.
type storeReader struct {
	store *TreeStore
	file  disk.File
	end   int64
	moves int
}

// read returns the tree of the record at a place; nil if it is damaged or unwanted.
func (r storeReader) read(at int64, isWanted func(recordHead) bool) *integrity.Tree {
	if at == 0 {
		return nil
	}
	h, err := readHead(r.file, at, r.end)
	if errors.Is(err, errRemoved) || err == nil && !isWanted(h) {
		return nil
	}
	var tree *integrity.Tree
	if err == nil {
		tree, err = readTree(r.file, at, h)
	}
	if err == nil {
		return tree
	}
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moves == r.moves {
		s.note(fmt.Errorf("a record cannot be read: %w", err))
	}
	return nil
}

// isStorable reports whether the store takes the tree of a version of a file that was hashed from
// a time of the wall clock on.
func isStorable(path string, version disk.Version, hashed time.Time) bool {
	isKey := len(path) > 0 && len(path) <= maxRecordPath
	return isKey && !version.IsRacy(hashed)
}

// put stores the tree of a version of a file in place of another version's, if it is storable.
// hashed is when its hashing began, by the wall clock. After an error the store has the records
// that it had, except for that of the file.
func (s *TreeStore) put(path string, version disk.Version, tree *integrity.Tree, hashed time.Time) error {
	if !isStorable(path, version, hashed) {
		return nil
	}
	record := appendRecord(nil, path, version, tree)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.prepare(int64(len(record))); err != nil {
		return err
	}
	s.remove(s.placeOf(path), func(h recordHead) bool { return h.path == path })
	if _, err := s.file.WriteAt(record, s.end); err != nil {
		s.file.Truncate(s.end) // gives back the space of what was written
		return err
	}
	at := s.end
	s.end += int64(len(record))
	s.enter(recordHead{path: path, version: version, length: int64(len(record))}, at)
	return nil
}

// prepare makes the file ready for n more bytes. Another process may have removed or truncated it.
func (s *TreeStore) prepare(n int64) error {
	if err := s.checkFile(); err != nil {
		return err
	}
	waste := s.end - s.live
	isFull := s.end+n > s.maxBytes || len(s.byPath) >= s.maxRecords
	if isFull || waste > minWaste && waste > s.live {
		return s.compact(n)
	}
	return nil
}

// checkFile opens the file again if its name does not lead to it any more, and finds its end.
func (s *TreeStore) checkFile() error {
	if s.file != nil {
		info, err := s.file.Stat()
		named, missing := s.dir.Lstat(s.name)
		isSame := err == nil && missing == nil && disk.SameFile(info, named)
		if isSame {
			return s.checkEnd(info.Size())
		}
		s.note(errors.New("it was removed or replaced"))
		s.file.Close()
		s.file = nil
		s.clear()
	}
	return s.open()
}

// checkEnd makes the records follow the end of a file of the given size.
func (s *TreeStore) checkEnd(size int64) error {
	if size == s.end {
		return nil
	}
	s.note(errors.New("another program changed its size"))
	if size < int64(len(storeHeader)) {
		return s.reset()
	}
	s.end = size
	return nil
}

// forget removes the records that have the tree of a version of a file, whatever their paths are.
func (s *TreeStore) forget(path string, version disk.Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return
	}
	s.remove(s.placeOf(path), func(h recordHead) bool { return h.path == path })
	if version.IsIdentified() {
		s.remove(s.byFile[s.fileHash(version)], func(h recordHead) bool { return h.version == version })
	}
}

// remove removes the record at a place, if there is a wanted one. It is marked in the file, so that
// no restart finds it again. That needs no space on the disk.
func (s *TreeStore) remove(at int64, isWanted func(recordHead) bool) {
	if at == 0 {
		return
	}
	h, err := readHead(s.file, at, s.end)
	if err != nil || !isWanted(h) {
		return
	}
	if s.placeOf(h.path) == at {
		delete(s.byPath, s.pathHash(h.path))
		s.live -= h.length
	}
	delete(s.byFile, s.fileHash(h.version))
	s.file.WriteAt([]byte{stateRemoved}, at+int64(stateOffset))
}

// compact moves the records to the start of the file, in place of removed and damaged ones. If n
// more bytes would exceed three quarters of the bounds, it leaves out the oldest records. A crash
// meanwhile damages records, which costs hashing.
func (s *TreeStore) compact(n int64) error {
	excess := s.live + n - s.maxBytes*3/4
	surplus := len(s.byPath) - s.maxRecords*3/4
	before := s.byPath
	w := walker{file: s.file, size: s.end}
	s.clear()
	s.end = int64(len(storeHeader))
	for w.next() {
		if before[s.pathHash(w.head.path)] != w.at {
			continue
		}
		if excess > 0 || surplus > 0 {
			excess, surplus = excess-w.head.length, surplus-1
			continue
		}
		record, err := readRecord(s.file, w.at, w.head)
		if err != nil {
			continue
		}
		if _, err := s.file.WriteAt(record, s.end); err != nil {
			return s.reset()
		}
		s.end += w.head.length
		s.enter(w.head, s.end-w.head.length)
	}
	return s.file.Truncate(s.end)
}

// sweep removes the records of files that are gone or of another version. It ends early when ctx
// ends.
func (s *TreeStore) sweep(ctx context.Context, dir source.Dir) error {
	s.mu.Lock()
	w := walker{file: s.file, size: s.end}
	s.mu.Unlock()
	if w.file == disk.File(nil) {
		return nil
	}
	for w.next() && ctx.Err() == nil {
		h, at := w.head, w.at
		info, err := dir.Stat(ctx, h.path)
		isGone := errors.Is(err, fs.ErrNotExist)
		if err == nil {
			now := disk.VersionOf(info)
			h.version.Device = now.Device
			isGone = now != h.version
		}
		if isGone {
			s.mu.Lock()
			s.remove(at, func(found recordHead) bool { return found.path == h.path })
			s.mu.Unlock()
		}
	}
	return w.err
}
