package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A secretWorld is a served directory, a state directory and a token file, all below top.
type secretWorld struct {
	*testing.T
	root, state, token string
	secrets            *Secrets
	hidden, protected  TreeDir
}

// newSecretWorld makes a world in which the state directory and the token are at the given paths
// below the parent of the root.
func newSecretWorld(t *testing.T, state, token string) *secretWorld {
	t.Helper()
	top := t.TempDir()
	w := &secretWorld{T: t, root: filepath.Join(top, "root")}
	w.state, w.token = filepath.Join(top, state), filepath.Join(top, token)
	for _, dir := range []string{w.root, w.state, filepath.Dir(w.token)} {
		w.check(os.MkdirAll(dir, 0o755))
	}
	w.put(filepath.Join(w.root, "file"), "content")
	w.put(w.token, "the token")
	w.put(filepath.Join(w.state, "server.key"), "the key")
	w.open()
	return w
}

func (w *secretWorld) open() {
	w.Helper()
	w.secrets = NewSecrets()
	w.secrets.AddFile(w.token)
	w.secrets.AddDir(w.state, func(name string) bool { return name == "server.key" || name == "known_hosts" })
	tree, err := OpenTree(w.root, false)
	w.check(err)
	w.Cleanup(func() { tree.Close() })
	w.hidden, err = w.secrets.Hide(tree)
	w.check(err)
	w.protected, err = w.secrets.Protect(tree)
	w.check(err)
}

func (w *secretWorld) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// replaceToken gives the token a new inode. It may be called in any goroutine.
func (w *secretWorld) replaceToken(t *testing.T, content string) {
	fresh := filepath.Join(w.root, "new")
	if err := errors.Join(os.WriteFile(fresh, []byte(content), 0o600), os.Rename(fresh, w.token)); err != nil {
		t.Error(err)
	}
}

func (w *secretWorld) put(path, content string) {
	w.Helper()
	w.check(os.WriteFile(path, []byte(content), 0o600))
}

// wantHidden fails the test unless every way to a name gives the error of a missing file.
func (w *secretWorld) wantHidden(names ...string) {
	w.Helper()
	for _, name := range names {
		f, err := w.hidden.Open(name)
		if err == nil {
			f.Close()
		}
		_, statErr := w.hidden.Stat(name)
		_, lstatErr := w.hidden.Lstat(name)
		at, atErr := w.hidden.At(name)
		if atErr == nil {
			at.Close()
		}
		for op, err := range map[string]error{"Open": err, "Stat": statErr, "Lstat": lstatErr, "At": atErr} {
			if !errors.Is(err, fs.ErrNotExist) {
				w.Errorf("%s(%q): %v, want that it does not exist", op, name, err)
			}
		}
		if _, err := w.protected.Lstat(name); !errors.Is(err, ErrProtected) {
			w.Errorf("protected %q: %v", name, err)
		}
	}
}

func (w *secretWorld) wantVisible(names ...string) {
	w.Helper()
	for _, name := range names {
		f, err := w.hidden.Open(name)
		if err != nil {
			w.Errorf("%q: %v", name, err)
			continue
		}
		f.Close()
		if _, err := w.hidden.Lstat(name); err != nil {
			w.Errorf("%q: %v", name, err)
		}
	}
}

func TestAttackSecretsByAnyName(t *testing.T) {
	w := newSecretWorld(t, "root/home/state", "root/conf/token")
	for link, to := range map[string]string{
		"tokenlink": "conf/token", "dirlink": "home/state", "keylink": "home/state/server.key", "chain": "keylink",
		"up": "home",
	} {
		w.check(os.Symlink(to, filepath.Join(w.root, link)))
	}
	w.check(os.Link(w.token, filepath.Join(w.root, "tokenhard")))
	w.check(os.Link(filepath.Join(w.state, "server.key"), filepath.Join(w.root, "conf", "keyhard")))
	w.check(os.MkdirAll(filepath.Join(w.state, "deep", "er"), 0o755))
	w.put(filepath.Join(w.state, "deep", "er", "x"), "x")
	w.wantHidden("tokenlink", "dirlink", "keylink", "chain", "tokenhard", "conf/keyhard", "conf/token", "home/state",
		"home/state/server.key", "dirlink/server.key", "up/state/server.key", "up/state", "home/state/deep",
		"dirlink/deep/er/x")
	w.wantVisible("file")
	w.check(os.Symlink("../conf/token", filepath.Join(w.root, "home", "uplink")))
	home, err := w.hidden.Sub("home")
	w.check(err)
	defer home.Close()
	if sub, err := home.Sub("state"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Sub opens the state directory: %v, %v", sub, err)
	}
	if info, err := home.Lstat("uplink"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link that leads up to a secret is listed: %v, %v", info, err)
	}
	if f, err := home.Open("state/server.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key opens from a directory below: %v, %v", f, err)
	}
}

