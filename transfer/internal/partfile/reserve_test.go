package partfile

import (
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// A smallDisk is a Dir of the operating system whose files reserve room on a disk of the test's.
type smallDisk struct {
	disk.Dir
	free     int64 // bytes; -1 if the file system does not say
	err      error // of every Allocate of more than a byte
	probeErr error // of every Allocate of a byte

	reserved, released rangeset.Set
}

func (d *smallDisk) open(path string) (disk.Dir, error) {
	dir, err := disk.OpenDir(path)
	d.Dir = dir
	return d, err
}

func (d *smallDisk) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	return smallDiskFile{f, d}, err
}

func (d *smallDisk) OpenPart(name string) (disk.File, error) {
	f, err := d.Dir.OpenPart(name)
	if err != nil {
		return nil, err
	}
	return smallDiskFile{f, d}, nil
}

type smallDiskFile struct {
	disk.File
	disk *smallDisk
}

func (f smallDiskFile) Allocate(start, end int64) error {
	if end-start == 1 {
		return f.disk.probeErr
	}
	f.disk.reserved.Add(start, end)
	if f.disk.err != nil {
		return &fs.PathError{Op: "fallocate", Err: f.disk.err}
	}
	return nil
}

func (f smallDiskFile) Release(start, end int64) { f.disk.released.Add(start, end) }

func (f smallDiskFile) Free() (int64, bool) { return f.disk.free, f.disk.free >= 0 }

// largeFile is large enough for a reservation, and its last group is short.
func largeFile() (content []byte, tree *integrity.Tree) {
	content = make([]byte, reserveFrom+5*65536+100)
	rand.NewChaCha8([32]byte{16}).Read(content)
	return content, transfertest.TreeOf(content)
}

// lastGroup is where the last group of largeFile begins.
const lastGroup = reserveFrom + 5*65536

// TestReserve checks that no space is reserved while the size is only a claim. Then the client
// reserves the missing bytes once. If the space is too small, the error has the needed and the
// free space.
func TestReserve(t *testing.T) {
	content, tree := largeFile()
	size := int64(len(content))
	missing := []rangeset.Range{{Start: 65536, End: lastGroup}}
	needed := missing[0].Len()
	for name, x := range map[string]struct {
		disk     smallDisk
		want     *disk.SpaceError
		says     string
		reserved []rangeset.Range
	}{
		"room":         {smallDisk{free: needed}, nil, "", missing},
		"nobody knows": {smallDisk{free: -1}, nil, "", missing},
		"a byte less": {smallDisk{free: needed - 1},
			&disk.SpaceError{Needed: needed, Free: needed - 1, Err: syscall.ENOSPC},
			"no space left on device: 17039360 more bytes are needed, 17039359 are free", nil},
		"none at all": {smallDisk{}, &disk.SpaceError{Needed: needed, Free: 0, Err: syscall.ENOSPC},
			"0 are free", nil},
		"less than it says": {smallDisk{free: 1 << 40, err: syscall.ENOSPC},
			&disk.SpaceError{Needed: needed, Free: 1 << 40, Err: syscall.ENOSPC}, "no space left on device: ", missing},
		"a quota": {smallDisk{free: 1 << 40, err: disk.ErrQuota},
			&disk.SpaceError{Needed: needed, Free: -1, Err: disk.ErrQuota}, "17039360 more bytes are needed", missing},
		"a limit": {smallDisk{free: 1 << 40, err: syscall.EFBIG},
			&disk.SpaceError{Needed: needed, Free: -1, Err: syscall.EFBIG}, "file too large: ", missing},
		"a full disk of any size": {smallDisk{probeErr: syscall.ENOSPC, free: -1},
			&disk.SpaceError{Needed: needed, Free: -1, Err: syscall.ENOSPC}, "", nil},
		"cannot reserve":  {smallDisk{probeErr: errors.ErrUnsupported}, nil, "", nil},
		"may not reserve": {smallDisk{probeErr: syscall.EPERM}, nil, "", nil},
		"breaks":          {smallDisk{free: needed, err: syscall.EIO}, nil, "", missing},
	} {
		t.Run(name, func(t *testing.T) {
			small := x.disk
			target := filepath.Join(t.TempDir(), "out")
			p, err := open(small.open, target)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Leave()
			if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
				t.Fatal(err)
			}
			write := func(start, end int64) error {
				_, err := p.WriteAt(content[start:end], start)
				return err
			}
			if first, ok := p.Priority(); ok != (small.probeErr == nil) ||
				ok && first != (rangeset.Range{Start: lastGroup, End: size}) {
				t.Errorf("first comes %v, %t", first, ok)
			}
			if err := write(0, 65536); err != nil {
				t.Fatal(err)
			}
			if small.reserved.Total() > 0 {
				t.Fatal("room was reserved for a size that was not proved")
			}
			err = write(lastGroup, size)
			if !reflect.DeepEqual(small.reserved.Ranges(), x.reserved) {
				t.Errorf("reserved %v, want %v", small.reserved.Ranges(), x.reserved)
			}
			if _, ok := p.Priority(); ok {
				t.Error("the last group still has priority")
			}
			if x.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				small.reserved = rangeset.Set{}
				if err := write(lastGroup-65536, size); err != nil || small.reserved.Total() > 0 {
					t.Errorf("room was reserved again, %v", err)
				}
				missing := []rangeset.Range{{Start: 65536, End: lastGroup - 65536}}
				if !p.Leave() || !reflect.DeepEqual(small.released.Ranges(), missing) {
					t.Errorf("released %v, want all that is missing", &small.released)
				}
				return
			}
			space, ok := errors.AsType[*disk.SpaceError](err)
			if !ok || *space != *x.want || !errors.Is(err, x.want.Err) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), x.says) {
				t.Errorf("the error %q does not say %q", err, x.says)
			}
			if !p.Leave() || !reflect.DeepEqual(small.released.Ranges(), missing) {
				t.Errorf("the released ranges are %v", &small.released)
			}

			// When there is room: at once, for the size is proved by what is there.
			small = smallDisk{free: needed}
			if p, err = open(small.open, target); err != nil {
				t.Fatal(err)
			}
			defer p.Leave()
			if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(small.reserved.Ranges(), missing) {
				t.Errorf("reserved %v of a file that goes on", &small.reserved)
			}
			if err := write(65536, lastGroup); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(meta); err != nil {
				t.Fatal(err)
			}
			transfertest.WantNames(t, filepath.Dir(target), "out")
			transfertest.WantContent(t, target, string(content))
		})
	}
}

