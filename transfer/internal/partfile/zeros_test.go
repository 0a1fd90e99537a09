package partfile

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// groupSize is the size of the groups of transfertest.TreeOf.
const groupSize = 65536

// withHole returns a content whose middle groups are zeros, its tree, and the holes of it: those
// groups, and a part of another.
func withHole() (content []byte, tree *integrity.Tree, holes Holes) {
	content = make([]byte, 5*groupSize+100)
	rand.NewChaCha8([32]byte{3}).Read(content)
	clear(content[groupSize : 3*groupSize+8192])
	holes = Holes{Size: int64(len(content)), Group: groupSize, Block: 4096}
	holes.Ranges.Add(groupSize, 3*groupSize+8192)
	return content, transfertest.TreeOf(content), holes
}

// A seekDisk is a Dir of the operating system whose files answer questions about holes as a file
// system of the test's does.
type seekDisk struct {
	disk.Dir
	nextData func(f disk.File, off int64) (start, end int64, ok bool)
	punch    error // nil lets the system punch
}

func (d *seekDisk) open(path string) (disk.Dir, error) {
	dir, err := disk.OpenDir(path)
	d.Dir = dir
	return d, err
}

func (d *seekDisk) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	return seekFile{f, d}, err
}

func (d *seekDisk) OpenPart(name string) (disk.File, error) {
	f, err := d.Dir.OpenPart(name)
	if err != nil {
		return nil, err
	}
	return seekFile{f, d}, nil
}

type seekFile struct {
	disk.File
	disk *seekDisk
}

func (f seekFile) NextData(off int64) (start, end int64, ok bool) {
	return f.disk.nextData(f.File, off)
}

func (f seekFile) PunchHole(start, end int64) error {
	puncher, ok := f.File.(disk.Puncher)
	if f.disk.punch != nil || !ok {
		return f.disk.punch
	}
	return puncher.PunchHole(start, end)
}

// fetchHoles receives a content with holes, and reports how many bytes were fetched.
func fetchHoles(t *testing.T, p *PartFile, content []byte, tree *integrity.Tree, holes Holes) int64 {
	t.Helper()
	p.KeepHoles(holes)
	if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
		t.Fatal(err)
	}
	fetched := int64(0)
	have := rangeset.Of(p.Have()...)
	for off := int64(0); off < tree.Size(); off += groupSize {
		end := min(off+groupSize, tree.Size())
		if have.Contains(off) {
			continue
		}
		if _, err := p.WriteAt(content[off:end], off); err != nil {
			t.Fatal(err)
		}
		fetched += end - off
	}
	return fetched
}

// TestHolesOnEveryFileSystem has a part file with wrong bytes also where the file has its holes.
// File systems answer questions about holes rightly, wrongly or not at all. The file is right.
func TestHolesOnEveryFileSystem(t *testing.T) {
	content, tree, holes := withHole()
	right := func(f disk.File, off int64) (start, end int64, ok bool) { return f.NextData(off) }
	none := func(disk.File, int64) (start, end int64, ok bool) { return 0, 0, false }
	unknown := func(_ disk.File, off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }
	for name, d := range map[string]seekDisk{
		"right":                              {nextData: right},
		"right, but no way to make holes":    {nextData: right, punch: errors.ErrUnsupported},
		"right, and making a hole fails":     {nextData: right, punch: syscall.EIO},
		"not supported":                      {nextData: unknown, punch: errors.ErrUnsupported},
		"ENXIO for all, as if it had none":   {nextData: none},
		"ENXIO for all, no way to make some": {nextData: none, punch: syscall.EPERM},
	} {
		for part, before := range map[string][]byte{
			"nothing":          nil,
			"wrong bytes":      bytes.Repeat([]byte{7}, len(content)+5000),
			"some right bytes": append(bytes.Clone(content[:groupSize]), bytes.Repeat([]byte{7}, 3*groupSize)...),
			"ends in a hole":   bytes.Repeat([]byte{7}, 2*groupSize+77),
		} {
			t.Run(name+"/"+part, func(t *testing.T) {
				target := filepath.Join(t.TempDir(), "out")
				if before != nil {
					transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), string(before))
				}
				p, err := open(d.open, target)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Leave()
				fetched := fetchHoles(t, p, content, tree, holes)
				had, resumed, _ := p.InPlace()
				zeros := p.Holes()
				if had != tree.Size() || zeros != 2*groupSize || had != fetched+resumed+zeros {
					t.Errorf("%d bytes in place: %d fetched, %d resumed, %d in holes", had, fetched, resumed, zeros)
				}
				if err := p.Commit(meta); err != nil {
					t.Fatal(err)
				}
				transfertest.WantContent(t, target, string(content))
			})
		}
	}
}