func TestAttackSecretsThatChange(t *testing.T) {
	w := newSecretWorld(t, "root/state", "root/token")
	key := filepath.Join(w.state, "server.key")
	for i := range 50 {
		w.put(w.root+"/new", fmt.Sprint("token ", i))
		w.check(os.Rename(w.root+"/new", w.token))
		if f, err := w.hidden.Open("token"); err == nil {
			f.Close()
			t.Fatalf("the token is served after it was replaced for the %dth time", i)
		}
		other := filepath.Join(w.state, fmt.Sprint("other", i))
		w.put(other, "state")
		w.check(os.Link(other, filepath.Join(w.root, fmt.Sprint("hard", i))))
		if f, err := w.hidden.Open(fmt.Sprint("hard", i)); err == nil {
			f.Close()
			t.Fatalf("the %dth new file of the state directory is served by another name", i)
		}
		w.put(w.root+"/newkey", fmt.Sprint("key ", i))
		w.check(os.Rename(w.root+"/newkey", key))
		w.check(os.Remove(w.root + "/hard" + fmt.Sprint(i)))
		w.check(os.Link(key, w.root+"/keyhard"))
		if f, err := w.hidden.Open("keyhard"); err == nil {
			f.Close()
			t.Fatalf("the key is served after it was replaced for the %dth time", i)
		}
		w.check(os.Remove(w.root + "/keyhard"))
	}
	time.Sleep(2 * lookInterval) // a listing may be that old
	w.wantHidden("token", "state")

	// A file that a secret replaced, or was, does not hide others.
	w.check(os.Remove(w.token))
	w.put(filepath.Join(w.root, "innocent"), "innocent")
	w.wantVisible("file", "innocent")
}

