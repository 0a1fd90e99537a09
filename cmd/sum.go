package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/internal/checksum"
	"kwikcp/transfer"
)

// parallelSize is the least size of a regular file that is hashed on all cores, in bytes. Smaller
// files are read to their end, since files of /proc and /sys report sizes of up to 4 KiB that are
// not their content's.
const parallelSize = 16 << 10

// sumOptions are the options of sum.
type sumOptions struct{ recursive, check, quiet bool }

func (o *sumOptions) flags() []cli.Flag {
	return []cli.Flag{
		boolOption(&o.recursive, "recursive", "hash all files below each directory", "r"),
		boolOption(&o.check, "check", "read hashes and names from each FILE, and check the files that it "+
			"names", "c"),
		boolOption(&o.quiet, "quiet", "with --check, print no line for a file that is correct", "q"),
	}
}

func sumCommand(t *terminal) *cli.Command {
	o := &sumOptions{}
	return &cli.Command{
		Name:      "sum",
		Usage:     "print BLAKE3 hashes of files, as b3sum does, or check files against a list of hashes",
		UsageText: "kwikcp sum [FILE...]\nkwikcp sum -r DIR...\nkwikcp sum --check [FILE...]",
		Description: `Prints a line for each file: the hash, two spaces and the name. "b3sum --check" reads these lines. In a name with a
backslash or a line break these are escaped (\\, \n, \r), and the line starts with a backslash. Other bytes stay as they
are. Without FILE, and for "-", standard input is hashed. All cores are used.

With -r, each regular file below DIR has a line, in the order of the names' bytes. Links are not followed.

With --check, each line of FILE is a hash and a name, as kwikcp sum, b3sum, sha256sum, sha512sum and md5sum print them, in
any form. For each file stdout has a line: its name and OK, FAILED, or FAILED open or read. Malformed lines cause a
warning only, unless there is no other.

kwikcp get accepts the hash: --checksum blake3=HASH.

Errors are reported per file; the remaining files are still hashed. The exit status is the highest of all files.

` + exitHelp(append([]int{exitNotFound, exitIntegrity, exitLocal}, signalCodes...)...),
		Flags:  o.flags(),
		Action: func(c *cli.Context) error { return runSum(c.Context, t, o, c.Args().Slice()) },
	}
}

func runSum(ctx context.Context, t *terminal, o *sumOptions, names []string) error {
	switch {
	case o.check && o.recursive:
		return usagef(adviseSum, "--check and -r exclude each other")
	case o.recursive && len(names) == 0:
		return usagef(adviseSum, "sum -r needs a directory")
	case len(names) == 0:
		names = []string{"-"}
	}
	s := &summer{t: t, ctx: ctx}
	var err error
	for _, name := range names {
		switch {
		case o.check:
			err = s.checkFiles(name, o.quiet)
		case o.recursive:
			err = s.sumTree(name)
		default:
			err = s.sum(name)
		}
		if err != nil {
			return err
		}
	}
	return s.worst
}

// A summer hashes files. Its methods return an error only if the command cannot go on.
type summer struct {
	t     *terminal
	ctx   context.Context
	worst error // of a file, with the highest exit code; nil if there is none
}

// sum prints the line of a file.
func (s *summer) sum(name string) error {
	root, err := sumOf(s.ctx, name)
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if err != nil {
		s.fail(err)
		return nil
	}
	return s.print(sumLine(root, name))
}

func (s *summer) print(line string) error {
	if _, err := io.WriteString(s.t.stdout, line); err != nil {
		return transfer.LocalError("print the hashes", err)
	}
	return nil
}

// fail prints the error of a file.
func (s *summer) fail(err error) {
	code, message, hint := explain(err)
	s.t.errorWithHint(message, hint)
	s.count(code, err)
}

// count takes the exit code of an error that was printed.
func (s *summer) count(code int, err error) {
	if code > exitCodeOf(s.worst) {
		s.worst = reportedError{err}
	}
}

// sumTree prints the lines of all files below a directory, or that of a file.
func (s *summer) sumTree(name string) error {
	info, err := os.Stat(name)
	if err == nil && !info.IsDir() || name == "-" {
		return s.sum(name)
	}
	if err != nil {
		s.fail(localFileError(fmt.Sprintf("sum %q", name), err))
		return nil
	}
	omitted, err := s.sumDir(strings.TrimSuffix(filepath.ToSlash(name), "/"), name)
	if omitted > 0 {
		s.t.warningf("%q: %s not hashed", name,
			counted(omitted, "entry that is no regular file is", "entries that are no regular files are"))
	}
	return err
}

// sumDir prints the lines of the files below a directory at a path. shown is the path in the lines,
// without a slash at its end. It returns the number of entries that are neither files nor
// directories.
func (s *summer) sumDir(shown, path string) (omitted int64, err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		s.fail(localFileError(fmt.Sprintf("read %q", path), err))
	}
	// Sorted as whole paths are.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(pathOrder(a), pathOrder(b)) })
	for _, e := range entries {
		name, err := shown+"/"+e.Name(), error(nil)
		switch at := filepath.Join(path, e.Name()); {
		case e.IsDir():
			var below int64
			below, err = s.sumDir(name, at)
			omitted += below
		case e.Type().IsRegular():
			err = s.sum(name)
		default:
			omitted++
		}
		if err != nil {
			return omitted, err
		}
	}
	return omitted, nil
}

// pathOrder returns what an entry is sorted by.
func pathOrder(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// sumLine returns the line of a file. It is that of b3sum if the name is UTF-8 without a carriage
// return. For other names b3sum prints lines that name no file, or another one.
func sumLine(root integrity.Root, name string) string {
	mark, escaped := checksum.Escape(filepath.ToSlash(name))
	return mark + root.String() + "  " + escaped + "\n"
}

// untilEnd calls do, which may block forever, as to open or read a FIFO or a terminal may. When ctx
// ends it returns, and abandons its goroutine, since the process is about to end.
func untilEnd[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// sumOf hashes a file.
func sumOf(ctx context.Context, name string) (integrity.Root, error) {
	return untilEnd(ctx, func() (integrity.Root, error) {
		root, err := hashFile(ctx, name)
		return root, localFileError(fmt.Sprintf("sum %q", name), err)
	})
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
