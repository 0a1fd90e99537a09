package serve

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"os"
	"sync"
	"time"

	"github.com/zeebo/blake3"
	"go.etcd.io/bbolt"

	"kwikcp/integrity"

	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// maxStoredTrees bounds the records of a TreeStore, in bytes: those of about 500 GiB of
	// files.
	maxStoredTrees = 256 << 20
	// minStored is the size, in bytes, from which on a file's tree is stored. Smaller files are
	// hashed fast.
	minStored = 1 << 20
	// racyWindow is the time after a change of a file in which its tree is not stored. Another
	// change within the clock's resolution would leave the same times.
	racyWindow = 2 * time.Second
	// storeTimeout bounds the wait for another process that has the store open.
	storeTimeout = 200 * time.Millisecond
)

// A TreeStore keeps the trees of files across restarts of a server, in a bbolt database. It is a
// cache: if it or a record of it is deleted, the server hashes the files again. A record holds
// the tree of one version of a file, under the path relative to the served directory. The tree is
// found under the other names of the file as well. One process at a time can have a store open.
type TreeStore struct {
	db *bbolt.DB

	mu    sync.Mutex
	total int64 // bytes of all records
}

// The buckets: records by path, paths by the number of their record, and paths by file. Numbers
// ascend, so that the oldest record is the first. Stores of earlier versions have no files.
var (
	bucketTrees = []byte("trees 1")
	bucketOrder = []byte("order 1")
	bucketFiles = []byte("files 1")
)

// ErrStoreBusy is returned by [OpenTreeStore] if another process has the store open.
var ErrStoreBusy = errors.New("another server uses it")

// OpenTreeStore opens the store in the file path, or creates it; a damaged one is replaced. It
// waits at most 200 ms for another process. The error is ErrStoreBusy or one of the file system.
// The caller closes the store.
func OpenTreeStore(path string) (*TreeStore, error) {
	s, err := openTreeStore(path)
	if err == nil || errors.Is(err, ErrStoreBusy) || errors.Is(err, fs.ErrPermission) {
		return s, err
	}
	if os.Remove(path) != nil {
		return nil, err
	}
	return openTreeStore(path)
}

func openTreeStore(path string) (s *TreeStore, err error) {
	var db *bbolt.DB
	defer func() {
		if err != nil && db != nil {
			db.Close()
		}
	}()
	defer recoverDamage(&err)
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: storeTimeout})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, ErrStoreBusy
	}
	if err != nil {
		return nil, err
	}
	s = &TreeStore{db: db}
	err = db.Update(func(tx *bbolt.Tx) error {
		trees, err := tx.CreateBucketIfNotExists(bucketTrees)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketOrder); err != nil {
			return err
		}
		files, err := tx.CreateBucketIfNotExists(bucketFiles)
		if err != nil {
			return err
		}
		count := func(k, v []byte) error {
			s.total += int64(len(k) + len(v))
			return nil
		}
		return errors.Join(trees.ForEach(count), files.ForEach(count))
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the store. The [Server] that uses it must have been closed.
func (s *TreeStore) Close() error { return s.db.Close() }

// A record is number(8) size(8) mtime(8) ctime(8) inode(8), the tree as
// integrity.Tree.AppendBinary encodes it, and checksum(16). Integers are little-endian, times in
// nanoseconds since the Unix epoch. The checksum is the first bytes of the BLAKE3 hash of the
// path, a NUL, and the record before the checksum.
const (
	recordHeader   = 5 * 8
	recordChecksum = 16
)

func newRecord(path string, number uint64, v disk.Version, tree *integrity.Tree) []byte {
	r := make([]byte, 0, recordHeader+64+cvSize*tree.Groups()+recordChecksum)
	r = binary.LittleEndian.AppendUint64(r, number)
	r = appendVersion(r, v)
	r, _ = tree.AppendBinary(r)
	return append(r, recordSum(path, r)...)
}

// appendVersion appends what a record has of a version: everything but the device. Its number may
// be another one after a restart of the system, and a path leads to one device.
func appendVersion(dst []byte, v disk.Version) []byte {
	for _, n := range [recordHeader/8 - 1]uint64{uint64(v.Size), uint64(v.MTime), uint64(v.CTime), v.Inode} {
		dst = binary.LittleEndian.AppendUint64(dst, n)
	}
	return dst
}

// isRecorded reports whether a record of version v is one of the given version.
func isRecorded(v, version disk.Version) bool {
	version.Device = 0
	return v == version
}

func recordSum(path string, r []byte) []byte {
	h := blake3.New()
	h.WriteString(path)
	h.Write([]byte{0})
	h.Write(r)
	return h.Sum(nil)[:recordChecksum]
}

// checkRecord returns the version of a record, and the record without its checksum. ok is false
// if it is damaged.
func checkRecord(path string, r []byte) (v disk.Version, body []byte, ok bool) {
	if len(r) < recordHeader+recordChecksum {
		return v, nil, false
	}
	body, sum := r[:len(r)-recordChecksum], r[len(r)-recordChecksum:]
	if subtle.ConstantTimeCompare(recordSum(path, body), sum) != 1 {
		return v, nil, false
	}
	field := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
	v = disk.Version{Size: int64(field(1)), MTime: int64(field(2)), CTime: int64(field(3)), Inode: field(4)}
	return v, body, true
}

// recordedTree returns the tree of a record of a file of the given size, nil if it is malformed.
func recordedTree(size int64, body []byte) *integrity.Tree {
	tree, err := integrity.ParseTree(body[recordHeader:])
	if err != nil || tree.Size() != size {
		return nil
	}
	return tree
}

// recoverDamage turns a panic of bbolt into an error: the database is damaged. bbolt rolls the
// transaction back.
func recoverDamage(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("tree store damaged: %v", p)
	}
}

