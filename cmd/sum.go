package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/transfer"
)

// parallelSize is the least size of a regular file that is hashed on all cores, in bytes. Smaller
// files are read to their end, since files of /proc and /sys report sizes of up to 4 KiB that are
// not their content's.
const parallelSize = 16 << 10

func sumCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "sum",
		Usage:     "print BLAKE3 hashes of files, as b3sum does",
		UsageText: "kwikcp sum [FILE...]",
		Description: `Prints a line for each file: the hash, two spaces and the name. "b3sum --check" reads these lines. In a name with a
backslash or a line break these are escaped (\\, \n), and the line starts with a backslash. Without FILE, and for "-",
standard input is hashed. All cores are used.

kwikcp get accepts the hash: --checksum blake3=HASH.

Errors are reported per file; the remaining files are still hashed. The exit status is the highest of all files.

` + exitHelp(append([]int{exitNotFound, exitLocal}, signalCodes...)...),
		Action: func(c *cli.Context) error { return runSum(c.Context, t, c.Args().Slice()) },
	}
}

func runSum(ctx context.Context, t *terminal, names []string) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	var worst error
	for _, name := range names {
		root, err := sumOf(ctx, name)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			code, message, hint := explain(err)
			t.errorWithHint(message, hint)
			if code > exitCodeOf(worst) {
				worst = reportedError{err}
			}
			continue
		}
		if _, err := io.WriteString(t.stdout, sumLine(root, name)); err != nil {
			return transfer.LocalError("print the hashes", err)
		}
	}
	return worst
}

// sumLine returns the line that b3sum prints for a file.
func sumLine(root integrity.Root, name string) string {
	name = lossy(filepath.ToSlash(name))
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(name)
	mark := ""
	if escaped != name {
		mark = `\`
	}
	return mark + root.String() + "  " + escaped + "\n"
}

// lossy replaces each longest run of bytes that begins a character without ending it by U+FFFD,
// as b3sum does. Section 3.9 of the Unicode standard names this "Substitution of Maximal
// Subparts".
func lossy(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			for n = min(3, len(s)); n > 1 && utf8.FullRuneInString(s[:n]); n-- {
			}
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// sumOf hashes a file. To open or read a FIFO or a terminal may block forever. Then sumOf returns
// when ctx ends and abandons its goroutine, since the process is about to end.
func sumOf(ctx context.Context, name string) (integrity.Root, error) {
	type result struct {
		root integrity.Root
		err  error
	}
	done := make(chan result, 1)
	go func() {
		root, err := hashFile(ctx, name)
		done <- result{root, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			r.err = localFileError(fmt.Sprintf("sum %q", name), r.err)
		}
		return r.root, r.err
	case <-ctx.Done():
		return integrity.Root{}, context.Cause(ctx)
	}
}

func hashFile(ctx context.Context, name string) (integrity.Root, error) {
	if name == "-" {
		return integrity.Sum(ctx, os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return integrity.Root{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return integrity.Root{}, err
	}
	if !info.Mode().IsRegular() || info.Size() < parallelSize {
		return integrity.Sum(ctx, f)
	}
	tree, err := integrity.Build(ctx, f, info.Size(), integrity.GroupSizeFor(info.Size()), nil)
	if err != nil {
		return integrity.Root{}, err
	}
	return tree.Root(), nil
}

// localFileError wraps the error of a local file that a command reads. op names the file.
func localFileError(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return advisedError{adviseNothing, &transfer.Error{Kind: transfer.KindNotFound, Op: op, Err: err}}
	}
	if short, ok := errors.AsType[*integrity.ShortReadError](err); ok {
		err = fmt.Errorf("the file was truncated while it was read: %d instead of %d bytes", short.Offset, short.Size)
	}
	return transfer.LocalError(op, err)
}
