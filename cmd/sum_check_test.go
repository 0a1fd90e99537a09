package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestSumCheckLikeCoreutils checks lists with random damage. Verdicts and malformed lines are those
// of sha256sum --check.
func TestSumCheckLikeCoreutils(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("coreutils are not installed")
	}
	t.Chdir(t.TempDir())
	names := []string{"f", "two words", "back\\slash", "new\nline", "star*", "a) = (b", "-q"}
	args := []string{"--"}
	for i, name := range names {
		args = append(args, name)
		if err := os.WriteFile(name, fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for _, form := range []string{"--text", "--binary", "--tag"} {
		out, err := exec.Command("sha256sum", append([]string{form}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(out)), "\n")...)
	}
	dice := rand.New(rand.NewPCG(14, 4))
	for n := range 60 {
		var list []string
		for range 1 + dice.IntN(6) {
			list = append(list, damage(dice, lines[dice.IntN(len(lines))]))
		}
		compareSumCheck(t, n, strings.Join(list, "\n")+"\n")
	}
}

// damage changes some characters of a line, or none.
func damage(dice *rand.Rand, line string) string {
	const characters = "0f \\*()=#n\tx"
	b := []byte(line)
	for range max(0, dice.IntN(5)-2) {
		at, c := dice.IntN(len(b)), characters[dice.IntN(len(characters))]
		switch dice.IntN(3) {
		case 0:
			b[at] = c
		case 1:
			b = append(b[:at], b[at+1:]...)
		case 2:
			b = append(b[:at], append([]byte{c}, b[at:]...)...)
		}
	}
	return string(b)
}

// compareSumCheck checks one list with both programs.
func compareSumCheck(t *testing.T, n int, list string) {
	t.Helper()
	if err := os.WriteFile("list", []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sha256sum", "--check", "list")
	c.Env = append(os.Environ(), "LC_ALL=C")
	var theirs, warnings bytes.Buffer
	c.Stdout, c.Stderr = &theirs, &warnings
	failed := c.Run()
	var ours, messages bytes.Buffer
	out := &terminal{stdout: &ours, stderr: &messages}
	err := runSum(t.Context(), out, &sumOptions{check: true}, []string{"list"})
	if ours.String() != theirs.String() || (failed == nil) != (err == nil) {
		t.Errorf("list %d: %q\nours %q, %v\nsha256sum's %q, %v", n, list,
			ours.String(), err, theirs.String(), failed)
	}
	isMalformed := strings.Contains(messages.String(), "malformed")
	if isMalformed != strings.Contains(warnings.String(), "improperly formatted") {
		t.Errorf("list %d: %q\nours %s\nsha256sum's %s", n, list, messages.String(), warnings.String())
	}
	if err != nil && !isReported(err) {
		t.Errorf("list %d: %v", n, errors.Unwrap(err))
	}
}
