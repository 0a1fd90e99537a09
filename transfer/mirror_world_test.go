package transfer

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mirrorReports are what a mirror reported.
type mirrorReports struct {
	NoReport
	mu    sync.Mutex
	files []FileReport
	did   func(FileReport) // may be nil
}

func (r *mirrorReports) File(f FileReport) {
	r.mu.Lock()
	r.files = append(r.files, f)
	r.mu.Unlock()
	if r.did != nil {
		r.did(f)
	}
}

// action returns the reported action on an entry, "" if there was no report.
func (r *mirrorReports) action(path string) FileAction {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		if f.Path == path {
			return f.Action
		}
	}
	return ""
}

// of returns the reports on an entry.
func (r *mirrorReports) of(path string) (all []FileReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		if f.Path == path {
			all = append(all, f)
		}
	}
	return all
}

// A mirrorServer serves a directory on loopback.
type mirrorServer struct {
	t    *testing.T
	root string
	Addr string
	Pin  trust.Pin
	l    *kwik.Listener
}

func ServeTree(t *testing.T, role kwik.ServerRole, root string, wrap func(disk.TreeDir) disk.TreeDir) *mirrorServer {
	t.Helper()
	d, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		d = wrap(d)
	}
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := serve.NewServer(source.Local(d), slog.New(slog.DiscardHandler))
	conf := &kwik.ServerConfig{Role: role, JoinToken: joinToken, OpenContent: s.OpenContent}
	if role == kwik.ServerRolePrimary {
		conf.Verify, conf.ChallengeDescriptor = s.Verify, s.ChallengeDescriptor
	}
	l, err := kwik.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}, conf)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(t.Context(), l) })
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		s.Close()
		d.Close()
	})
	return &mirrorServer{t: t, root: root, Addr: l.Addr().String(), Pin: trust.PinOf(cert.Leaf), l: l}
}

// mirror mirrors the server's tree into a directory.
func (s *mirrorServer) mirror(
	ctx context.Context, target string, change ...func(*MirrorOptions),
) (MirrorResult, *mirrorReports, error) {
	return s.mirrorTo(ctx, target, nil, change...)
}

// mirrorTo is mirror with something to do at each report of a file.
func (s *mirrorServer) mirrorTo(
	ctx context.Context, target string, did func(FileReport), change ...func(*MirrorOptions),
) (MirrorResult, *mirrorReports, error) {
	reports := &mirrorReports{did: did}
	o := MirrorOptions{MirrorSource: MirrorSource{URL: URL{Host: s.Addr}, TLS: trust.PinnedClientConfig(nil, s.Pin)},
		Target: target}
	spied(&spy{})(&o)
	for _, f := range change {
		f(&o)
	}
	result, err := Mirror(ctx, o, reports)
	return result, reports, err
}

// deleting deletes without a limit.
func deleting(o *MirrorOptions) { o.Delete, o.MaxDelete = true, DeleteLimit{limitPercent, 100} }

// A treeEntry is what is compared of a file.
type treeEntry struct {
	mode    fs.FileMode
	mtime   time.Time // but of links
	content string    // or a link's target
}

// snapshot reads a tree.
func snapshot(t *testing.T, root string) map[string]treeEntry {
	t.Helper()
	all := make(map[string]treeEntry)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := treeEntry{mode: info.Mode(), mtime: info.ModTime()}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			e.mtime = time.Time{}
			e.content, err = os.Readlink(p)
		case info.Mode().IsRegular():
			var content []byte
			content, err = os.ReadFile(p)
			e.content = string(content)
		}
		rel, _ := filepath.Rel(root, p)
		all[rel] = e
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantTree compares a tree with a snapshot.
func wantTree(t *testing.T, root string, want map[string]treeEntry) {
	t.Helper()
	got := snapshot(t, root)
	for p, w := range want {
		switch g, ok := got[p]; {
		case !ok:
			t.Errorf("%q is missing", p)
		case g.mode != w.mode || !g.mtime.Equal(w.mtime):
			t.Errorf("%q is %v of %v, want %v of %v", p, g.mode, g.mtime, w.mode, w.mtime)
		case g.content != w.content:
			t.Errorf("%q has other content: %d bytes, want %d", p, len(g.content), len(w.content))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q should not be there", p)
		}
	}
}

