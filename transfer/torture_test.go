//go:build unix

package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A tortureFault is how operations fail.
type tortureFault struct {
	with error
	only []string // operations; nil for all
	kind Kind
	says string
}

var tortureFaults = map[string]tortureFault{
	"ENOSPC": {with: syscall.ENOSPC, kind: KindNoSpace, says: "no space left on device"},
	"EDQUOT": {with: syscall.EDQUOT, kind: KindNoSpace, says: "disk quota exceeded"},
	"EIO":    {with: syscall.EIO, kind: KindLocal, says: "input/output error"},
	// Package os repeats nearly all calls itself after EINTR. The other calls must fail like any
	// call.
	"EINTR": {with: syscall.EINTR, kind: KindLocal, says: "interrupted system call"},
	"EMFILE": {with: syscall.EMFILE, only: []string{"opendir", "open", "openpart", "create"}, kind: KindLocal,
		says: "too many open files"},
	"EROFS": {with: syscall.EROFS, only: []string{"openpart", "create", "write", "truncate", "chmod", "chtimes",
		"rename", "renamenew", "remove"},
		kind: KindLocal, says: "read-only file system"},
	"short write": {with: io.ErrShortWrite, only: []string{"write"}, kind: KindLocal, says: "short write"},
}

// TestTorture makes each operation of each kind of transfer fail in each way, alone or with all
// later operations. The target is then the old file or the new one. The error has the right
// kind and names the path and the reason. No handle or lock stays, and no file but the part
// file. The same transfer then succeeds and keeps all verified bytes. With -v the test prints
// the message of each failure.
func TestTorture(t *testing.T) {
	table := make(map[string][]string) // by message, what led to it
	tried := 0
	for _, name := range slices.Sorted(maps.Keys(crashCases)) {
		c := crashCases[name]
		c.version = versionFrom(crashWant, crashGroup)
		for how, fault := range tortureFaults {
			for _, stays := range []bool{false, true} {
				for n := 1; ; n += faultStep {
					x := &faults{fail: n, with: fault.with, only: fault.only, stays: stays}
					said := c.torture(t, x, fault, fmt.Sprintf("%s: %s at %d, stays %t", name, how, n, stays))
					if x.failed() == "" || t.Failed() {
						break
					}
					tried++
					if row := x.failed(); !slices.Contains(table[said], row) {
						table[said] = append(table[said], row)
					}
				}
			}
		}
	}
	t.Logf("%d failed operations", tried)
	for _, said := range slices.Sorted(maps.Keys(table)) {
		slices.Sort(table[said])
		t.Logf("%-110s after a failed %s", said, strings.Join(table[said], ", "))
	}
}

