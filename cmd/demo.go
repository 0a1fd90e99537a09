package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/escape"
	"kwikcp/kwik"
	"kwikcp/testdata"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
)

func demoCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "demo",
		Usage:     "fetch a file from a primary and two secondaries on this machine",
		UsageText: "kwikcp demo [FILE]",
		Description: `Copies FILE (default: a built-in list of English words) for each of three servers and starts them on loopback.
Fetches the file from all three over QUIC, verifies it, and prints how much each server delivered. All files of the demo are
removed at the end.`,
		Action: func(c *cli.Context) error { return runDemo(c.Context, t, c.Args().Slice()) },
	}
}

// demoDirs are the directories of the demo's servers and of its client.
var demoDirs = [...]string{"A", "B", "C", "out"}

func runDemo(ctx context.Context, t *terminal, args []string) (err error) {
	if len(args) > 1 {
		return usagef(adviseDemo, "demo takes one file, not also %q", args[1])
	}
	file := argument(args, 0)
	work, err := os.MkdirTemp("", "kwikcp-demo-")
	if err != nil {
		return transfer.LocalError("make a directory for the demo", err)
	}
	defer os.RemoveAll(work)
	name := testdata.WordsName
	if file != "" {
		name = filepath.Base(file)
	}
	for _, dir := range demoDirs {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			return transfer.LocalError("prepare the demo", err)
		}
		if dir != "out" {
			if err := copyFile(ctx, filepath.Join(work, dir, name), file); err != nil {
				return err
			}
		}
	}
	if err := transfer.CheckPath(name); err != nil {
		return usagef(adviseDemoName, "the name %q cannot be served: %w", name, err)
	}

	quiet := slog.New(slog.DiscardHandler)
	var primary *runningServer
	for i, dir := range demoDirs[:3] {
		c := serveConfig{
			t: t, log: quiet, role: kwik.ServerRolePrimary, listen: "127.0.0.1:0", stateDir: filepath.Join(work, "state-"+dir),
		}
		if i > 0 {
			c.role, c.primary = kwik.ServerRoleSecondary, primary.url
		}
		if c.policy, err = newTrustPolicy(t, c.stateDir, ""); err != nil {
			return err
		}
		root, err := disk.OpenTree(filepath.Join(work, dir), false)
		if err != nil {
			return transfer.LocalError("prepare the demo", err)
		}
		defer root.Close()
		s, err := startServer(c, source.Local(root))
		if err != nil {
			return err
		}
		defer s.close()
		if i == 0 {
			primary = s
		} else if err := s.join(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	url := primary.url
	url.Path = name
	get := fileGet{url: url, target: filepath.Join(work, "out", name)}
	get.t, get.connectTimeout = t, transfer.DefaultConnectTimeout
	if get.policy, err = newTrustPolicy(t, filepath.Join(work, "state-out"), ""); err != nil {
		return err
	}
	view := newView(t, !t.interactive(), name)
	result, err := get.run(ctx, view)
	view.end()
	if err != nil {
		return err
	}
	if err := sameContent(filepath.Join(work, "A", name), get.target); err != nil {
		return &transfer.Error{Kind: transfer.KindIntegrity, Op: "compare with the source", Err: err}
	}
	return printDemo(t.stdout, name, result)
}

// copyFile copies the file of the command line, or the built-in one.
func copyFile(ctx context.Context, to, from string) (err error) {
	var source io.Reader = strings.NewReader(testdata.Words)
	if from != "" {
		op := fmt.Sprintf("demo %q", from)
		if info, err := os.Stat(from); err == nil && !info.Mode().IsRegular() { // opening a FIFO would block
			return transfer.LocalError(op, disk.ErrNotAFile)
		}
		f, err := os.Open(from)
		if err != nil {
			return transfer.LocalError(op, err)
		}
		defer f.Close()
		source = f
	}
	out, err := os.Create(to)
	if err != nil {
		return transfer.LocalError("prepare the demo", err)
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := io.Copy(out, interruptibleReader{ctx, source}); err != nil && ctx.Err() == nil {
		return transfer.LocalError("prepare the demo", err)
	}
	return context.Cause(ctx)
}

// An interruptibleReader reads until its context ends.
type interruptibleReader struct {
	ctx context.Context
	r   io.Reader
}

func (r interruptibleReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// sameContent compares two files byte by byte.
func sameContent(a, b string) error {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if n != m || string(p[:n]) != string(q[:m]) {
			return errors.New("the copy differs from its source")
		}
		if errX != nil || errY != nil {
			if (errX == io.EOF || errX == io.ErrUnexpectedEOF) && errX == errY {
				return nil
			}
			return errors.Join(errX, errY)
		}
	}
}

func printDemo(w io.Writer, name string, r transfer.Result) error {
	fmt.Fprintf(w, "%s: %s%s in %.3f s (%s), verified\n", escape.Line(name), size(r.Bytes), delivered(r.Servers), r.Seconds, rate(float64(r.Bytes)/r.Seconds))
	fmt.Fprintf(w, "blake3 %v\n\n", r.Root)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SERVER\tROLE\tBYTES\tSHARE")
	for _, s := range r.Servers {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%.1f %%\n", s.Addr, s.Role, s.Bytes, percent(s.Bytes, r.Bytes))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
The same by hand, with the file in each of the directories A, B and C:

  kwikcp serve --role primary   --root A --listen 127.0.0.1:4433
  kwikcp serve --role secondary --root B --listen 127.0.0.1:4434 --primary 127.0.0.1:4433
  kwikcp serve --role secondary --root C --listen 127.0.0.1:4435 --primary 127.0.0.1:4433
  kwikcp get %s copy-of-it
`, shellQuote(transfer.URL{Host: "127.0.0.1:4433", Path: name}.String()))
	return err
}

// delivered returns how many servers delivered something, in words.
func delivered(servers []transfer.ServerStatus) string {
	n := 0
	for _, s := range servers {
		if s.Bytes > 0 {
			n++
		}
	}
	switch n {
	case 0:
		return ""
	case 1:
		return " from 1 server"
	}
	return fmt.Sprintf(" from %d servers", n)
}

// shellQuote quotes a word for a POSIX shell if necessary.
func shellQuote(s string) string {
	if !strings.ContainsAny(s, " \t\n'\"\\$`!*?[](){}<>|&;#~") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