// A gardener makes and changes random trees.
type gardener struct {
	*rand.Rand
	t *testing.T
}

var oddNames = []string{"a", "b", "A", "a b", "a\nb", "\xff\xfe", "😀", "-rf", "~", "a\\b", ".hidden", "...", "\x1b[2J",
	"*", "é", "e\u0301", strings.Repeat("n", 255)}

func (g gardener) name() string {
	if g.IntN(3) == 0 {
		return oddNames[g.IntN(len(oddNames))]
	}
	return fmt.Sprintf("f%d", g.IntN(100))
}

func (g gardener) content() []byte {
	size := []int{0, 1, 1000, 16 << 10, 64 << 10, 64<<10 + 1, 200_000, 1 << 20, 3<<20 + 5}[g.IntN(9)]
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(g.IntN(256)), byte(g.IntN(256))}).Read(b)
	return b
}

func (g gardener) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// grow adds entries to a directory.
func (g gardener) grow(dir string, depth int) {
	for range 1 + g.IntN(10) {
		p := filepath.Join(dir, g.name())
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		switch kind := g.IntN(10); {
		case kind < 3 && depth > 0:
			g.check(os.Mkdir(p, 0o755))
			if g.IntN(4) > 0 {
				g.grow(p, depth-1)
			}
			g.age(p)
		case kind == 3:
			g.check(os.Symlink(g.name(), p))
		default:
			g.check(os.WriteFile(p, g.content(), 0o600))
			g.check(os.Chmod(p, []fs.FileMode{0o644, 0o600, 0o755, 0o400}[g.IntN(4)]))
			g.age(p)
		}
	}
}

func (g gardener) age(p string) {
	g.check(os.Chtimes(p, time.Time{}, time.Unix(1e9+g.Int64N(1e8), g.Int64N(1e9))))
}

// change does something to a tenth of all entries.
func (g gardener) change(root string) {
	var all []string
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if p != root {
			all = append(all, p)
		}
		return err
	})
	for _, p := range all {
		if g.IntN(10) > 0 {
			continue
		}
		info, err := os.Lstat(p)
		if err != nil {
			continue
		}
		switch g.IntN(5) {
		case 0:
			g.check(os.RemoveAll(p))
		case 1: // something else of the same name
			g.check(os.RemoveAll(p))
			if info.IsDir() {
				g.check(os.WriteFile(p, g.content(), 0o640))
			} else {
				g.check(os.Mkdir(p, 0o755))
				g.grow(p, 1)
			}
		case 2: // other bytes, same size and time
			if b, err := os.ReadFile(p); err == nil && info.Mode().IsRegular() && len(b) > 0 {
				b[g.IntN(len(b))]++
				g.check(os.Remove(p))
				g.check(os.WriteFile(p, b, info.Mode()))
				g.check(os.Chtimes(p, time.Time{}, info.ModTime()))
			}
		case 3:
			if info.Mode()&fs.ModeSymlink == 0 {
				g.age(p)
			}
		case 4:
			if info.IsDir() {
				g.grow(p, 1)
			}
		}
	}
}

// A spyDir tells a spy what is done in a tree. It syncs nothing: that takes as long as the
// machine's other work wants, and no test here cuts the power.
type spyDir struct {
	disk.TreeDir
	*spy
	path string
}

type spy struct {
	write     func(n int)
	step      func(op, path string) error // before it is done; an error is its result
	noVolumes bool
}

func (d *spyDir) Unwrap() disk.TreeDir { return d.TreeDir }

