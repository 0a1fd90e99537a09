package transfer

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A busyDisk counts how often it is asked to begin, and takes a second for each.
type busyDisk struct{ asked int }

func (d *busyDisk) StartSync() {
	d.asked++
	time.Sleep(time.Second)
}

// Writing never waits for the disk, the disk is asked once for all that came while it was busy, and stop waits for it.
func TestWriteback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &busyDisk{}
		w := startWriteback(disk)
		start := time.Now()
		w.wrote(writebackStep - 1)
		synctest.Wait()
		if disk.asked != 0 {
			t.Error("the disk is asked before there is enough to write")
		}
		w.wrote(1)
		synctest.Wait()
		if disk.asked != 1 {
			t.Errorf("the disk was asked %d times after %d bytes", disk.asked, writebackStep)
		}
		for range 1000 {
			w.wrote(writebackStep)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the writers waited %v for the disk", took)
		}
		w.stop()
		if took := time.Since(start); disk.asked != 2 || took != 2*time.Second {
			t.Errorf("asked %d times, stopped after %v, want twice and 2 s", disk.asked, took)
		}
		w.stop()
	})
}

// StartSync leaves a file of the operating system as it is, and does no harm to one that is closed.
func TestStartSync(t *testing.T) {
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
	if _, err := f.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.StartSync()
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	f.Close()
	f.StartSync()
	if info, err := os.Stat(name); err != nil || info.Size() != 2<<20 {
		t.Errorf("%v, %v", info, err)
	}
}
