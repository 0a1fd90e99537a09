package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestCheckpointOfALargeFile checks that Checkpoint removes a large file, and no other file,
// from the page cache.
func TestCheckpointOfALargeFile(t *testing.T) {
	standard := cachedFile
	defer func() { cachedFile = standard }()
	if standard() < 1<<20 {
		t.Errorf("files of more than %d bytes are large", standard())
	}
	const size = 4 << 20
	for _, large := range []bool{false, true} {
		cachedFile = func() int64 { return size }
		if large {
			cachedFile = func() int64 { return size - 1 }
		}
		name := filepath.Join(t.TempDir(), "f")
		d, err := OpenDir(filepath.Dir(name))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		f, err := d.Create("f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		want := bytes.Repeat([]byte("kwikcp.\n"), size/8)
		if _, err := f.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if cached := residentPages(t, name, size); (cached == 0) != large {
			if large && isTmpfs(t, name) {
				t.Skip("tmpfs is page cache and nothing else")
			}
			t.Errorf("large %t: %d pages are in the cache", large, cached)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("large %t: %d bytes, error %v", large, len(got), err)
		}
	}
}

// residentPages returns how many pages of a file are in the page cache.
func residentPages(t *testing.T, name string, size int) (n int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	pages := make([]byte, (size+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size),
		uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

func isTmpfs(t *testing.T, name string) bool {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(name, &s); err != nil {
		t.Fatal(err)
	}
	return s.Type == unix.TMPFS_MAGIC
}