// torture runs one transfer with a fault and one without, and returns what the first one said.
func (c crashCase) torture(t *testing.T, x *faults, fault tortureFault, what string) (said string) {
	t.Helper()
	d := newCrashDisk(c.start())
	x.under = d.opener()
	r, lies, err := c.offline(d, rand.New(rand.NewPCG(1, 1)), func(o *GetOptions) { o.OpenDir = x.opener() })
	s := d.now()
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, which was %s: %s\nerror %v, result %+v\noperations %q\nthe disk has %v", what, x.failed(),
			fmt.Sprintf(format, args...), err, r, x.ops, s)
	}

	said = "it succeeded"
	if err != nil {
		said = err.Error()
		e, ok := errors.AsType[*Error](err)
		switch {
		case x.failed() == "":
			bad("nothing failed")
		case !ok || e.Kind != fault.kind:
			bad("the error is of another kind than %v", fault.kind)
		case !strings.Contains(said, `"out"`) || !strings.Contains(said, fault.says):
			bad("the message does not say which file, or why")
		}
		if r.Kept {
			said += " (kept)"
		}
	}

	before, target, part := c.start(), s.get("out"), s.get(crashPart)
	isNew := target != nil && bytes.Equal(target.data, c.want())
	isOld := (target == nil) == (c.old == nil) && (target == nil || bytes.Equal(target.data, c.old))
	isLost := !r.Kept && r.Bytes > r.Holes && !isNew
	switch {
	case lies > 0:
		bad("%d wrong bytes were taken for proved", lies)
	case !isNew && !isOld:
		bad("the target is torn or gone")
	case err == nil && !isNew:
		bad("the target is not the file")
	case x.open != 0 || d.open != 0 || d.locks != 0:
		bad("%d files and directories are open (%d), %d locked", x.open, d.open, d.locks)
	case r.Kept && part == nil:
		bad("nothing is kept")
	case part != nil && !r.Kept && before.get(crashPart) == nil && !x.stays && x.failed() != "remove":
		bad("a part file is left of which nothing is said")
	case err != nil && isLost && c.options.Range == nil && !x.stays && x.failed() != "sync":
		bad("what was proved is lost")
	}
	for name := range s.names {
		if name != "out" && name != "bystander" && name != crashPart {
			bad("there is %q", name)
		}
	}

	again := newCrashDisk(s)
	r2, lies, err2 := c.offline(again, rand.New(rand.NewPCG(1, 2)))
	if c.options.NoClobber && target != nil {
		if e, ok := errors.AsType[*Error](err2); !ok || e.Kind != KindExists {
			bad("again: %v", err2)
		}
		return said
	}
	least, most := c.right(s)
	switch target := again.after(len(again.log), dropAll{}).get("out"); {
	case err2 != nil || lies > 0 || target == nil || !bytes.Equal(target.data, c.want()):
		bad("again: %+v, %v", r2, err2)
	case r2.Resumed < least || r2.Resumed > most || r.Kept && r2.Resumed < r.Bytes-r.Holes-(most-least):
		bad("again: %d bytes were taken from before, right were %d to %d", r2.Resumed, least, most)
	case len(again.names) != 2:
		bad("again: it left %v", again.names)
	}
	return said
}

// A tornOutput fails at its n-th write, after half of it.
type tornOutput struct {
	bytes.Buffer
	left int
	with error
}

func (w *tornOutput) Write(p []byte) (int, error) {
	if w.left--; w.left == 0 {
		n, _ := w.Buffer.Write(p[:len(p)/2])
		return n, w.with
	}
	return w.Buffer.Write(p)
}

// TestTortureOfOutput is the same test for an output. The bytes that arrive are right up to
// their end. A range leaves no file in the directory that gathered it.
func TestTortureOfOutput(t *testing.T) {
	for _, part := range []*ByteRange{nil, {First: 65000, Last: 140000}} {
		want := theFile
		if part != nil {
			want = theFile[part.First : part.Last+1]
		}
		for _, how := range []string{"ENOSPC", "EDQUOT", "EIO", "EINTR"} {
			fault := tortureFaults[how]
			for n := 1; ; n += faultStep {
				out := &tornOutput{left: n, with: fault.with}
				t.Setenv("TMPDIR", t.TempDir())
				_, _, err := fetch(t, "", func(o *GetOptions) { o.Output, o.Range = out, part })
				wantNames(t, os.Getenv("TMPDIR"))
				if !bytes.HasPrefix(want, out.Bytes()) {
					t.Errorf("%d bytes, wrong ones among them", out.Len())
				}
				if out.left > 0 {
					if err != nil || out.Len() != len(want) {
						t.Errorf("%d bytes, %v", out.Len(), err)
					}
					break
				}
				wantKind(t, err, fault.kind, "write the output: "+fault.says)
			}
		}
		if part == nil {
			continue
		}
		for how, fault := range tortureFaults {
			for n := 1; ; n += faultStep {
				var out bytes.Buffer
				x := &faults{fail: n, with: fault.with, only: fault.only}
				_, _, err := fetch(t, "", func(o *GetOptions) { o.Output, o.Range, o.OpenDir = &out, part, x.opener() })
				wantNames(t, os.Getenv("TMPDIR"))
				if !bytes.HasPrefix(want, out.Bytes()) || err == nil && out.Len() != len(want) {
					t.Errorf("%s at %d, which was %s: %d bytes, %v", how, n, x.failed(), out.Len(), err)
				}
				if x.open != 0 {
					t.Errorf("%s at %d, which was %s: %d files are open", how, n, x.failed(), x.open)
				}
				if x.failed() == "" {
					break
				}
				if err != nil {
					wantKind(t, err, fault.kind, fault.says)
				}
			}
		}
	}
}