// TestReservedRoomIsAHole checks that reserved space is not content. The file keeps its size
// and bytes, and a resumed transfer reads no reserved space.
func TestReservedRoomIsAHole(t *testing.T) {
	content, tree := largeFile()
	target := filepath.Join(t.TempDir(), "out")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	space := p.file
	if _, ok := p.file.File.(disk.Allocator); !ok {
		t.Skip("room cannot be reserved on this system")
	}
	if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteAt(content[lastGroup:], lastGroup); err != nil {
		t.Fatal(err)
	}
	if err := space.Allocate(0, 1); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("room cannot be reserved on this file system")
	}
	if used := diskUse(t, p.file); used < int64(len(content)) {
		t.Fatalf("%d bytes are reserved for %d", used, len(content))
	}
	if start, _, ok := p.file.NextData(0); !ok || start > lastGroup {
		t.Errorf("data from %d on, %t", start, ok)
	} else if start == 0 {
		t.Log("on this file system room is data to a survey")
	}
	if had, err := Survey(t.Context(), p.file, tree.Size(), tree, nil); err != nil || had.Total() != 100 {
		t.Errorf("proved %v, %v", &had, err)
	}
	if info, err := p.file.Stat(); err != nil || info.Size() != int64(len(content)) {
		t.Errorf("%v, %v", info, err)
	}
	p.Leave()
	if used := diskUse(t, mustOpen(t, filepath.Join(filepath.Dir(target), PartName("out")))); used >= reserveFrom {
		t.Errorf("%d bytes are still reserved", used)
	}
}

// diskUse returns how many bytes a file takes on disk.
func diskUse(t *testing.T, f interface{ Stat() (fs.FileInfo, error) }) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	blocks := reflect.Indirect(reflect.ValueOf(info.Sys())).FieldByName("Blocks")
	if !blocks.IsValid() {
		t.Skip("this system does not say what a file takes on disk")
	}
	return blocks.Int() * 512
}

func mustOpen(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
