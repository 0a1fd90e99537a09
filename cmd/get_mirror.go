package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"kwikcp/integrity"
	"kwikcp/internal/escape"
	"kwikcp/transfer"
)

// This file is get -r: a directory and everything below it.

// A treeGet is a directory to fetch.
type treeGet struct {
	fetcher
	url     transfer.URL
	target  string
	chosen  selection
	deletes deletion
	dryRun  bool
	quick   bool
	keep    keepOptions
}

func parseGetTree(ctx context.Context, t *terminal, o *getOptions, args []string) (treeGet, error) {
	g := treeGet{dryRun: o.dryRun, quick: o.quick, keep: o.keep}
	switch {
	case o.inputFile != "":
		return g, usagef(adviseTreeAlone, "-r and --input-file exclude each other: the lines of a list name files")
	case len(args) == 0:
		return g, usagef(adviseTree, "get needs the URL of a directory")
	case len(args) > 2:
		return g, usagef(adviseTree, "get takes a URL and a directory, not also %q", args[2])
	}
	for _, name := range []string{"checksum", "input-file", "range", "seed"} {
		if o.isSet(name) {
			return g, usagef(adviseTree, "--%s is for one file, not for -r", name)
		}
	}
	if o.prefix != "" {
		return g, usagef(adviseTree, "--directory-prefix is for files, not for -r: name DEST")
	}
	if o.noClobber {
		return g, usagef(adviseTree, "--no-clobber is for one file, not for -r")
	}
	if err := o.keep.check(adviseTree, o.noPreserve); err != nil {
		return g, err
	}
	var err error
	if g.deletes, err = o.deletes.parse("delete"); err != nil {
		return g, err
	}
	if g.fetcher, err = parseFetcher(t, o); err != nil {
		return g, err
	}
	if g.url, err = transfer.ParseTreeURL(args[0]); err != nil {
		return g, usagef(adviseTree, "%q is not the URL of a directory: %w", withoutSecret(args[0]), err)
	}
	if g.target = path.Base("/" + g.url.Path); len(args) == 2 {
		g.target = args[1]
	}
	switch {
	case g.target == "/" && len(args) < 2:
		return g, usagef(adviseTree, "the URL names no directory, so DEST is needed")
	case g.target == "-":
		return g, usagef(adviseTree, "a directory cannot be written to stdout")
	case g.target == "" || strings.ContainsRune(g.target, 0):
		return g, usagef(adviseTree, "%q is not the name of a directory", g.target)
	}
	g.chosen, err = o.rules.parse(ctx)
	return g, err
}

func runGetTree(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	g, err := parseGetTree(ctx, t, o, args)
	if o.json {
		events := newEvents(t.stdout)
		events.start(withoutSecret(argument(args, 0)), g.target)
		var result transfer.MirrorResult
		if err == nil {
			result, err = g.run(ctx, events)
		}
		events.mirrorResult(g, result, err)
		return err
	}
	if err != nil {
		return err
	}
	view := &mirrorView{view: newView(t, o.quiet, g.url.Path), dryRun: g.dryRun}
	result, err := g.run(ctx, view)
	view.end()
	if o.quiet {
		return err
	}
	view.countOmitted()
	g.checksums.warnOfMalformed(t)
	new(warningMemory).print(t, result.Warnings)
	if err == nil {
		warnOfLosses(t, transfer.Result{Servers: result.Servers})
		warnOfBuffers(t, result.Network)
	}
	_, partial := errors.AsType[*transfer.MirrorError](err)
	_, tooMany := errors.AsType[*transfer.DeleteLimitError](err)
	if err == nil || partial || tooMany {
		t.printf("%s", g.summary(result))
	}
	return err
}

