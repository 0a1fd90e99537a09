//go:build unix

package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A faultyTree is a faultyDir that is a TreeDir. It has more operations.
type faultyTree struct {
	faultyDir
	tree disk.TreeDir
}

func newFaultyTree(d disk.TreeDir, f *faults) disk.TreeDir {
	f.opened(1)
	return faultyTree{faultyDir{d, f}, d}
}

func (d faultyTree) Unwrap() disk.TreeDir { return d.tree }

func (d faultyTree) Names(limit int) ([]string, error) {
	if err := d.step("names", "."); err != nil {
		return nil, err
	}
	return d.tree.Names(limit)
}

func (d faultyTree) sub(name string, open func(string) (disk.TreeDir, error)) (disk.TreeDir, error) {
	if err := d.step("sub", name); err != nil {
		return nil, err
	}
	below, err := open(name)
	if err != nil {
		return nil, err
	}
	return newFaultyTree(below, d.faults), nil
}

func (d faultyTree) Sub(name string) (disk.TreeDir, error) { return d.sub(name, d.tree.Sub) }
func (d faultyTree) At(name string) (disk.TreeDir, error)  { return d.sub(name, d.tree.At) }

func (d faultyTree) Mkdir(name string) error {
	if err := d.step("mkdir", name); err != nil {
		return err
	}
	return d.tree.Mkdir(name)
}

func (d faultyTree) Readlink(name string) (string, error) {
	if err := d.step("readlink", name); err != nil {
		return "", err
	}
	return d.tree.Readlink(name)
}

func (d faultyTree) Symlink(target, name string) error {
	if err := d.step("symlink", name); err != nil {
		return err
	}
	return d.tree.Symlink(target, name)
}

func (d faultyTree) ChmodDir(name string, mode fs.FileMode) error {
	if err := d.step("chmod", name); err != nil {
		return err
	}
	return d.tree.ChmodDir(name, mode)
}

func (d faultyTree) OpenVolume() (disk.Volume, error) {
	if err := d.step("openvolume", "."); err != nil {
		return nil, err
	}
	return faultyVolume{d.faults}, nil
}

// A faultyVolume syncs nothing: the tests need no durability.
type faultyVolume struct{ *faults }

func (v faultyVolume) Sync() error  { return v.step("syncvolume", ".") }
func (v faultyVolume) Close() error { return nil }

// mirrorAbsentOps are the operations of a faultyTree that are not essential to a mirror.
var mirrorAbsentOps = func() map[string]disk.Operation {
	all := map[string]disk.Operation{
		"symlink": disk.OpSymlink, "openvolume": disk.OpSyncVolume, "syncvolume": disk.OpSyncVolume,
	}
	for call, absent := range absentOps {
		all[call] = absent.op
	}
	return all
}()

// mirrorErrnos are the errors of the torture of mirrors. The first ones mean "not here" for most
// operations, and the last ones for none.
var mirrorErrnos = append(slices.Clone(absentErrnos), syscall.ENOLCK, syscall.EXDEV, syscall.EMLINK, syscall.ELOOP,
	syscall.EROFS, syscall.ESTALE, syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EINTR, syscall.EMFILE)

// looksOrRemoves are the operations after whose failure a temporary file may stay.
var looksOrRemoves = []string{"remove", "lstat", "fstat"}

// mirrorVariants are the options of the mirrors that fail.
var mirrorVariants = map[string]func(*MirrorOptions){
	"plain":   func(*MirrorOptions) {},
	"stage":   func(o *MirrorOptions) { o.Stage = true },
	"reuse":   func(o *MirrorOptions) { o.Reuse, o.Preallocate = true, disk.PreallocateFull },
	"backup":  func(o *MirrorOptions) { o.BackupDir = o.Target + "-backup" },
	"plainer": func(o *MirrorOptions) { o.NoPreserve, o.NoSparse = true, true },
}

// A mirrorTorture mirrors one tree again and again.
type mirrorTorture struct {
	*mirrorServer
	want map[string]treeEntry
}

// newMirrorTorture serves small and large files, an empty one, directories, a link and holes.
func newMirrorTorture(t *testing.T) *mirrorTorture {
	source := t.TempDir()
	os.MkdirAll(filepath.Join(source, "d", "e"), 0o755)
	transfertest.Put(t, filepath.Join(source, "d", "small"), "content")
	transfertest.Put(t, filepath.Join(source, "d", "e", "empty"), "")
	transfertest.Put(t, filepath.Join(source, "large"), strings.Repeat("large", 200_000))
	transfertest.Put(t, filepath.Join(source, "same"), "same")
	holes := transfertest.Put(t, filepath.Join(source, "holes"), strings.Repeat("x", 70_000))
	os.Truncate(holes, 1<<20)
	os.Symlink("large", filepath.Join(source, "link"))
	for name := range snapshot(t, source) { // old files: their trees are kept
		os.Chtimes(filepath.Join(source, name), time.Unix(1e9, 0), time.Unix(1e9, 0))
	}
	return &mirrorTorture{ServeTree(t, kwik.ServerRolePrimary, source, nil), snapshot(t, source)}
}

