package serve

import (
	"bytes"
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
	// maxStoredTrees bounds what a TreeStore holds, in bytes of records: those of some 500 GiB of files.
	maxStoredTrees = 256 << 20
	// minStored is the size, in bytes, from which on a file's tree is worth a record. Smaller files are hashed in no time.
	minStored = 1 << 20
	// racy is for how long after its last change a file's tree is not stored: another change within the clock's resolution would
	// leave the same times.
	racy = 2 * time.Second
	// storeTimeout bounds the wait for another process that has the store open.
	storeTimeout = 200 * time.Millisecond
)

// A TreeStore keeps the trees of files from one run of a server to the next, in a bbolt database. It is a cache: to delete
// it, or any record of it, costs time only. Records are by path, relative to the directory served, and are good for one version
// of a file each. One process at a time has a store.
type TreeStore struct {
	db *bbolt.DB

	mu    sync.Mutex
	total int64 // bytes of all records
}

// The buckets: records by path, and paths by the number of their record, which ascends, so that the oldest can be found.
var (
	bucketTrees = []byte("trees 1")
	bucketOrder = []byte("order 1")
)

// ErrStoreBusy means that another process has the store open.
var ErrStoreBusy = errors.New("another server uses it")

// OpenTreeStore opens or makes a store. One that is damaged is made anew. The error is ErrStoreBusy or the file system's.
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
	defer guard(&err)
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
		return trees.ForEach(func(k, v []byte) error {
			s.total += int64(len(k) + len(v))
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the store. Nothing may use it any more.
func (s *TreeStore) Close() error { return s.db.Close() }

// A record is number(8) size(8) mtime(8) ctime(8) inode(8), the tree as integrity.Tree.AppendBinary stores it, checksum(16): integers
// little-endian, times in nanoseconds since the Unix epoch. The checksum is BLAKE3's of the path, a NUL, and all before it.
const (
	recordHead     = 5 * 8
	recordChecksum = 16
)

func newRecord(path string, number uint64, v disk.Version, tree *integrity.Tree) []byte {
	r := make([]byte, 0, recordHead+64+32*tree.Groups()+recordChecksum)
	for _, n := range []uint64{number, uint64(v.Size), uint64(v.MTime), uint64(v.CTime), v.Inode} {
		r = binary.LittleEndian.AppendUint64(r, n)
	}
	r, _ = tree.AppendBinary(r)
	return append(r, recordSum(path, r)...)
}

func recordSum(path string, r []byte) []byte {
	h := blake3.New()
	h.WriteString(path)
	h.Write([]byte{0})
	h.Write(r)
	return h.Sum(nil)[:recordChecksum]
}

// checkRecord returns of which version a record is, and the record without its checksum; ok is false if it is damaged.
func checkRecord(path string, r []byte) (v disk.Version, body []byte, ok bool) {
	if len(r) < recordHead+recordChecksum {
		return v, nil, false
	}
	body, sum := r[:len(r)-recordChecksum], r[len(r)-recordChecksum:]
	if subtle.ConstantTimeCompare(recordSum(path, body), sum) != 1 {
		return v, nil, false
	}
	field := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
	return disk.Version{Size: int64(field(1)), MTime: int64(field(2)), CTime: int64(field(3)), Inode: field(4)}, body, true
}

// recordedTree returns the tree of a record of a file of the given size, nil if it makes no sense.
func recordedTree(size int64, body []byte) *integrity.Tree {
	tree, err := integrity.ParseTree(body[recordHead:])
	if err != nil || tree.Size() != size {
		return nil
	}
	return tree
}

// guard makes an error of bbolt's panics, which mean that a page makes no sense. bbolt rolls the transaction back itself.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("index of trees damaged: %v", p)
	}
}

// get returns the tree of a version of a file, nil if it is not there.
func (s *TreeStore) get(path string, version disk.Version) (tree *integrity.Tree) {
	var damaged error
	defer guard(&damaged) // then it is not there
	s.db.View(func(tx *bbolt.Tx) error {
		if v, body, ok := checkRecord(path, tx.Bucket(bucketTrees).Get([]byte(path))); ok && v == version {
			tree = recordedTree(v.Size, body)
		}
		return nil
	})
	return tree
}

// put records the tree of a version of a file, in place of another version's, if it is worth it. now is the wall clock.
func (s *TreeStore) put(path string, version disk.Version, tree *integrity.Tree, now time.Time) (err error) {
	defer guard(&err)
	changed := time.Unix(0, max(version.MTime, version.CTime))
	if version.Size < minStored || now.Sub(changed) < racy || len(path) == 0 || len(path) > bbolt.MaxKeySize {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	total := s.total
	err = s.db.Update(func(tx *bbolt.Tx) error {
		trees, order := tx.Bucket(bucketTrees), tx.Bucket(bucketOrder)
		n, err := s.remove(tx, []byte(path))
		if err != nil {
			return err
		}
		total -= n
		number, err := order.NextSequence()
		if err != nil {
			return err
		}
		record := newRecord(path, number, version, tree)
		total += int64(len(path) + len(record))
		for total > maxStoredTrees {
			_, oldest := order.Cursor().First()
			if oldest == nil {
				break
			}
			n, err := s.remove(tx, bytes.Clone(oldest))
			if err != nil {
				return err
			}
			if n == 0 {
				return errors.New("the order has a path without a record")
			}
			total -= n
		}
		if err := trees.Put([]byte(path), record); err != nil {
			return err
		}
		return order.Put(binary.BigEndian.AppendUint64(nil, number), []byte(path))
	})
	if err == nil {
		s.total = total
	}
	return err
}

// remove removes the record of a path, if there is one, and returns how many bytes it had.
func (s *TreeStore) remove(tx *bbolt.Tx, path []byte) (int64, error) {
	trees, order := tx.Bucket(bucketTrees), tx.Bucket(bucketOrder)
	old := trees.Get(path)
	if old == nil {
		return 0, nil
	}
	n := int64(len(path) + len(old))
	if len(old) >= 8 {
		number := binary.LittleEndian.Uint64(old)
		if key := binary.BigEndian.AppendUint64(nil, number); bytes.Equal(order.Get(key), path) {
			if err := order.Delete(key); err != nil {
				return 0, err
			}
		}
	}
	return n, trees.Delete(path)
}

// sweep forgets the files that are gone or of another version by now.
func (s *TreeStore) sweep(dir disk.Dir) (err error) {
	defer guard(&err)
	var stale [][]byte
	s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketTrees).ForEach(func(path, record []byte) error {
			v, _, ok := checkRecord(string(path), record)
			if info, err := dir.Stat(string(path)); !ok || errors.Is(err, fs.ErrNotExist) || (err == nil && disk.VersionOf(info) != v) {
				stale = append(stale, bytes.Clone(path))
			}
			return nil
		})
	})
	if len(stale) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	total := s.total
	err = s.db.Update(func(tx *bbolt.Tx) error {
		for _, path := range stale {
			n, err := s.remove(tx, path)
			if err != nil {
				return err
			}
			total -= n
		}
		return nil
	})
	if err == nil {
		s.total = total
	}
	return err
}