// TestHolesAfterATornWrite checks that zeros of a hole are written over what a write left that
// failed.
func TestHolesAfterATornWrite(t *testing.T) {
	content, tree, holes := withHole()
	target := filepath.Join(t.TempDir(), "out")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	p.KeepHoles(holes)
	if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
		t.Fatal(err)
	}
	whole := p.file
	p.file = newOwnFile(tornFile{whole})
	group := content[3*groupSize : 4*groupSize]
	if _, err := p.WriteAt(group, 3*groupSize); err == nil {
		t.Fatal("the write did not fail")
	}
	p.file = whole
	fetchHoles(t, p, content, tree, holes)
	if err := p.Commit(meta); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, string(content))
}

// A tornFile writes other bytes all over the group, and fails.
type tornFile struct{ disk.File }

func (f tornFile) WriteAt(p []byte, off int64) (int, error) {
	f.File.WriteAt(bytes.Repeat([]byte{7}, groupSize), off-off%groupSize)
	return 0, syscall.EIO
}

// TestOnlyHolesAreNotKept checks that a part file with nothing but holes is removed: the next
// transfer would not be faster.
func TestOnlyHolesAreNotKept(t *testing.T) {
	_, tree, holes := withHole()
	target := filepath.Join(t.TempDir(), "out")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	p.KeepHoles(holes)
	if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
		t.Fatal(err)
	}
	if p.Leave() {
		t.Error("it was kept")
	}
	transfertest.WantNames(t, filepath.Dir(target))
}

// TestReserveForHoles checks that no space is reserved for holes, so that a file fits whose data
// fits.
func TestReserveForHoles(t *testing.T) {
	content, _ := largeFile()
	clear(content[groupSize : lastGroup-groupSize-4096]) // 64 KiB and 4 KiB of data before the last group
	data := make([]byte, reserveFrom)
	rand.NewChaCha8([32]byte{17}).Read(data)
	content = append(content[:lastGroup:lastGroup], append(data, content[lastGroup:]...)...)
	tree := transfertest.TreeOf(content)
	size := int64(len(content))
	hole := rangeset.Range{Start: groupSize, End: lastGroup - groupSize - 4096}
	rest := rangeset.Of(rangeset.Range{End: groupSize}, rangeset.Range{Start: hole.End, End: size - size%groupSize})
	for name, x := range map[string]struct {
		more bool
		want rangeset.Set
	}{"all known": {false, rest}, "more of them": {true, rangeset.Set{}}} {
		t.Run(name, func(t *testing.T) {
			small := smallDisk{free: rest.Total()}
			p, err := open(small.open, filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Leave()
			p.KeepHoles(Holes{Size: size, Group: groupSize, Block: 4096, Ranges: rangeset.Of(hole), More: x.more})
			if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
				t.Fatal(err)
			}
			if _, ok := p.Priority(); ok == x.more {
				t.Errorf("the last group has priority: %t", ok)
			}
			if _, err := p.WriteAt(content[size-size%groupSize:], size-size%groupSize); err != nil {
				t.Fatal(err)
			}
			if small.reserved.String() != x.want.String() {
				t.Errorf("%v was reserved, want %v", &small.reserved, &x.want)
			}
		})
	}
}

// TestMoreHoles checks that zero blocks are not written if the file has holes that are not
// announced. A later survey finds each group nevertheless.
func TestMoreHoles(t *testing.T) {
	content := make([]byte, 4*groupSize)
	content[groupSize+5000], content[3*groupSize] = 1, 2
	tree := transfertest.TreeOf(content)
	target := filepath.Join(t.TempDir(), "out")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	fetchHoles(t, p, content, tree, Holes{Size: int64(len(content)), Group: groupSize, Block: 4096, More: true})
	right, err := Survey(t.Context(), p.file, tree.Size(), tree, nil)
	if err != nil || right.Total() != tree.Size() {
		t.Errorf("a survey finds %v, error %v", &right, err)
	}
	if err := p.Commit(meta); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, string(content))
	if used := used(t, target); runtime.GOOS == "linux" && used > 5*4096 { // other systems have larger holes
		t.Errorf("it takes %d bytes", used)
	}
}

// used returns how many bytes of a file are data.
func used(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := disk.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); ; {
		start, end, ok := f.NextData(at)
		if !ok || start >= info.Size() {
			return n
		}
		n += min(end, info.Size()) - start
		at = end
	}
}
