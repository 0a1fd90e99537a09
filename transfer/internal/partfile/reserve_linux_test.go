package partfile

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kwikcp/transfer/disk"
)

// TestReservationOfAKilledRun leaves a part file as a run does that is killed after its
// reservation. The next run gives the reservation back, whether it has looked at the bytes or not.
func TestReservationOfAKilledRun(t *testing.T) {
	content, tree := largeFile()
	for name, use := range map[string]func(*PartFile) error{
		"nothing was proved": func(*PartFile) error { return nil },
		"all was proved":     func(p *PartFile) error { return p.Prove(context.Background(), tree, nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			part := filepath.Join(filepath.Dir(target), PartName("out"))
			left, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			left.WriteAt(content[:1<<20], 0)
			left.WriteAt(content[lastGroup:], lastGroup)
			if err := unix.Fallocate(int(left.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(content))); err != nil {
				t.Skipf("NOT TESTED: this file system reserves no space: %v", err)
			}
			left.Close()
			if before := diskBytes(t, part); before < int64(len(content)) {
				t.Fatalf("only %d bytes are reserved", before)
			}
			p, err := open(disk.OpenDir, target, Options{Preallocate: disk.PreallocateNone})
			if err != nil {
				t.Fatal(err)
			}
			if err := use(p); err != nil {
				t.Fatal(err)
			}
			if !p.Leave() {
				t.Fatal("the part file was not kept")
			}
			if after := diskBytes(t, part); after > 2<<20 {
				t.Errorf("%d bytes are on disk after the next run, 1 MiB is written", after)
			}
		})
	}
}

// diskBytes returns how many bytes of the disk a file takes.
func diskBytes(t *testing.T, path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
