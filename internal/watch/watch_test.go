package watch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each way in which people and programs change a file is noticed, once.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	name, other, link := filepath.Join(dir, "file"), filepath.Join(dir, "other"), filepath.Join(dir, "link")
	write(t, name, "one")
	f := NewFiles(name, "", filepath.Join(dir, "missing"), link)
	if f.Changed() {
		t.Fatal("changed at once")
	}
	past := time.Now().Add(-time.Hour)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"longer", func() error { return os.WriteFile(name, []byte("longer"), 0o600) }},
		{"another time", func() error { return os.Chtimes(name, past, past) }},
		{"replaced by a file of the same size and time", func() error {
			write(t, other, "LONGER")
			if err := os.Chtimes(other, past, past); err != nil {
				return err
			}
			return os.Rename(other, name)
		}},
		{"removed", func() error { return os.Remove(name) }},
		{"made again", func() error { return os.WriteFile(name, nil, 0o600) }},
		{"a link that is made", func() error { return os.Symlink(name, link) }},
		{"the target of a link", func() error {
			write(t, other, "other")
			os.Remove(link)
			return os.Symlink(other, link)
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if !f.Changed() {
			t.Errorf("%s: not noticed", step.name)
		}
		if f.Changed() {
			t.Errorf("%s: noticed twice", step.name)
		}
	}
}

// Run reloads after a change, within one interval, and at once when it is told to.
func TestRun(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	write(t, name, "one")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		now, loads, done := make(chan os.Signal), 0, make(chan struct{})
		f := NewFiles(name)
		go func() {
			defer close(done)
			f.Run(ctx, now, func() { loads++ })
		}()
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			if loads != n {
				t.Errorf("%d reloads, want %d", loads, n)
			}
		}
		time.Sleep(10 * Interval)
		want(0)
		write(t, name, "other")
		time.Sleep(Interval)
		want(1)
		time.Sleep(10 * Interval)
		want(1)
		now <- os.Interrupt
		want(2)
		cancel()
		<-done
	})
}
