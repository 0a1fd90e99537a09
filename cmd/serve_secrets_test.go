package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every file of the command line or the environment that holds a secret is hidden by its identity.
func TestAttackSecretFilesOfOptions(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	o := newServeOptions()
	o.role, o.root, o.stateDir, o.requireToken = "primary", root, state, true
	o.isSet = func(string) bool { return false }
	names := []string{"join", "revoked", "keylog"}
	for _, name := range append(names, "file") {
		if err := os.WriteFile(filepath.Join(root, name), []byte("0123456789abcdef"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(root, name), filepath.Join(root, name+".hard")); err != nil {
			t.Fatal(err)
		}
	}
	o.joinTokenFile, o.revoked = filepath.Join(root, "join"), filepath.Join(root, "revoked")
	t.Setenv("SSLKEYLOGFILE", filepath.Join(root, "keylog"))
	if err := os.WriteFile(o.revoked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseServe(t.Context(), &terminal{stderr: os.Stderr}, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := c.openRoot()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	served, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range served {
		isSecret := slices.Contains(names, strings.TrimSuffix(e.Name(), ".hard"))
		f, err := dir.Open(e.Name())
		if err == nil {
			f.Close()
		}
		if isSecret != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", e.Name(), err)
		}
	}
}
