package pattern

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// This file compares with rsync itself: which entries of a tree it would send.

// An rsyncRule is an option of rsync: --include or --exclude, or with lines --include-from or
// --exclude-from.
type rsyncRule struct {
	include bool
	text    string
	isFile  bool
}

func (r rsyncRule) String() string {
	name := "--exclude"
	if r.include {
		name = "--include"
	}
	if r.isFile {
		name += "-from"
	}
	return fmt.Sprintf("%s=%q", name, r.text)
}

// An rsyncTree is a random tree on disk.
type rsyncTree struct {
	dir     string // has source, empty and the files of rules
	entries []entry
}

func newRsyncTree(t *testing.T, r *rand.Rand, n int) *rsyncTree {
	t.Helper()
	tree := &rsyncTree{t.TempDir(), randomTree(r, n)}
	for _, e := range append([]entry{"/"}, tree.entries...) {
		name := filepath.Join(tree.dir, "source", e.path())
		err := os.MkdirAll(filepath.Dir(name), 0o777)
		if err == nil {
			if e.isDir() {
				err = os.Mkdir(name, 0o777)
			} else {
				err = os.WriteFile(name, nil, 0o666)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tree.dir, "empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	return tree
}

// sent returns the entries that rsync would send, sorted.
func (tree *rsyncTree) sent(rules []rsyncRule, name string) ([]string, error) {
	args := []string{"-r", "--dry-run", "--8-bit-output", "--out-format=%n"}
	for i, rule := range rules {
		option, value := "--exclude", rule.text
		if rule.include {
			option = "--include"
		}
		if rule.isFile {
			option += "-from"
			value = filepath.Join(tree.dir, fmt.Sprintf("%s-%d", name, i))
			if err := os.WriteFile(value, []byte(rule.text), 0o666); err != nil {
				return nil, err
			}
			defer os.Remove(value)
		}
		args = append(args, option+"="+value)
	}
	c := exec.Command("rsync", append(args, "source/", "empty/")...)
	c.Dir, c.Env = tree.dir, append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil || stderr.Len() > 0 {
		return nil, fmt.Errorf("rsync: %v: %s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "./" || line == "" })
	slices.Sort(lines)
	return lines, nil
}

// wanted returns the entries that Rules includes, sorted.
func (tree *rsyncTree) wanted(rules *Rules) []string {
	var wanted []string
	excluded := make(map[string]bool)
	for _, e := range tree.entries {
		at := e.path()
		if excluded[at[:max(strings.LastIndexByte(at, '/'), 0)]] || !rules.Wants(at, e.isDir()) {
			excluded[at] = true
			continue
		}
		wanted = append(wanted, string(e))
	}
	slices.Sort(wanted)
	return wanted
}

// randomRules returns one to four options, with the Rules of them. Patterns that Rules refuses are
// left out, and returned.
func randomRules(r *rand.Rand, tree []entry) (options []rsyncRule, rules *Rules, refused []string) {
	rules = &Rules{}
	for n := 1 + r.IntN(4); len(options) < n; {
		o := rsyncRule{include: r.IntN(5) < 2, isFile: r.IntN(6) == 0}
		lines := 1
		if o.isFile {
			lines = 1 + r.IntN(4)
		}
		for range lines {
			text := randomPattern(r, tree)
			switch r.IntN(12) {
			case 0:
				text = "+ " + text
			case 1:
				text = "- " + text
			case 2:
				if r.IntN(5) == 0 {
					text = "!"
				}
			}
			var scratch Rules
			if err := scratch.Add(text, false, false); err != nil {
				if literal := strings.Contains(err.Error(), "not supported"); !literal {
					refused = append(refused, text)
				}
				continue
			}
			o.text += text
			if o.isFile {
				o.text += []string{"\n", "\r\n", "\r", "\n\n", "\n# x\n", "\n;x\n"}[r.IntN(6)]
			}
		}
		if o.text == "" {
			continue
		}
		var err error
		if o.isFile {
			err = rules.AddFile([]byte(o.text), o.include, false, false)
		} else {
			err = rules.Add(o.text, o.include, false)
		}
		if err != nil {
			panic(err) // each line was accepted
		}
		options = append(options, o)
	}
	return options, rules, refused
}

// TestAgainstRsync compares the decisions of random rules on a random tree with those of rsync.
// It also checks that rsync never matches a pattern that is an error here. KWIKCP_RSYNC is the
// number of sets of rules, if it is set, and then they are others each time.
func TestAgainstRsync(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("SKIPPED: the comparison with rsync needs the program rsync in the PATH")
	}
	sets, seed := 40, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("KWIKCP_RSYNC")); err == nil {
		sets, seed = n, rand.Uint64()
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var (
		wg                 sync.WaitGroup
		slots              = make(chan struct{}, 4)
		tree               *rsyncTree
		refused            []string
		decisions, exclude int
	)
	run := func(check func()) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			check()
		})
	}
	for i := range sets {
		if i%1000 == 0 {
			tree = newRsyncTree(t, r, 600)
		}
		tree := tree
		options, rules, more := randomRules(r, tree.entries)
		refused = append(refused, more...)
		want := tree.wanted(rules)
		decisions += len(tree.entries)
		exclude += len(tree.entries) - len(want)
		run(func() {
			got, err := tree.sent(options, fmt.Sprint(i))
			if err != nil {
				t.Errorf("%v: %v", options, err)
			} else if !slices.Equal(got, want) {
				t.Errorf("%v:\nonly rsync sends %q\nonly kwikcp fetches %q", options,
					without(got, want), without(want, got))
			}
		})
	}
	for chunk := range slices.Chunk(refused, 50) {
		var options []rsyncRule
		for _, text := range chunk {
			options = append(options, rsyncRule{text: strings.TrimPrefix(text, "+ ")})
		}
		run(func() {
			got, err := tree.sent(options, "")
			if err != nil || len(got) != len(tree.entries) {
				t.Errorf("rsync matches one of %q: %d entries of %d, %v", chunk, len(got), len(tree.entries), err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d sets of rules, %d decisions, %d of them to exclude; %d patterns refused",
		sets, decisions, exclude, len(refused))
	if exclude < decisions/20 || exclude > decisions*19/20 {
		t.Error("the random rules are not worth much")
	}
}

// without returns the elements of a that are not in b.
func without(a, b []string) (only []string) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			only = append(only, x)
		}
	}
	return only
}
