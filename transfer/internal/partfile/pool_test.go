package partfile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// TestPool has goroutines write to many part files at the same time, of which few may be open.
// In the end all are whole.
func TestPool(t *testing.T) {
	const files, limit, writers = 40, 4, 8
	dir := t.TempDir()
	pool := NewPool(limit)
	content, tree := stateFile()
	parts := make([]*PartFile, files)
	for i := range parts {
		p, err := open(disk.OpenDir, filepath.Join(dir, fmt.Sprint(i)), Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Leave()
		if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
			t.Fatal(err)
		}
		parts[i] = p
	}
	if n := pool.Len(); n != limit {
		t.Errorf("%d part files are open, want %d", n, limit)
	}
	work := rand.New(rand.NewPCG(1, 1)).Perm(3 * files)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for _, n := range work[w*len(work)/writers : (w+1)*len(work)/writers] {
				start := int64(n%3) * group
				end := min(start+group, tree.Size())
				if _, err := parts[n/3].WriteAt(content[start:end], start); err != nil {
					t.Errorf("file %d: %v", n/3, err)
				}
			}
		})
	}
	wg.Wait()
	for i, p := range parts {
		if err := p.Commit(meta); err != nil {
			t.Errorf("file %d: %v", i, err)
		}
		transfertest.WantContent(t, filepath.Join(dir, fmt.Sprint(i)), string(content))
	}
	if n := pool.Len(); n != 0 {
		t.Errorf("%d part files are open in the end", n)
	}
}

// TestParkedFile checks that the pool does not write to a part file that changed while it was
// parked, and removes a useless one.
func TestParkedFile(t *testing.T) {
	content, _ := stateFile()
	for name, x := range map[string]struct {
		change func(part string) error
		want   error // of WriteAt
	}{
		"untouched": {func(string) error { return nil }, nil},
		"written":   {func(part string) error { return os.Truncate(part, 5) }, ErrBusy},
		"removed":   {os.Remove, ErrGone},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			p := reach(t, target, Parked)
			if err := x.change(filepath.Join(filepath.Dir(target), PartName("out"))); err != nil {
				t.Fatal(err)
			}
			if _, err := p.WriteAt(content[group:2*group], group); !errors.Is(err, x.want) {
				t.Errorf("error %v, want %v", err, x.want)
			}
		})
	}
	target := filepath.Join(t.TempDir(), "out")
	pool := NewPool(1)
	p, err := open(disk.OpenDir, target, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Prove(t.Context(), transfertest.TreeOf(content), nil, nil); err != nil {
		t.Fatal(err)
	}
	pool.admit(&PartFile{state: Ended})
	if p.State() != Parked || p.Leave() {
		t.Error("an empty part file is kept")
	}
	transfertest.WantNames(t, filepath.Dir(target))
}
