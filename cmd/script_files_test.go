//go:build unix

package cmd

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/zeebo/blake3"
)

// This file has the commands of scripts that make files and compare them.

func cmdAwaitFile(ts *testscript.TestScript, _ *world, args []string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if found, err := filepath.Glob(ts.MkAbs(args[0])); err != nil || len(found) > 0 {
			return err
		}
	}
	return fmt.Errorf("there is no file %s", args[0])
}

func cmdGenfile(ts *testscript.TestScript, _ *world, args []string) error {
	n, err := parseBytes(args[1])
	if err != nil {
		return err
	}
	return fillFile(ts.MkAbs(args[0]), n, args[2][0])
}

func parseBytes(text string) (int64, error) {
	number, shift := text, 0
	if s, ok := strings.CutSuffix(text, "K"); ok {
		number, shift = s, 10
	} else if s, ok := strings.CutSuffix(text, "M"); ok {
		number, shift = s, 20
	}
	n, err := strconv.ParseInt(number, 10, 64)
	return n << shift, err
}

func cmdSameHash(ts *testscript.TestScript, _ *world, args []string) error {
	var sums [2][sha256.Size]byte
	for i, name := range args[:2] {
		data := []byte(ts.ReadFile(name))
		sums[i] = sha256.Sum256(data)
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("%s and %s differ", args[0], args[1])
	}
	return nil
}

func cmdOnly(ts *testscript.TestScript, _ *world, args []string) error {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	var want []string
	for _, name := range args[1:] {
		if of, ok := strings.CutPrefix(name, "part:"); ok {
			sum := blake3.Sum256([]byte(of))
			name = ".kwikcp-" + hex.EncodeToString(sum[:10]) + ".part"
		}
		want = append(want, name)
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		return fmt.Errorf("%s has %q", args[0], names)
	}
	return nil
}

func cmdListFile(ts *testscript.TestScript, _ *world, args []string) error {
	text := strings.NewReplacer(`\t`, "\t", `\r`, "\r", `\ufeff`, "\ufeff").Replace(strings.Join(args[1:], "\n"))
	return os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600)
}

func cmdManyLines(ts *testscript.TestScript, _ *world, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s\tmany-%d\n", args[2], i)
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o600)
}

func cmdFifo(ts *testscript.TestScript, _ *world, args []string) error {
	return syscall.Mkfifo(ts.MkAbs(args[0]), 0o600)
}