// TestAttackSecretsThatMove checks that a secret stays one when it is renamed into the root.
func TestAttackSecretsThatMove(t *testing.T) {
	w := newSecretWorld(t, "state", "token")
	w.wantVisible("file")
	w.put(w.token, "a token that was written in place")
	w.wantVisible("file")
	w.check(os.Rename(w.token, filepath.Join(w.root, "moved")))
	w.put(filepath.Join(w.state, "log"), "state")
	w.wantHidden("moved")
	if err := os.WriteFile(filepath.Join(w.state, "log"), []byte("more state"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.check(os.Mkdir(filepath.Join(w.root, "d"), 0o755))
	w.check(os.Rename(w.state, filepath.Join(w.root, "d", "s")))
	w.wantHidden("d/s", "d/s/server.key", "d/s/log")
	w.check(os.Mkdir(w.state, 0o755))
	w.put(filepath.Join(w.state, "server.key"), "another")
	w.check(os.Symlink("d/s", filepath.Join(w.root, "link")))
	w.wantHidden("d/s", "d/s/server.key", "link", "link/log")
	w.wantVisible("file")
}

// TestAttackSecretsInARace opens names while a secret directory, a link and an innocent directory
// take turns in them. The token is replaced again and again, at most once within an open. No open
// reads a secret.
func TestAttackSecretsInARace(t *testing.T) {
	w := newSecretWorld(t, "root/state", "root/token")
	at := func(name string) string { return filepath.Join(w.root, name) }
	w.check(os.Mkdir(at("innocent"), 0o755))
	w.put(at("innocent/server.key"), "innocent")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var opens atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		replaced := int64(0) // opens when the token was replaced last
		for i := 0; ctx.Err() == nil; i++ {
			from := at([]string{"state", "innocent"}[i%2])
			err := errors.Join(os.Rename(from, at("x")), os.Rename(at("x"), from),
				os.Symlink("state", at("x")), os.Remove(at("x")))
			if opens.Load() >= replaced+2 {
				w.replaceToken(t, fmt.Sprint("token ", i))
				replaced = opens.Load() // read afterwards, so that one whole open looks at this token
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	innocent := 0
	for ctx.Err() == nil {
		for _, name := range []string{"x/server.key", "token", "state/server.key"} {
			f, err := w.hidden.Open(name)
			if name == "token" {
				opens.Add(1) // the directory has looked at the secrets; an open that finds nothing does not
			}
			if err != nil {
				continue
			}
			content := make([]byte, 100)
			n, _ := f.ReadAt(content, 0)
			f.Close()
			innocent++
			if text := string(content[:n]); text != "innocent" {
				t.Errorf("%s reads %q", name, text)
			}
		}
	}
	wg.Wait()
	t.Logf("%d opens, %d of them of the innocent file", opens.Load(), innocent)
}

func TestSecretsThatAreMadeLater(t *testing.T) {
	w := newSecretWorld(t, "root/home/state", "root/token")
	w.check(os.RemoveAll(w.state))
	w.check(os.Remove(w.token))
	w.open()
	w.wantVisible("file")
	w.check(os.MkdirAll(w.state, 0o700))
	w.put(filepath.Join(w.state, "server.key"), "key")
	w.put(w.token, "token")
	time.Sleep(2 * lookInterval)
	w.wantHidden("home/state", "home/state/server.key", "token")
}

// TestSecretsAroundTheRoot checks roots that are the state directory, or below it: they are
// served without the secret files.
func TestSecretsAroundTheRoot(t *testing.T) {
	w := newSecretWorld(t, "root", "root/token")
	w.wantVisible("file")
	w.wantHidden("server.key", "token", "known_hosts")
	at, err := w.hidden.At(".")
	w.check(err)
	defer at.Close()
	if _, err := at.Lstat("server.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root itself lists the key: %v", err)
	}

	w = newSecretWorld(t, ".", "token") // above the root
	w.wantVisible("file")
	w.check(os.Link(filepath.Join(w.state, "server.key"), filepath.Join(w.root, "hard")))
	w.wantHidden("hard")
}

func TestSecretsWithTooManyFiles(t *testing.T) {
	w := newSecretWorld(t, "state", "token")
	w.secrets.limit = 20
	for i := range w.secrets.limit + 1 {
		w.put(filepath.Join(w.state, fmt.Sprint(i)), "")
	}
	if f, err := w.hidden.Open("file"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with unknown secrets: %v, %v", f, err)
	}
	if err := w.secrets.Check(); err == nil || !strings.Contains(err.Error(), w.state) {
		t.Errorf("Check: %v", err)
	}
	w.check(os.RemoveAll(w.state))
	w.wantVisible("file")
}

// TestProtectedSecrets checks every call that changes a directory.
func TestProtectedSecrets(t *testing.T) {
	w := newSecretWorld(t, "root/state", "root/token")
	w.check(os.Symlink("token", filepath.Join(w.root, "link")))
	d := w.protected
	for name, err := range map[string]error{
		"Remove":               d.Remove("token"),
		"Remove of a link":     d.Remove("state/server.key"),
		"Rename to":            d.Rename("file", "token"),
		"Rename into":          d.Rename("file", "state/file"),
		"Rename of":            d.Rename("token", "x"),
		"Rename of all":        d.Rename("state", "x"),
		"RenameNew":            d.RenameNew("token", "x"),
		"Chtimes":              d.Chtimes("token", time.Now()),
		"Chtimes by a link":    d.Chtimes("link", time.Now()),
		"ChmodDir":             d.ChmodDir("state", 0o777),
		"Mkdir":                d.Mkdir("state/d"),
		"Symlink":              d.Symlink("x", "state/known_hosts"),
		"Create":               func() error { _, err := d.Create("state/known_hosts"); return err }(),
		"Open":                 func() error { _, err := d.Open("link"); return err }(),
		"OpenPart":             func() error { _, err := d.OpenPart("token"); return err }(),
		"Sub":                  func() error { _, err := d.Sub("state"); return err }(),
		"Readlink of a secret": func() error { _, err := d.Readlink("link"); return err }(),
	} {
		if !errors.Is(err, ErrProtected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.check(d.Rename("file", "other"))
	w.check(d.Remove("other"))
}

func BenchmarkSecretsOpen(b *testing.B) {
	root, state := b.TempDir(), b.TempDir()
	os.WriteFile(filepath.Join(root, "file"), nil, 0o600)
	os.WriteFile(filepath.Join(state, "server.key"), nil, 0o600)
	os.Chtimes(state, time.Now(), time.Now().Add(-time.Hour))
	tree, err := OpenTree(root, false)
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	secrets := NewSecrets()
	secrets.AddDir(state, func(string) bool { return true })
	secrets.AddFile(filepath.Join(state, "token"))
	guarded, err := secrets.Hide(tree)
	if err != nil {
		b.Fatal(err)
	}
	for name, d := range map[string]TreeDir{"plain": tree, "guarded": guarded} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f, err := d.Open("file")
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