// get returns the tree of a version of a file; nil if it is not in the store.
func (s *TreeStore) get(path string, version disk.Version) (tree *integrity.Tree) {
	var damaged error // makes no difference to a missing tree
	defer recoverDamage(&damaged)
	s.db.View(func(tx *bbolt.Tx) error {
		if tree = treeAt(tx, path, version); tree == nil {
			if other, ok := otherName(tx, version); ok {
				tree = treeAt(tx, other, version)
			}
		}
		return nil
	})
	return tree
}

// treeAt returns the tree of a version that is recorded under a path; nil if there is none.
func treeAt(tx *bbolt.Tx, path string, version disk.Version) *integrity.Tree {
	v, body, ok := checkRecord(path, tx.Bucket(bucketTrees).Get([]byte(path)))
	if !ok || !isRecorded(v, version) {
		return nil
	}
	return recordedTree(v.Size, body)
}

// An entry of bucketFiles has as its key what appendVersion writes, and as its value device(8),
// little-endian, and the path of the record.

// otherName returns the path under which the tree of a version may be recorded.
func otherName(tx *bbolt.Tx, version disk.Version) (path string, ok bool) {
	value := tx.Bucket(bucketFiles).Get(appendVersion(nil, version))
	if !version.IsIdentified() || len(value) < 8 || binary.LittleEndian.Uint64(value) != version.Device {
		return "", false
	}
	return string(value[8:]), true
}

// putName records the path of a version's record. It returns the growth of the entries.
func putName(tx *bbolt.Tx, path string, version disk.Version) (added int64, err error) {
	if !version.IsIdentified() {
		return 0, nil
	}
	files, key := tx.Bucket(bucketFiles), appendVersion(nil, version)
	value := append(binary.LittleEndian.AppendUint64(nil, version.Device), path...)
	if old := files.Get(key); old != nil {
		added -= int64(len(key) + len(old))
	}
	return added + int64(len(key)+len(value)), files.Put(key, value)
}

// removeName removes the entry of a record's file, if it is of the record's path. It returns the
// growth of the entries, which is not positive.
func removeName(tx *bbolt.Tx, path, record []byte) (added int64, err error) {
	if len(record) < recordHeader {
		return 0, nil
	}
	files, key := tx.Bucket(bucketFiles), record[8:recordHeader]
	value := files.Get(key)
	if len(value) < 8 || !bytes.Equal(value[8:], path) {
		return 0, nil
	}
	added = -int64(len(key) + len(value))
	return added, files.Delete(key)
}

// isStorable reports whether the store takes the tree of a version of a file. now is the wall
// clock.
func isStorable(path string, version disk.Version, now time.Time) bool {
	changed := time.Unix(0, max(version.MTime, version.CTime))
	isRacy := now.Sub(changed) < racyWindow
	isKey := len(path) > 0 && len(path) <= bbolt.MaxKeySize
	return isKey && !isRacy && version.Size >= minStored
}