func (d *spyDir) did(op, name string) error {
	if d.spy.step == nil {
		return nil
	}
	return d.spy.step(op, disk.JoinPath(d.path, name))
}

func (d *spyDir) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	if err != nil {
		return nil, err
	}
	return &spyDir{sub, d.spy, disk.JoinPath(d.path, name)}, nil
}

func (d *spyDir) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	if err != nil {
		return nil, err
	}
	return &spyDir{sub, d.spy, strings.TrimPrefix(disk.JoinPath(d.path, name), ".")}, nil
}

func (d *spyDir) Open(name string) (disk.File, error) {
	if err := d.did("open", name); err != nil {
		return nil, err
	}
	f, err := d.TreeDir.Open(name)
	return &spyFile{f, d, name}, err
}

func (d *spyDir) Create(name string) (disk.File, error) {
	if err := d.did("create", name); err != nil {
		return nil, err
	}
	f, err := d.TreeDir.Create(name)
	return &spyFile{f, d, name}, err
}

func (d *spyDir) OpenPart(name string) (disk.File, error) {
	if err := d.did("openpart", name); err != nil {
		return nil, err
	}
	f, err := d.TreeDir.OpenPart(name)
	return &spyFile{f, d, name}, err
}

func (d *spyDir) Names(limit int) ([]string, error) {
	if err := d.did("names", ""); err != nil {
		return nil, err
	}
	return d.TreeDir.Names(limit)
}

func (d *spyDir) Rename(old, new string) error {
	if err := d.did("rename", old); err != nil {
		return err
	}
	return d.TreeDir.Rename(old, new)
}

func (d *spyDir) Mkdir(name string) error {
	if err := d.did("mkdir", name); err != nil {
		return err
	}
	return d.TreeDir.Mkdir(name)
}

func (d *spyDir) Symlink(target, name string) error {
	if err := d.did("symlink", name); err != nil {
		return err
	}
	return d.TreeDir.Symlink(target, name)
}

func (d *spyDir) Remove(name string) error {
	if err := d.did("remove", name); err != nil {
		return err
	}
	return d.TreeDir.Remove(name)
}

func (d *spyDir) Sync() error {
	return d.did("syncdir", "")
}

func (d *spyDir) OpenVolume() (disk.Volume, error) {
	if d.noVolumes {
		return nil, nil
	}
	if err := d.did("openvolume", ""); err != nil {
		return nil, err
	}
	return spyVolume{d}, nil
}

type spyVolume struct{ d *spyDir }

func (v spyVolume) Sync() error  { return v.d.did("syncvolume", "") }
func (v spyVolume) Close() error { return nil }

type spyFile struct {
	disk.File
	d    *spyDir
	name string
}

func (f *spyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.did("write", f.name); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	if f.d.write != nil {
		f.d.write(n)
	}
	return n, err
}

func (d *spyDir) Chtimes(name string, mtime time.Time) error {
	if err := d.did("chtimes", name); err != nil {
		return err
	}
	return d.TreeDir.Chtimes(name, mtime)
}

func (d *spyDir) ChmodDir(name string, mode fs.FileMode) error {
	if err := d.did("chmod", name); err != nil {
		return err
	}
	return d.TreeDir.ChmodDir(name, mode)
}

func (f *spyFile) Chmod(mode fs.FileMode) error {
	if err := f.d.did("chmod", f.name); err != nil {
		return err
	}
	return f.File.Chmod(mode)
}

func (f *spyFile) TryLock() (bool, error) {
	if err := f.d.did("lock", f.name); err != nil {
		return false, err
	}
	return f.File.TryLock()
}

func (f *spyFile) Sync() error       { return f.d.did("sync", f.name) }
func (f *spyFile) Checkpoint() error { return nil }

// spied has a mirror's target watched.
func spied(s *spy) func(*MirrorOptions) {
	return func(o *MirrorOptions) {
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			if err != nil {
				return nil, err
			}
			return &spyDir{TreeDir: d, spy: s}, nil
		}
	}
}
