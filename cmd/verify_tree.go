package cmd

import (
	"context"
	"fmt"
	"strings"

	"kwikcp/internal/escape"
	"kwikcp/transfer"
)

// This file is verify -r: a directory compared with a server's.

// A treeCheck is a directory to compare.
type treeCheck struct {
	client
	url    transfer.URL
	target string
	filter transfer.Filter
}

func parseVerifyTree(ctx context.Context, t *terminal, o *verifyOptions, args []string) (c treeCheck, err error) {
	c.target = argument(args, 1)
	switch {
	case len(o.checksums.list) > 0 || o.from != "":
		return c, usagef(adviseVerifyTree, "--checksum and --from are for a file, not for -r")
	case len(args) < 2:
		return c, usagef(adviseVerifyTree, "verify -r needs the URL of a directory, and a directory")
	case len(args) > 2:
		return c, usagef(adviseVerifyTree, "verify -r takes a URL and a directory, not also %q", args[2])
	case c.target == "" || strings.ContainsRune(c.target, 0):
		return c, usagef(adviseVerifyTree, "%q is not the name of a directory", c.target)
	}
	if c.url, err = transfer.ParseTreeURL(args[0]); err != nil {
		return c, usagef(adviseVerifyTree, "%q is not the URL of a directory: %w", withoutSecret(args[0]), err)
	}
	chosen, err := o.rules.parse(ctx)
	if err != nil {
		return c, err
	}
	c.filter = chosen.filter
	c.client, err = o.clientOptions.parse(t)
	return c, err
}

func runVerifyTree(ctx context.Context, t *terminal, o *verifyOptions, args []string) error {
	c, err := parseVerifyTree(ctx, t, o, args)
	if o.json {
		events := newEvents(t.stdout)
		events.start(withoutSecret(argument(args, 0)), c.target)
		var result transfer.TreeComparison
		if err == nil {
			result, err = c.run(ctx, events)
		}
		events.treeResult(c, result, err)
		return err
	}
	if err != nil {
		return err
	}
	view := &compareView{view: newView(t, o.quiet, c.url.Path)}
	result, err := c.run(ctx, view)
	view.end()
	switch {
	case view.failed != nil:
		return transfer.LocalError("print the differences", view.failed)
	case o.quiet:
		return err
	}
	if n := view.warned - maxWarnings; n > 0 {
		t.warningf("%d more entries were skipped or failed; --json lists all of them", n)
	}
	if err == nil {
		files := counted(result.Files, "file", "files")
		t.printf("%q is the same: %s, %s%s", c.target, files, size(result.Bytes), skippedNote(result))
	}
	return err
}

// skippedNote tells of entries that were not compared.
func skippedNote(r transfer.TreeComparison) string {
	if r.Skipped == 0 {
		return ""
	}
	return ", " + counted(r.Skipped, "entry skipped", "entries skipped")
}

// run compares the directory, a second time if the user at the terminal accepts the server's key.
func (c treeCheck) run(ctx context.Context, report transfer.CompareReporter) (transfer.TreeComparison, error) {
	source, err := c.source(c.url)
	if err != nil {
		return transfer.TreeComparison{}, err
	}
	options := transfer.CompareTreeOptions{
		MirrorSource: source, Target: c.target, Filter: c.filter, OpenTree: protectedTree(c.secrets),
	}
	r, err := transfer.CompareTree(ctx, options, report)
	if err != nil && c.policy.accepted(err) {
		r, err = transfer.CompareTree(ctx, options, report)
	}
	isDifferent := !r.Same() && ctx.Err() == nil
	isComplete := err == nil || r.Failed > 0
	if isDifferent && isComplete {
		found := fmt.Errorf("%d differ, %d missing, %d extra%s; %d of %s equal", r.Differ, r.Missing, r.Extra,
			failedNote(r), r.Equal, counted(r.Files, "file is", "files are"))
		return r, differs(adviseNothing, fmt.Sprintf("verify %q", c.target), found)
	}
	return r, err
}

// failedNote tells of entries that could not be compared.
func failedNote(r transfer.TreeComparison) string {
	if r.Failed == 0 {
		return ""
	}
	return fmt.Sprintf(", %d could not be compared", r.Failed)
}

// A compareView shows the comparison of a directory on a terminal.
type compareView struct {
	*view
	warned int
	failed error // of printing to stdout
}

// Difference implements transfer.CompareReporter.
func (v *compareView) Difference(d transfer.TreeDifference) {
	if d.How == transfer.Skipped || d.How == transfer.Failed {
		if v.warned++; !v.quiet && v.warned <= maxWarnings {
			v.clear()
			v.t.warningf("%s %s: %s", escape.Name(d.Path), d.How, escape.Line(d.Err.Error()))
		}
		return
	}
	if v.quiet {
		return
	}
	v.clear() // stdout may be the same terminal
	if _, err := fmt.Fprintf(v.t.stdout, "%-7s  %s\n", d.How, entryName(d)); err != nil && v.failed == nil {
		v.failed = err
	}
}

// entryName returns the name of an entry, escaped, with a slash after that of a directory.
func entryName(d transfer.TreeDifference) string {
	if d.Type == transfer.EntryDir {
		return escape.Name(d.Path) + "/"
	}
	return escape.Name(d.Path)
}

// Difference implements transfer.CompareReporter.
func (e *events) Difference(d transfer.TreeDifference) {
	message, code := "", ""
	if d.Err != nil {
		message = d.Err.Error()
	}
	if d.How == transfer.Failed {
		code = errorCode(d.Err)
	}
	e.print(struct {
		event
		nameJSON
		State   transfer.How `json:"state"`
		Type    string       `json:"type"`
		Code    string       `json:"error_code,omitempty"`
		Message string       `json:"message,omitempty"`
	}{newEvent("difference"), newName(d.Path), d.How, d.Type.String(), code, message})
}

// treeResult prints the last event of verify -r, exactly once.
func (e *events) treeResult(c treeCheck, r transfer.TreeComparison, err error) {
	e.print(struct {
		outcome
		nameJSON
		Seconds float64 `json:"seconds"`
		Files   int64   `json:"files"`
		Equal   int64   `json:"files_equal"`
		Bytes   int64   `json:"bytes"`
		Differ  int64   `json:"differ"`
		Missing int64   `json:"missing"`
		Extra   int64   `json:"extra"`
		Skipped int64   `json:"skipped"`
		Failed  int64   `json:"failed"`
	}{newOutcome("result", err), newName(c.target), r.Seconds, r.Files, r.Equal, r.Bytes, r.Differ, r.Missing, r.Extra,
		r.Skipped, r.Failed})
}