// put stores the tree of a version of a file in place of another version's, if it is storable.
// now is the wall clock.
func (s *TreeStore) put(path string, version disk.Version, tree *integrity.Tree, now time.Time) error {
	if !isStorable(path, version, now) {
		return nil
	}
	return s.update(func(tx *bbolt.Tx) (added int64, err error) {
		trees, order := tx.Bucket(bucketTrees), tx.Bucket(bucketOrder)
		added, err = s.remove(tx, []byte(path))
		if err != nil {
			return 0, err
		}
		number, err := order.NextSequence()
		if err != nil {
			return 0, err
		}
		record := newRecord(path, number, version, tree)
		added += int64(len(path) + len(record))
		removed, err := s.removeOldest(tx, s.total+added-maxStoredTrees)
		if err != nil {
			return 0, err
		}
		if err := trees.Put([]byte(path), record); err != nil {
			return 0, err
		}
		named, err := putName(tx, path, version)
		if err != nil {
			return 0, err
		}
		return added + removed + named, order.Put(binary.BigEndian.AppendUint64(nil, number), []byte(path))
	})
}

// update runs a transaction, which returns by how many bytes the records have grown.
func (s *TreeStore) update(change func(tx *bbolt.Tx) (added int64, err error)) (err error) {
	defer recoverDamage(&err)
	s.mu.Lock()
	defer s.mu.Unlock()
	var added int64
	err = s.db.Update(func(tx *bbolt.Tx) (err error) {
		added, err = change(tx)
		return err
	})
	if err == nil {
		s.total += added
	}
	return err
}

// removeOldest removes the oldest records, at least excess bytes of them. It returns the growth
// of the records, which is negative.
func (s *TreeStore) removeOldest(tx *bbolt.Tx, excess int64) (added int64, err error) {
	order := tx.Bucket(bucketOrder)
	for excess+added > 0 {
		_, oldest := order.Cursor().First()
		if oldest == nil {
			break
		}
		n, err := s.remove(tx, bytes.Clone(oldest))
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, errors.New("the order has a path without a record")
		}
		added += n
	}
	return added, nil
}

// remove removes the record of a path, if there is one. It returns the growth of the records,
// which is not positive.
func (s *TreeStore) remove(tx *bbolt.Tx, path []byte) (added int64, err error) {
	trees, order := tx.Bucket(bucketTrees), tx.Bucket(bucketOrder)
	old := trees.Get(path)
	if old == nil {
		return 0, nil
	}
	added, err = removeName(tx, path, old)
	if err != nil {
		return 0, err
	}
	added -= int64(len(path) + len(old))
	if len(old) >= 8 {
		number := binary.LittleEndian.Uint64(old)
		if key := binary.BigEndian.AppendUint64(nil, number); bytes.Equal(order.Get(key), path) {
			if err := order.Delete(key); err != nil {
				return 0, err
			}
		}
	}
	return added, trees.Delete(path)
}

// sweep removes the records of files that are gone or of another version. It ends early when ctx
// ends.
func (s *TreeStore) sweep(ctx context.Context, dir disk.Dir) (err error) {
	stale, err := s.stale(ctx, dir)
	if err != nil || len(stale) == 0 {
		return err
	}
	return s.update(func(tx *bbolt.Tx) (added int64, err error) {
		for _, path := range stale {
			n, err := s.remove(tx, path)
			if err != nil {
				return 0, err
			}
			added += n
		}
		return added, nil
	})
}

// stale returns the paths whose records are damaged, or of files that are gone or of another
// version. It returns those found so far when ctx ends.
func (s *TreeStore) stale(ctx context.Context, dir disk.Dir) (paths [][]byte, err error) {
	defer recoverDamage(&err)
	s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketTrees).ForEach(func(path, record []byte) error {
			v, _, ok := checkRecord(string(path), record)
			info, err := dir.Stat(string(path))
			isGone := errors.Is(err, fs.ErrNotExist)
			isOther := err == nil && !isRecorded(v, disk.VersionOf(info))
			if !ok || isGone || isOther {
				paths = append(paths, bytes.Clone(path))
			}
			return ctx.Err()
		})
	})
	return paths, err
}