// run fetches the directory, a second time if the user at the terminal accepts the server's key.
func (g *treeGet) run(ctx context.Context, report transfer.MirrorReporter) (result transfer.MirrorResult, err error) {
	source, err := g.source(g.url)
	if err != nil {
		return transfer.MirrorResult{}, err
	}
	source.StallTimeout = g.stallTimeout
	source.KWIK.ConnectionsPerServer, source.KWIK.RateLimit = g.connections, g.limit
	if err := g.readChecksums(ctx); err != nil {
		return transfer.MirrorResult{}, err
	}
	options := transfer.MirrorOptions{
		MirrorSource: source, Target: g.target, Filter: g.chosen.filter, DryRun: g.dryRun,
		NoPreserve: g.noPreserve, Reuse: g.reuse, NoSparse: g.noSparse, OpenTree: protectedTree(g.secrets),
		Retries: g.retries, RetryDelay: g.retryDelay, MaxTime: g.maxTime, RetryMaxTime: g.retryMaxTime,
		Paths: g.chosen.paths, Quick: g.quick, Preallocate: g.preallocate, Web: g.web,
	}
	checksums := newTreeChecksums(g.checksums, g.url.Path)
	if g.checksums != nil {
		options.Checksums = checksums.of
	}
	g.deletes.set(&options)
	g.keep.apply(&options)
	if g.makesDirs() && !g.dryRun {
		dir := dirOf(g.target)
		if err := g.made.make(dir); err != nil {
			return transfer.MirrorResult{}, err
		}
		defer func() {
			_, missing := os.Lstat(g.target)
			g.made.release(dir, missing == nil)
		}()
	}
	result, err = transfer.Mirror(ctx, options, report)
	if err != nil && g.policy.accepted(err) {
		result, err = transfer.Mirror(ctx, options, report)
	}
	_, partial := errors.AsType[*transfer.MirrorError](err)
	_, tooMany := errors.AsType[*transfer.DeleteLimitError](err)
	if err != nil && !partial && !tooMany {
		err = resumableError{err}
	}
	if err == nil && g.checksums != nil {
		err = checksums.missing(g.chosen)
	}
	return result, err
}

// summary describes a finished mirror in one line.
func (g treeGet) summary(r transfer.MirrorResult) string {
	var b strings.Builder
	verb := "mirrored"
	if g.dryRun {
		verb = "would be mirrored"
	}
	fmt.Fprintf(&b, "%q %s: %s, %s; %d fetched (%s), %d up to date", g.target, verb, counted(r.Files, "file", "files"),
		size(r.Bytes), r.Fetched, size(r.Network), r.UpToDate)
	for _, x := range []struct {
		n         int64
		one, many string
	}{
		{r.Proved, "proved by its checksum", "proved by their checksums"},
		{r.Made, "directory made", "directories made"}, {r.Linked, "link made", "links made"},
		{r.Created, "device, FIFO or socket made", "devices, FIFOs and sockets made"},
		{r.HardLinked, "hard link made", "hard links made"},
		{r.Copied, "copied from other names", "copied from other names"},
		{r.Deleted, "deleted", "deleted"}, {r.Skipped, "skipped", "skipped"}, {r.Failed, "failed", "failed"},
	} {
		if x.n > 0 {
			b.WriteString(", " + counted(x.n, x.one, x.many))
		}
	}
	if r.Holes > 0 {
		b.WriteString(", " + size(r.Holes) + " in holes")
	}
	fmt.Fprintf(&b, ", in %.2f s", r.Seconds)
	if r.Wasted > 0 {
		fmt.Fprintf(&b, " (%s discarded)", size(r.Wasted))
	}
	if losses := describeLosses(r.NotKept); losses != "" {
		b.WriteString("; not kept: " + losses)
	}
	return b.String()
}

// maxWarnings bounds the lines about single entries; --json has all of them.
const maxWarnings = 20

// A mirrorView shows a mirror on a terminal.
type mirrorView struct {
	*view
	dryRun bool
	warned int
}

