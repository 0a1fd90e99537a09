package partfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

const group = 65536

// stateFile is what the part files of this file receive: two groups and a short one.
func stateFile() (content []byte, tree *integrity.Tree) {
	content = make([]byte, 2*group+5)
	for i := range content {
		content[i] = byte(i / 7)
	}
	return content, transfertest.TreeOf(content)
}

// reach moves a new part file to a state. In the states Parked and Proved, the file has its
// first group.
func reach(t *testing.T, target string, state State) *PartFile {
	t.Helper()
	content, tree := stateFile()
	pool := NewPool(1)
	p, err := open(brokenDisk(state == Finishing, state == Unsafe), target, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Discard)
	write := func(start, end int64) {
		t.Helper()
		if _, err := p.WriteAt(content[start:end], start); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch state {
	case Unproved:
	case Cold:
		must(p.Forget())
		write(0, group)
	case Windowed:
		_, err := p.SetWindow(rangeset.Range{Start: 5, End: group + 5}, tree)
		must(err)
		write(0, group)
	default:
		must(p.Prove(t.Context(), tree, nil, nil))
		write(0, group)
	}
	switch state {
	case Parked:
		pool.admit(&PartFile{state: Ended})
	case Finishing, Unsafe:
		write(group, int64(len(content)))
		if err := p.Finish(meta, true); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Finish: %v", err)
		}
	case Finished:
		write(group, int64(len(content)))
		must(p.Finish(meta, true))
	case Ended:
		p.Leave()
	}
	if p.State() != state {
		t.Fatalf("the state is %v, want %v", p.State(), state)
	}
	return p
}

// brokenDisk opens directories in which times cannot be set, or files cannot be synced.
func brokenDisk(times, syncs bool) func(string) (disk.Dir, error) {
	return func(path string) (disk.Dir, error) {
		d, err := disk.OpenDir(path)
		return brokenDir{d, times, syncs}, err
	}
}

type brokenDir struct {
	disk.Dir
	times, syncs bool
}

func (d brokenDir) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	if err != nil {
		return nil, err
	}
	return brokenFile{f, d.syncs}, nil
}

func (d brokenDir) Chtimes(name string, mtime time.Time) error {
	if d.times {
		return syscall.EIO
	}
	return d.Dir.Chtimes(name, mtime)
}

type brokenFile struct {
	disk.File
	syncs bool
}

func (f brokenFile) Sync() error {
	if f.syncs {
		return syscall.EIO
	}
	return f.File.Sync()
}

// TestStates calls each method in each state: it leads to the state of the table at State, or
// is an error that changes nothing.
func TestStates(t *testing.T) {
	content, tree := stateFile()
	other := transfertest.TreeOf([]byte("other"))
	window := rangeset.Range{Start: 5, End: group + 5}
	states := []State{Unproved, Cold, Proved, Windowed, Parked, Finishing, Finished, Unsafe, Ended}
	for _, method := range []struct {
		name  string
		call  func(p *PartFile) error
		leads map[State]State
	}{
		{"WriteAt", func(p *PartFile) error { _, err := p.WriteAt(content[group:2*group], group); return err },
			map[State]State{Cold: Cold, Proved: Proved, Windowed: Windowed, Parked: Proved}},
		{"Prove", func(p *PartFile) error { return p.Prove(context.Background(), other, nil, nil) },
			map[State]State{Unproved: Proved, Cold: Proved, Proved: Proved}},
		{"Restart", func(p *PartFile) error { return p.Restart(tree) }, map[State]State{Unproved: Proved}},
		{"Forget", (*PartFile).Forget, map[State]State{Unproved: Cold, Cold: Cold, Proved: Cold}},
		{"Accept", func(p *PartFile) error { return p.Accept(tree) }, map[State]State{Cold: Proved}},
		{"SetWindow", func(p *PartFile) error { _, err := p.SetWindow(window, tree); return err },
			map[State]State{Unproved: Windowed, Windowed: Windowed}},
		{"Finish of a part", func(p *PartFile) error { return p.Finish(meta, true) }, nil},
		{"Rename", func(p *PartFile) error { return p.Rename(true) }, map[State]State{Finished: Ended}},
		{"SetAside", func(p *PartFile) error { return p.SetAside(".kwikcp-aside.new") },
			map[State]State{Finished: Ended}},
	} {
		for _, from := range states {
			t.Run(method.name+" in "+from.String(), func(t *testing.T) {
				p := reach(t, filepath.Join(t.TempDir(), "out"), from)
				err := method.call(p)
				want, legal := method.leads[from]
				if !legal {
					want = from
				}
				if legal != (err == nil) {
					t.Errorf("legal is %t, error %v", legal, err)
				}
				if got := p.State(); got != want {
					t.Errorf("it leads to %v, want %v", got, want)
				}
			})
		}
	}
}

// TestLeave leaves a part file in each state: it stays, with the mode of part files, if a
// transfer could resume from it.
func TestLeave(t *testing.T) {
	for state, keeps := range map[State]bool{
		Unproved: false, Cold: true, Proved: true, Windowed: false, Parked: true, Finishing: true, Finished: true,
		Unsafe: false,
	} {
		for _, discard := range []bool{false, true} {
			t.Run(state.String(), func(t *testing.T) {
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				p := reach(t, target, state)
				kept := false
				if discard {
					p.Discard()
				} else {
					kept = p.Leave()
				}
				if want := keeps && !discard; kept != want {
					t.Errorf("kept is %t, want %t", kept, want)
				}
				transfertest.WantContent(t, target, "before")
				names := []string{"out"}
				if kept {
					names = append(names, PartName("out"))
					info, err := os.Lstat(filepath.Join(filepath.Dir(target), PartName("out")))
					if err != nil || info.Mode().Perm() != partMode&^disk.Umask {
						t.Errorf("%v, %v", info, err)
					}
				}
				transfertest.WantNames(t, filepath.Dir(target), names...)
				if p.State() != Ended || p.Leave() {
					t.Error("it has not ended")
				}
			})
		}
	}
}
