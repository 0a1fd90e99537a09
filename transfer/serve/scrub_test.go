package serve

import (
	"bytes"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestScrub lets a disk lose a bit of one file of any size. The next pass finds it, and nothing
// else: not files that were replaced, removed or added. It keeps to its rate.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		files := map[string]int{"small": 1, "sub/middle": 100 << 10, "sub/deep/large": 2<<20 + 1, "same": 5000}
		content := func(name string) []byte { return bytes.Repeat([]byte(name[:1]), files[name]) }
		write := func(name string, content []byte) {
			path := filepath.Join(root, name)
			os.MkdirAll(filepath.Dir(path), 0o777)
			if err := os.WriteFile(path, content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		total := 0
		for name, size := range files {
			write(name, content(name))
			total += size
		}
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		store, err := OpenTreeStore(filepath.Join(t.TempDir(), "trees.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		log := &transfertest.LogBuffer{}
		s := NewServer(source.Local(rottenDir{dir}), slog.New(slog.NewTextHandler(log, nil)))
		defer s.Close()
		s.KeepTrees(store)
		rate := int64(1 << 20)
		s.Scrub(time.Hour, rate)
		time.Sleep(time.Duration(total) * time.Second / time.Duration(rate) / 2)
		synctest.Wait()
		if strings.Contains(log.String(), "scrubbed") {
			t.Error("faster than its rate")
		}
		time.Sleep(time.Minute)
		if !strings.Contains(log.String(), "files=4") || store.Len() != 4 {
			t.Fatalf("first pass: %d trees, %s", store.Len(), log.String())
		}
		for _, name := range []string{"small", "sub/middle", "sub/deep/large"} {
			log.Reset()
			rotten := content(name)
			rotten[len(rotten)-1] ^= 1
			write(name, rotten)
			write("added "+filepath.Base(name), []byte("new"))
			os.Remove(filepath.Join(root, "same"))
			time.Sleep(time.Hour)
			if !strings.Contains(log.String(), "damaged=1") || !slices.Equal(s.Suspects(), []string{name}) {
				t.Errorf("%s: suspects %q, %s", name, s.Suspects(), log.String())
			}
			s.Trust(name)
			write(name, content(name))
			time.Sleep(time.Hour) // it has a new tree now, or gets one
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%s: logged %d times: %s", name, n, log.String())
			}
			write(name, content(name))
			time.Sleep(time.Hour)
			s.Trust(name)
		}
	})
}

// TestAttackScrubWithoutAPause scrubs a small tree with an interval of a nanosecond. The server has
// a second between two passes, and the log has a line a second.
func TestAttackScrubWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "f"), []byte("f"), 0o666); err != nil {
			t.Fatal(err)
		}
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		store, err := OpenTreeStore(filepath.Join(t.TempDir(), "trees.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		log := &transfertest.LogBuffer{}
		s := NewServer(source.Local(dir), slog.New(slog.NewTextHandler(log, nil)))
		defer s.Close()
		s.KeepTrees(store)
		s.Scrub(time.Nanosecond, ScrubRate)
		time.Sleep(20*time.Second + time.Second/2)
		if n := strings.Count(log.String(), "msg=scrubbed"); n != 21 {
			t.Errorf("%d passes in 20 s", n)
		}
	})
}

// A rottenDir is a TreeDir of files that lose bits without a new time.
type rottenDir struct{ disk.TreeDir }

func (d rottenDir) Open(name string) (disk.File, error) {
	return transfertest.MappedDir{TreeDir: d.TreeDir}.Open(name)
}

func (d rottenDir) Stat(name string) (fs.FileInfo, error) {
	return transfertest.MappedDir{TreeDir: d.TreeDir}.Stat(name)
}

func (d rottenDir) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	return rottenDir{sub}, err
}

func (d rottenDir) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	return rottenDir{sub}, err
}