// File implements transfer.MirrorReporter.
func (v *mirrorView) File(f transfer.FileReport) {
	if verb, changes := dryRunVerbs[f.Action]; v.dryRun && changes {
		v.clear() // stdout may be the same terminal
		fmt.Fprintf(v.t.stdout, "%-7s  %s\n", verb, escape.Name(f.Path))
	}
	if v.quiet || f.Err == nil {
		return
	}
	if v.warned++; v.warned > maxWarnings {
		return
	}
	v.clear()
	v.t.warningf("%s %s: %s", escape.Name(f.Path), f.Action, escape.Line(f.Err.Error()))
}

// dryRunVerbs are the words of --dry-run for the actions that change something.
var dryRunVerbs = map[transfer.FileAction]string{
	transfer.FileFetched: "fetch", transfer.FileCopied: "copy", transfer.FileLinked: "link",
	transfer.FileHardLinked: "link", transfer.FileMade: "make", transfer.FileCreated: "make",
	transfer.FileDeleted: "delete",
}

// countOmitted prints how many warnings were not printed.
func (v *mirrorView) countOmitted() {
	if n := v.warned - maxWarnings; n > 0 {
		v.t.warningf("%d more entries were skipped or failed; --json lists all of them", n)
	}
}

// Progress implements transfer.Reporter.
func (v *mirrorView) Progress(p transfer.Progress) {
	if v.quiet || p.OfFiles == 0 {
		return
	}
	v.above = fmt.Sprintf("%d of %s", p.Files, counted(p.OfFiles, "file", "files"))
	v.view.Progress(p)
}

// File implements transfer.MirrorReporter.
func (e *events) File(f transfer.FileReport) {
	message, root, code := "", "", ""
	if f.Err != nil {
		message = f.Err.Error()
	}
	if f.Root != [32]byte{} {
		root = integrity.Root(f.Root).String()
	}
	if f.Action == transfer.FileFailed {
		code = errorCode(f.Err)
	}
	e.print(struct {
		event
		nameJSON
		Action  string `json:"action"`
		Bytes   int64  `json:"bytes"`
		BLAKE3  string `json:"blake3,omitempty"`
		Code    string `json:"error_code,omitempty"`
		Message string `json:"message,omitempty"`
	}{newEvent("file"), newName(f.Path), string(f.Action), f.Size, root, code, message})
}

// mirrorResult prints the last event of a mirror, exactly once.
func (e *events) mirrorResult(g treeGet, r transfer.MirrorResult, err error) {
	e.print(struct {
		outcome
		nameJSON
		Bytes      int64        `json:"bytes"`
		Seconds    float64      `json:"seconds"`
		Network    int64        `json:"fetched_bytes"`
		Wasted     int64        `json:"wasted_bytes"`
		Servers    []serverJSON `json:"servers"`
		DryRun     bool         `json:"dry_run"`
		HardLinked int64        `json:"hard_links_made"`
		Copied     int64        `json:"files_copied"`
		Created    int64        `json:"specials_made"`
		NotKept    notKeptJSON  `json:"not_kept"`
		Files      int64        `json:"files"`
		Fetched    int64        `json:"files_fetched"`
		UpToDate   int64        `json:"files_up_to_date"`
		Made       int64        `json:"directories_made"`
		Linked     int64        `json:"links_made"`
		Deleted    int64        `json:"deleted"`
		Skipped    int64        `json:"skipped"`
		Failed     int64        `json:"failed"`
		Holes      int64        `json:"hole_bytes"`
		Proved     int64        `json:"checksums_proved,omitempty"`

		Warnings []warningJSON `json:"warnings,omitempty"`
	}{newOutcome("result", err), newName(g.target), r.Bytes, r.Seconds, r.Network, r.Wasted, finalServers(r.Servers),
		g.dryRun, r.HardLinked, r.Copied, r.Created, notKeptJSON(r.NotKept),
		r.Files, r.Fetched, r.UpToDate, r.Made, r.Linked, r.Deleted, r.Skipped, r.Failed, r.Holes, r.Proved,
		newWarnings(r.Warnings)})
}
