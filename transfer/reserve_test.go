package transfer

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
func (f smallDiskFile) Free() (int64, bool)      { return f.disk.free, f.disk.free >= 0 }

// largeFile is large enough for a reservation, and its last group is short.
func largeFile() (content []byte, tree *integrity.Tree) {
	content = make([]byte, reserveFrom+5*65536+100)
	rand.NewChaCha8([32]byte{16}).Read(content)
	return content, treeOf(content)
}

// lastGroup is where the last group of largeFile begins.
const lastGroup = reserveFrom + 5*65536

// Nothing is reserved while the size is a claim. Then all that is missing is, once, or the transfer ends with what is needed and
// what there is.
func TestReserve(t *testing.T) {
	content, tree := largeFile()
	size := int64(len(content))
	missing := []rangeset.Range{{Start: 65536, End: lastGroup}}
	needed := missing[0].Len()
	for name, x := range map[string]struct {
		disk     smallDisk
		want     *SpaceError
		says     string
		reserved []rangeset.Range
	}{
		"room":                    {smallDisk{free: needed}, nil, "", missing},
		"nobody knows":            {smallDisk{free: -1}, nil, "", missing},
		"a byte less":             {smallDisk{free: needed - 1}, &SpaceError{needed, needed - 1, syscall.ENOSPC}, "no space left on device: 17039360 more bytes are needed, 17039359 are free", nil},
		"none at all":             {smallDisk{}, &SpaceError{needed, 0, syscall.ENOSPC}, "0 are free", nil},
		"less than it says":       {smallDisk{free: 1 << 40, err: syscall.ENOSPC}, &SpaceError{needed, 1 << 40, syscall.ENOSPC}, "no space left on device: ", missing},
		"a quota":                 {smallDisk{free: 1 << 40, err: disk.ErrQuota}, &SpaceError{needed, -1, disk.ErrQuota}, "17039360 more bytes are needed", missing},
		"a limit":                 {smallDisk{free: 1 << 40, err: syscall.EFBIG}, &SpaceError{needed, -1, syscall.EFBIG}, "file too large: ", missing},
		"a full disk of any size": {smallDisk{probeErr: syscall.ENOSPC, free: -1}, &SpaceError{needed, -1, syscall.ENOSPC}, "", nil},
		"cannot reserve":          {smallDisk{probeErr: errors.ErrUnsupported}, nil, "", nil},
		"may not reserve":         {smallDisk{probeErr: syscall.EPERM}, nil, "", nil},
		"breaks":                  {smallDisk{free: needed, err: syscall.EIO}, nil, "", missing},
	} {
		t.Run(name, func(t *testing.T) {
			disk := x.disk
			target := filepath.Join(t.TempDir(), "out")
			p, err := openPart(disk.open, target, false)
			if err != nil {
				t.Fatal(err)
			}
			defer p.leave()
			if err := p.prove(t.Context(), tree, nil); err != nil {
				t.Fatal(err)
			}
			write := func(start, end int64) error {
				_, err := p.WriteAt(content[start:end], start)
				return err
			}
			if first, ok := p.first(); ok != (disk.probeErr == nil) || ok && first != (rangeset.Range{Start: lastGroup, End: size}) {
				t.Errorf("first comes %v, %t", first, ok)
			}
			if err := write(0, 65536); err != nil {
				t.Fatal(err)
			}
			if disk.reserved.Total() > 0 {
				t.Fatal("room was reserved for a size that was not proved")
			}
			err = write(lastGroup, size)
			if !reflect.DeepEqual(disk.reserved.Ranges(), x.reserved) {
				t.Errorf("reserved %v, want %v", disk.reserved.Ranges(), x.reserved)
			}
			if _, ok := p.first(); ok {
				t.Error("what is there is to come first")
			}
			if x.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				disk.reserved = rangeset.Set{}
				if err := write(lastGroup-65536, size); err != nil || disk.reserved.Total() > 0 {
					t.Errorf("room was reserved again, %v", err)
				}
				if !p.leave() || disk.released.Total() > 0 {
					t.Errorf("released %v", &disk.released)
				}
				return
			}
			space, ok := errors.AsType[*SpaceError](err)
			if !ok || *space != *x.want || !errors.Is(err, x.want.Err) {
				t.Fatalf("error %v", err)
			}
			kind := KindNoSpace
			if x.want.Err == syscall.EFBIG {
				kind = KindLocal
			}
			wantKind(t, err, kind, x.says)
			if !p.leave() || !reflect.DeepEqual(disk.released.Ranges(), missing) {
				t.Errorf("what was reserved in vain is not given back, but %v", &disk.released)
			}

			// When there is room: at once, for the size is proved by what is there.
			disk = smallDisk{free: needed}
			if p, err = openPart(disk.open, target, false); err != nil {
				t.Fatal(err)
			}
			defer p.leave()
			if err := errors.Join(p.prove(t.Context(), tree, nil), p.reserve()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(disk.reserved.Ranges(), missing) {
				t.Errorf("reserved %v of a file that goes on", &disk.reserved)
			}
			if err := write(65536, lastGroup); err != nil {
				t.Fatal(err)
			}
			if err := p.commit(0o600, transfertest.SomeTime); err != nil {
				t.Fatal(err)
			}
			wantNames(t, filepath.Dir(target), "out")
			transfertest.WantContent(t, target, string(content))
		})
	}
}

