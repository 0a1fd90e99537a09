//go:build unix

package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// absentErrnos are the errors that mean "not here".
var absentErrnos = []error{syscall.EPERM, syscall.EACCES, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS,
	syscall.EINVAL, syscall.ENOTTY}

// absentOps are the operations of a faultyDir that are not essential, with those of disk.Needs.
var absentOps = map[string]struct {
	op    disk.Operation
	extra []error
}{
	"chmod":      {disk.OpMode, []error{syscall.EROFS}},
	"chtimes":    {disk.OpTimes, []error{syscall.EROFS, syscall.EOVERFLOW}},
	"sync":       {disk.OpSync, nil},
	"syncdir":    {disk.OpSyncDir, []error{syscall.EBADF}},
	"checkpoint": {disk.OpCheckpoint, nil},
	"lock":       {disk.OpLock, []error{syscall.ENOLCK}},
	"allocate":   {disk.OpReserve, nil},
	"release":    {disk.OpRelease, nil},
	"punch":      {disk.OpPunch, nil},
	"free":       {disk.OpFree, nil},
	"close":      {disk.OpClose, nil},
	"closedir":   {disk.OpClose, nil},
}

// TestTortureWithoutOperations makes each operation that is not essential impossible, in each way.
// It does so in each kind of transfer: for files, ranges and resumed ones. The file lands, and
// one warning tells what was not possible. No part file is left.
func TestTortureWithoutOperations(t *testing.T) {
	tried := 0
	for name, c := range crashCases {
		c.version = versionFrom(crashWant, crashGroup)
		for call, absent := range absentOps {
			for _, errno := range append(slices.Clone(absentErrnos), absent.extra...) {
				d := newCrashDisk(c.start())
				x := &faults{fail: 1, with: errno, only: []string{call}, stays: true, under: d.opener()}
				faulty := func(o *GetOptions) { o.OpenDir = x.opener() }
				r, lies, err := c.offline(d, rand.New(rand.NewPCG(1, 1)), faulty)
				if x.failed() == "" {
					continue
				}
				tried++
				s := d.now()
				target := s.get("out")
				what := fmt.Sprintf("%s: %v of %s", name, errno, call)
				if call == "lock" {
					lies = 0 // they are counted in the part file of the shared name
				}
				isRight := target != nil && bytes.Equal(target.data, c.want())
				if err != nil || lies > 0 || !isRight {
					t.Errorf("%s: %v, %+v", what, err, r)
				}
				isTold := slices.ContainsFunc(r.Warnings, func(w Warning) bool {
					return w.Operation == absent.op && strings.Contains(w.Message, errno.Error())
				})
				if want := disk.NeedOf(absent.op).Told; isTold != want && call != "allocate" {
					t.Errorf("%s: the warnings are %+v", what, r.Warnings)
				}
				for left := range s.names {
					if left != "out" && left != "bystander" {
						t.Errorf("%s: there is %q", what, left)
					}
				}
			}
		}
	}
	if tried < 1000 {
		t.Errorf("only %d operations were tried", tried)
	}
}

// An absentTree is a TreeDir that cannot do some operations.
func absentTree(op string, errno error) func(*MirrorOptions) {
	return spied(&spy{step: func(did, path string) error {
		if did == op {
			return &os.PathError{Op: op, Path: path, Err: errno}
		}
		return nil
	}})
}

// TestMirrorWithoutOperations is the same for directories.
func TestMirrorWithoutOperations(t *testing.T) {
	source := t.TempDir()
	os.MkdirAll(filepath.Join(source, "d"), 0o755)
	transfertest.Put(t, filepath.Join(source, "d", "small"), "content")
	transfertest.Put(t, filepath.Join(source, "large"), strings.Repeat("y", 1<<20))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, op := range []string{"chmod", "chtimes", "lock", "sync", "syncdir", "syncvolume"} {
		for _, errno := range []error{syscall.EPERM, syscall.ENOSYS, syscall.EINVAL} {
			target := filepath.Join(t.TempDir(), "copy")
			result, reports, err := s.mirror(t.Context(), target, absentTree(op, errno))
			if err != nil || result.Failed > 0 {
				t.Errorf("%v of %s: %v; %+v", errno, op, err, reports.files)
			}
			for _, name := range []string{"d/small", "large"} {
				want, _ := os.ReadFile(filepath.Join(source, name))
				if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%v of %s: %q has %d bytes, %v", errno, op, name, len(got), err)
				}
			}
		}
	}
}

// TestPartFileThatOthersChange has another process change or truncate the part file between two
// writes. The target does not get the wrong bytes, and a second get mends them.
func TestPartFileThatOthersChange(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096*4)
	tree := treeOf(content)
	for name, change := range map[string]func(part string) error{
		"truncated": func(part string) error { return os.Truncate(part, 5) },
		"other bytes": func(part string) error {
			f, err := os.OpenFile(part, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("wrong"), 7)
			return err
		},
		"longer": func(part string) error { return os.Truncate(part, int64(len(content))+1) },
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			for n := range 2 {
				p, err := open(disk.OpenDir, target)
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
					t.Fatal(err)
				}
				for off := 0; off < len(content); off += 65536 {
					have := rangeset.Of(p.Have()...)
					if have.ContainsRange(int64(off), int64(off+65536)) {
						continue
					}
					if _, err := p.WriteAt(content[off:off+65536], int64(off)); err != nil {
						t.Fatal(err)
					}
					if n == 0 && off == 65536 {
						if err := change(filepath.Join(filepath.Dir(target), partName("out"))); err != nil {
							t.Fatal(err)
						}
					}
				}
				err = p.Commit(wholeMeta)
				p.Leave()
				if n == 0 {
					if _, there := os.Lstat(target); !errors.Is(err, partfile.ErrChanged) || there == nil {
						t.Fatalf("the first get: %v, %v", err, there)
					}
					continue
				}
				if got, _ := os.ReadFile(target); err != nil || !bytes.Equal(got, content) {
					t.Fatalf("the second get: %v, %d bytes", err, len(got))
				}
			}
		})
	}
}
