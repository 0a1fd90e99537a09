package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"kwikcp/internal/checksum"
	"kwikcp/transfer"
)

// This file is sum --check: files are hashed and compared with a list.

// checkFiles checks the files that a list names; - is stdin.
func (s *summer) checkFiles(list string, quiet bool) error {
	op := fmt.Sprintf("check %q", list)
	in, err := untilEnd(s.ctx, func() (io.ReadCloser, error) { return openInput(list) })
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case err != nil:
		s.fail(localFileError(op, err))
		return nil
	}
	defer in.Close()
	c := fileChecker{summer: s, likely: checksum.BLAKE3, quiet: quiet}
	lines := checksum.NewReader(cancelReader{s.ctx, in})
	for {
		line, err := lines.Next()
		switch {
		case s.ctx.Err() != nil:
			return context.Cause(s.ctx)
		case err == io.EOF:
			return c.end(op, list, lines)
		case err != nil:
			s.fail(localFileError(op, err))
			return nil
		}
		if err := c.check(line); err != nil {
			return err
		}
	}
}

// A fileChecker checks the files of one list.
type fileChecker struct {
	*summer
	quiet bool
	// likely is the algorithm of the last hash that was right. It is tried first where several are
	// possible, since a list has one in most cases.
	likely             *checksum.Algorithm
	different, unknown int64 // files: with another hash, and not readable
}

// check checks the file of a line. An error ends the command.
func (c *fileChecker) check(line checksum.Line) error {
	isRight, err := c.has(line)
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	name := verdictName(line.Name)
	switch {
	case err != nil:
		c.unknown++
		c.fail(err)
		return c.print(name + ": FAILED open or read\n")
	case !isRight:
		c.different++
		return c.print(name + ": FAILED\n")
	case c.quiet:
		return nil
	}
	return c.print(name + ": OK\n")
}

// verdictName returns the name in the line of a verdict. As with sha256sum only a name with a line
// break is escaped.
func verdictName(name string) string {
	if !strings.Contains(name, "\n") {
		return name
	}
	mark, escaped := checksum.Escape(name)
	return mark + escaped
}

// has reports whether a file has the hash of its line.
func (c *fileChecker) has(line checksum.Line) (bool, error) {
	candidates := line.Sum.Algorithms()
	if len(candidates) > 1 && candidates[0] != c.likely {
		for i, a := range candidates {
			if a == c.likely {
				candidates[0], candidates[i] = a, candidates[0]
			}
		}
	}
	for _, a := range candidates {
		value, err := hashWith(c.ctx, a, line.Name)
		if err != nil {
			return false, err
		}
		if line.Sum.Is(a, value) {
			c.likely = a
			return true, nil
		}
		if line.Name == "-" {
			break // stdin can be read once
		}
	}
	return false, nil
}

// hashWith returns the hash of a file.
func hashWith(ctx context.Context, a *checksum.Algorithm, name string) ([]byte, error) {
	if a == checksum.BLAKE3 {
		root, err := sumOf(ctx, name)
		return root[:], err
	}
	return untilEnd(ctx, func() ([]byte, error) {
		h := a.New()
		in, err := openInput(name)
		if err == nil {
			defer in.Close()
			_, err = io.CopyBuffer(h, in, make([]byte, 1<<20))
		}
		return h.Sum(nil), localFileError(fmt.Sprintf("sum %q", name), err)
	})
}

// openInput opens a file; - is stdin.
func openInput(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(name)
}

// end prints the warnings for a list.
func (c *fileChecker) end(op, list string, lines *checksum.Reader) error {
	if lines.Lines == 0 {
		err := errors.New("no line has a hash and a name")
		c.fail(advisedError{adviseChecksumFile, &transfer.Error{Kind: transfer.KindOther, Op: op, Err: err}})
		return nil
	}
	for _, x := range []struct {
		n         int64
		one, many string
	}{
		{lines.Malformed, "line is malformed", "lines are malformed"},
		{c.unknown, "file could not be read", "files could not be read"},
	} {
		if x.n > 0 {
			c.t.warningf("%q: %s", list, counted(x.n, x.one, x.many))
		}
	}
	if c.different > 0 {
		err := errors.New(counted(c.different, "file does not have its hash", "files do not have their hashes"))
		c.fail(differs(adviseNothing, op, err))
	}
	return nil
}

// A cancelReader is a reader that fails when a context ends.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelReader) Read(p []byte) (int, error) {
	return untilEnd(c.ctx, func() (int, error) { return c.r.Read(p) })
}