// target returns a target with old files, extra ones and part files.
func (m *mirrorTorture) target(t *testing.T) string {
	target := filepath.Join(t.TempDir(), "copy")
	os.MkdirAll(filepath.Join(target, "d"), 0o755)
	transfertest.Put(t, filepath.Join(target, "same"), "same")
	transfertest.Put(t, filepath.Join(target, "d", "small"), "old")
	transfertest.Put(t, filepath.Join(target, "extra"), "extra")
	transfertest.Put(t, filepath.Join(target, partName("large")), strings.Repeat("large", 40_000))
	return target
}

// run makes one mirror whose operations fail as x tells, and one without faults. isAbsent is set if
// the first must succeed.
func (m *mirrorTorture) run(t *testing.T, x *faults, isAbsent bool, variant string) {
	t.Helper()
	target := m.target(t)
	before := snapshot(t, target)
	faulty := func(o *MirrorOptions) {
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			if err != nil {
				return nil, err
			}
			return newFaultyTree(d, x), nil
		}
	}
	result, reports, err := m.mirror(t.Context(), target, deleting, mirrorVariants[variant], faulty)
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %v at %d of %v, stays %t, which failed first: %q: %s\n%v; %+v; %+v", variant, x.with, x.fail,
			x.only, x.stays, x.failed(), fmt.Sprintf(format, args...), err, result, reports.files)
	}
	kind := KindLocal
	if errors.Is(x.with, syscall.ENOSPC) || errors.Is(x.with, syscall.EDQUOT) {
		kind = KindNoSpace
	}
	failed, isError := errors.AsType[*Error](err)
	switch {
	case err != nil && x.failed() == "":
		bad("nothing failed")
	case err != nil && isAbsent:
		bad("the mirror did not go on")
	case err != nil && (!isError || failed.Kind != kind):
		bad("the error is not of the kind %v", kind)
	}
	if x.open != 0 {
		bad("%d files and directories are open", x.open)
	}
	lacksLinks := x.failed() == "symlink" && disk.IsAbsent(disk.OpSymlink, x.with)
	after := snapshot(t, target)
	for name, e := range after {
		isTemporary := wire.IsTemporary(filepath.Base(name))
		isOld, isNew := e.content == before[name].content, e.content == m.want[name].content
		switch {
		case isTemporary && err == nil && !x.stays && !slices.Contains(looksOrRemoves, x.failed()):
			bad("%q is left", name)
		case !isTemporary && !isOld && !isNew:
			bad("%q is torn: it has %d bytes", name, len(e.content))
		}
	}
	for name, e := range m.want {
		isLeftOut := lacksLinks && name == "link"
		if have, there := after[name]; err == nil && !isLeftOut && (!there || have.content != e.content) {
			bad("%q is wrong or missing", name)
		}
	}
	if _, _, err := m.mirror(t.Context(), target, deleting); err != nil {
		bad("again: %v", err)
	}
	for name, e := range snapshot(t, target) {
		if e.content != m.want[name].content || wire.IsTemporary(filepath.Base(name)) {
			bad("again: there is %q", name)
		}
	}
}

// TestTortureOfMirrors makes each operation of a mirror fail in each way, alone or from then on. No
// file is torn, nothing stays open, the error has the right kind, and the next mirror completes
// the tree. An operation that is not essential and impossible stops nothing. The test draws some of
// all these, and all with KWIKCP_ATTACK=long.
func TestTortureOfMirrors(t *testing.T) {
	m := newMirrorTorture(t)
	none := &faults{}
	m.run(t, none, true, "plain")
	counts := make(map[string]int)
	for _, op := range none.ops {
		counts[op]++
	}
	ops := slices.Sorted(maps.Keys(counts))
	if len(ops) < 20 {
		t.Errorf("only these operations: %v", ops)
	}
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	variants := slices.Sorted(maps.Keys(mirrorVariants))
	try := func(op string, errno error, stays bool) {
		x := &faults{fail: 1, with: errno, only: []string{op}, stays: stays}
		need, mayLack := mirrorAbsentOps[op]
		isAbsent := mayLack && stays && disk.IsAbsent(need, errno)
		if op == "symlink" && errno == syscall.EACCES { // of the directory
			isAbsent = false
		}
		if !isAbsent {
			x.fail += dice.IntN(counts[op])
		}
		m.run(t, x, isAbsent, variants[dice.IntN(len(variants))])
	}
	if os.Getenv("KWIKCP_ATTACK") == "long" {
		for _, op := range ops {
			for _, errno := range mirrorErrnos {
				try(op, errno, true)
				try(op, errno, false)
			}
		}
		return
	}
	for range mirrorTortures {
		try(ops[dice.IntN(len(ops))], mirrorErrnos[dice.IntN(len(mirrorErrnos))], dice.IntN(2) == 0)
	}
}

// mirrorTortures is how many mirrors fail in the short form.
const mirrorTortures = 8
