// Package transfertest is the test harness of package transfer and those below it. It has files,
// a directory with traps to serve, and a simulated network with one server. It imports neither
// transfer nor transfer/serve, so that their in-package tests can use it.
package transfertest

import (
	"bytes"
	"context"
	"kwikcp/integrity"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// SomeTime is a modification time that no file has unless a test sets it.
var SomeTime = time.Date(2001, 2, 3, 4, 5, 6, 789000, time.UTC)

// Put writes a file and returns its path.
func Put(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// WantContent fails the test unless a file holds the given content.
func WantContent(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Fatalf("%s holds %.100q (%d bytes, %v), want %.100q (%d bytes)", path, got, len(got), err, want, len(want))
	}
}

// TreeWithTraps makes a directory to serve, next to a file "secret" that must not be served. It
// holds files, directories, a FIFO, and links that stay inside, lead outside, dangle or loop.
func TreeWithTraps(t testing.TB) (root string) {
	t.Helper()
	top := t.TempDir()
	root = filepath.Join(top, "root")
	if err := os.MkdirAll(filepath.Join(root, "sub", "deeper"), 0o755); err != nil {
		t.Fatal(err)
	}
	Put(t, filepath.Join(top, "secret"), "secret")
	Put(t, filepath.Join(root, "file"), "content")
	Put(t, filepath.Join(root, "sub", "deeper", "file"), "deep content")
	for link, to := range map[string]string{
		"inside":         "file",
		"sub/up":         "../file",
		"dirlink":        "sub",
		"outside":        "../secret",
		"sub/outside":    "../../secret",
		"absolute":       filepath.Join(top, "secret"),
		"absoluteinside": filepath.Join(root, "file"),
		"updir":          "..",
		"loop":           "loop",
		"dangling":       "nowhere",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Mkfifo(filepath.Join(root, "fifo")); err != nil {
		t.Fatal(err)
	}
	return root
}

// WantNames fails the test unless a directory holds exactly these names.
func WantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Fatalf("the directory holds %q, want %q", names, want)
	}
}

// TreeOf returns the tree of a content, in groups of the default size.
func TreeOf(content []byte) *integrity.Tree {
	tree, err := integrity.Build(context.Background(), bytes.NewReader(content), int64(len(content)),
		integrity.DefaultGroupSize, nil)
	if err != nil {
		panic(err)
	}
	return tree
}
