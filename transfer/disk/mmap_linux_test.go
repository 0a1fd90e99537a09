package disk

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkMmap compares two ways to copy between a file in the page cache and a block of
// payload. One uses system calls, as kwikcp does. The other maps the file. Each copies 64 MiB
// in pieces of 256 KiB. docs/DESIGN.md has the figures.
func BenchmarkMmap(b *testing.B) {
	const size, piece = 64 << 20, 256 << 10
	block := make([]byte, piece)
	open := func(b *testing.B) *os.File {
		f, err := os.Create(filepath.Join(b.TempDir(), "file"))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		return f
	}
	mapped := func(b *testing.B, f *os.File, protection int) []byte {
		m, err := unix.Mmap(int(f.Fd()), 0, size, protection, unix.MAP_SHARED)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	fill := func(b *testing.B, f *os.File) {
		for off := int64(0); off < size; off += piece {
			if _, err := f.WriteAt(block, off); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("read/pread", func(b *testing.B) {
		f := open(b)
		fill(b, f)
		b.SetBytes(size)
		for b.Loop() {
			for off := int64(0); off < size; off += piece {
				if _, err := f.ReadAt(block, off); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("read/mmap", func(b *testing.B) {
		f := open(b)
		fill(b, f)
		b.SetBytes(size)
		for b.Loop() {
			m := mapped(b, f, unix.PROT_READ)
			for off := 0; off < size; off += piece {
				copy(block, m[off:])
			}
			unix.Munmap(m)
		}
	})
	b.Run("write/pwrite", func(b *testing.B) {
		f := open(b)
		b.SetBytes(size)
		for b.Loop() {
			if err := f.Truncate(0); err != nil {
				b.Fatal(err)
			}
			fill(b, f)
		}
	})
	b.Run("write/mmap", func(b *testing.B) {
		f := open(b)
		b.SetBytes(size)
		for b.Loop() {
			if err := f.Truncate(0); err != nil {
				b.Fatal(err)
			}
			if err := f.Truncate(size); err != nil {
				b.Fatal(err)
			}
			m := mapped(b, f, unix.PROT_READ|unix.PROT_WRITE)
			for off := 0; off < size; off += piece {
				copy(m[off:], block)
			}
			unix.Munmap(m)
		}
	})
}
