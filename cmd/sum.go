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

// readAheadSize is from which size on, in bytes, a regular file is hashed on all cores, in pieces. Smaller ones are read to their
// end, and so are the files of /proc and /sys, which claim sizes of up to 4 KiB and mean nothing by them.
const readAheadSize = 16 << 10

func sumCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "sum",
		Usage:     "print the BLAKE3 hashes of files, as b3sum does",
		UsageText: "kwikcp sum [FILE...]",
		Description: `Each line is a hash, two spaces and a name, as b3sum prints it and "b3sum --check" reads it: in a name with a backslash or a
line break these are written \\ and \n, and the line begins with a backslash. "-", or no FILE, is standard input.

The hash is what kwikcp get takes: --checksum blake3=HASH.

What is wrong with one file is said, and the others are hashed all the same; the exit status is the highest.

` + exitHelp(exitNotFound, exitLocal),
		Action: func(c *cli.Context) error {
			names := c.Args().Slice()
			if len(names) == 0 {
				names = []string{"-"}
			}
			return runSum(c.Context, t, names)
		},
	}
}

// runSum prints a line for each file. What is wrong with one is printed at once, and does not keep the others from being hashed.
func runSum(ctx context.Context, t *terminal, names []string) error {
	var worst error
	for _, name := range names {
		root, err := sumOf(ctx, name)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			code, message, hint := explain(err)
			t.errorWithHint(message, hint)
			if before, _, _ := explain(worst); code > before {
				worst = saidError{err}
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

// lossy returns text with U+FFFD for each longest run of bytes that begins a character and does not end it, as b3sum does (Unicode
// standard, section 3.9, "Substitution of Maximal Subparts").
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

// sumOf hashes a file. To open or read a FIFO or a terminal may take for ever; then the end of ctx ends sumOf, and leaves a goroutine to
// the process, which is about to end.
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
	if !info.Mode().IsRegular() || info.Size() < readAheadSize {
		return integrity.Sum(ctx, f)
	}
	tree, err := integrity.Build(ctx, f, info.Size(), integrity.GroupSizeFor(info.Size()), nil)
	if err != nil {
		return integrity.Root{}, err
	}
	return tree.Root(), nil
}

// localFileError wraps the error of a file that a command was to read. op says its name.
func localFileError(op string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return hintedError{&transfer.Error{Kind: transfer.KindNotFound, Op: op, Err: err}, ""}
	}
	if short, ok := errors.AsType[*integrity.ShortReadError](err); ok {
		err = fmt.Errorf("it became shorter while it was read, %d bytes and not %d", short.Offset, short.Size)
	}
	return transfer.LocalError(op, err)
}