// The room is no content: the file has the size and the bytes that it had, and a transfer that goes on reads none of it.
func TestReservedRoomIsAHole(t *testing.T) {
	content, tree := largeFile()
	target := filepath.Join(t.TempDir(), "out")
	p, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	disk, ok := p.file.(disk.Allocator)
	if !ok {
		t.Skip("room cannot be reserved on this system")
	}
	if err := p.prove(t.Context(), tree, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteAt(content[lastGroup:], lastGroup); err != nil {
		t.Fatal(err)
	}
	if err := disk.Allocate(0, 1); errors.Is(err, errors.ErrUnsupported) {
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
	if had, err := survey(t.Context(), p.file, tree.Size(), tree, nil); err != nil || had.Total() != 100 {
		t.Errorf("proved %v, %v", &had, err)
	}
	if info, err := p.file.Stat(); err != nil || info.Size() != int64(len(content)) {
		t.Errorf("%v, %v", info, err)
	}
	p.refused = true
	p.leave()
	if used := diskUse(t, mustOpen(t, filepath.Join(filepath.Dir(target), partName("out")))); used >= reserveFrom {
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

// Whatever fails while room is reserved, but a lack of it, is of no account, and then, too, nothing is there but the part file.
func TestReserveWhenOperationsFail(t *testing.T) {
	content, tree := largeFile()
	for name, with := range map[string]error{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				x := &faults{fail: n, with: with}
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				err := func() error {
					p, err := openPart(x.opener(), target, false)
					if err != nil {
						return err
					}
					defer p.leave()
					if err := p.prove(t.Context(), tree, nil); err != nil {
						return err
					}
					for _, r := range []rangeset.Range{{Start: lastGroup, End: tree.Size()}, {Start: 0, End: lastGroup}} {
						if _, err := p.WriteAt(content[r.Start:r.End], r.Start); err != nil {
							return err
						}
					}
					return p.commit(0o600, transfertest.SomeTime)
				}()
				if x.failed() == "" {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if reserving := x.failed() == "allocate" || x.failed() == "free"; reserving && (err != nil) != (with == syscall.ENOSPC && x.failed() == "allocate") {
					t.Errorf("%q failed: %v", x.ops, err)
				}
				if x.open != 0 {
					t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
				}
				if got, readErr := os.ReadFile(target); readErr != nil || len(got) != len("before") && len(got) != len(content) {
					t.Errorf("%d bytes are in place after %q, %v", len(got), x.ops, readErr)
				}
			}
		})
	}
}
