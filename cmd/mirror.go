package cmd

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// This file is get -r: a directory and what is below it.

// mirrorFlags are the flags of get that are about directories.
func mirrorFlags() []cli.Flag {
	rules := &filterRules{}
	for _, name := range []string{"KWIKCP_INCLUDE", "KWIKCP_EXCLUDE"} {
		if os.Getenv(name) != "" {
			rules.environment++
		}
	}
	return []cli.Flag{
		&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, EnvVars: []string{"KWIKCP_RECURSIVE"}, Usage: "fetch a directory and all that is below it into the directory DEST"},
		&cli.GenericFlag{Name: "include", EnvVars: []string{"KWIKCP_INCLUDE"}, Value: &filterFlag{rules, true}, Usage: "with -r, fetch what matches `PATTERN`; of several --include and --exclude the first that matches decides"},
		&cli.GenericFlag{Name: "exclude", EnvVars: []string{"KWIKCP_EXCLUDE"}, Value: &filterFlag{rules, false}, Usage: "with -r, leave out what matches `PATTERN`, and do not delete it"},
		&cli.BoolFlag{Name: "delete", EnvVars: []string{"KWIKCP_DELETE"}, Usage: "with -r, remove what is in DEST and not on the server"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, EnvVars: []string{"KWIKCP_DRY_RUN"}, Usage: "with -r, change nothing and print what would be done"},
	}
}

// filterRules are the rules of --include and --exclude together: their order counts. Those of the environment come first, before the command
// line is read, and give way to what is there.
type filterRules struct {
	filter      transfer.Filter
	texts       []string
	environment int  // how many rules are still to come from the environment
	given       bool // there are rules on the command line
}

// A filterFlag is one of the two flags. It is a cli.Generic.
type filterFlag struct {
	rules   *filterRules
	include bool
}

// Set implements flag.Value.
func (f *filterFlag) Set(pattern string) error {
	switch {
	case f.rules.environment > 0:
		f.rules.environment--
	case !f.rules.given:
		*f.rules = filterRules{given: true}
	}
	if err := f.rules.filter.Add(f.include, pattern); err != nil {
		return err
	}
	f.rules.texts = append(f.rules.texts, pattern)
	return nil
}

// String implements flag.Value.
func (f *filterFlag) String() string { return "" }

func (f *filterFlag) used() bool { return f.rules != nil && len(f.rules.texts) > 0 }

// A mirrorCmd is a parsed get -r.
type mirrorCmd struct {
	getCmd
	filter transfer.Filter
	delete bool
	dryRun bool
}

// noMirrorFlags are flags of get that make no sense for a directory.
var noMirrorFlags = []string{"checksum", "input-file", "range", "seed", "no-clobber"}

func parseMirror(c *cli.Context, t *terminal) (mirrorCmd, error) {
	const help = "kwikcp get -r kwik://HOST:PORT/DIR/ DEST"
	o := mirrorCmd{
		getCmd: getCmd{t: t, noPreserve: c.Bool("no-preserve"), reuse: c.Bool("reuse")},
		delete: c.Bool("delete"), dryRun: c.Bool("dry-run"),
	}
	if f, ok := c.Generic("include").(*filterFlag); ok {
		o.filter = f.rules.filter
	}
	args := c.Args().Slice()
	switch {
	case c.String("input-file") != "":
		return o, usageError{errors.New("-r and --input-file exclude each other: the lines of a list name files"), "a directory is fetched by a command of its own: " + help}
	case len(args) == 0:
		return o, usageError{errors.New("get needs the URL of a directory"), help}
	case len(args) > 2:
		return o, usageError{fmt.Errorf("get takes a URL and a directory, not also %q", args[2]), help}
	}
	for _, name := range noMirrorFlags {
		if c.IsSet(name) && c.Value(name) != any(false) {
			return o, usageError{fmt.Errorf("--%s is for one file, not for -r", name), help}
		}
	}
	if err := o.parseLimits(c); err != nil {
		return o, err
	}
	var err error
	if o.url, err = transfer.ParseTreeURL(args[0]); err != nil {
		return o, usageError{fmt.Errorf("%q is not the URL of a directory: %w", withoutSecret(args[0]), err), help}
	}
	if o.target = path.Base("/" + o.url.Path); len(args) == 2 {
		o.target = args[1]
	}
	switch {
	case o.target == "/" && len(args) < 2:
		return o, usageError{errors.New("the URL names no directory, so that DEST has to be said"), help}
	case o.target == "-":
		return o, usageError{errors.New("a directory does not go to stdout"), help}
	case o.target == "" || strings.ContainsRune(o.target, 0):
		return o, usageError{fmt.Errorf("%q is not the name of a directory", o.target), help}
	}
	return o, nil
}

func runMirror(ctx context.Context, c *cli.Context, t *terminal) error {
	o, err := parseMirror(c, t)
	if c.Bool("json") {
		events := newEvents(t.stdout)
		events.start(withoutSecret(c.Args().Get(0)), o.target)
		var result transfer.MirrorResult
		if err == nil {
			result, err = o.mirror(ctx, events)
		}
		events.mirrored(o, result, err)
		return err
	}
	if err != nil {
		return err
	}
	view := &mirrorView{view: newView(t, c.Bool("quiet"), o.url.Path), dryRun: o.dryRun}
	result, err := o.mirror(ctx, view)
	view.end()
	if c.Bool("quiet") {
		return err
	}
	view.omitted()
	if err == nil {
		warnOfLosses(t, transfer.Result{Servers: result.Servers})
		warnOfBuffers(t, result.Network)
	}
	if failed, _ := errors.AsType[*transfer.MirrorError](err); err == nil || failed != nil {
		t.printf("%s", o.summary(result))
	}
	return err
}

// mirror runs the transfer, once more if the person at the terminal decides to trust the server.
func (o mirrorCmd) mirror(ctx context.Context, report transfer.MirrorReporter) (transfer.MirrorResult, error) {
	traced, err := quicConfig()
	if err != nil {
		return transfer.MirrorResult{}, err
	}
	options := transfer.MirrorOptions{
		MirrorSource: transfer.MirrorSource{
			URL: o.url, TLS: o.policy.config(o.url), ConnectTimeout: o.connectTimeout,
			KWIK: &kwik.ClientConfig{
				Config: kwik.Config{QUIC: traced, RateLimit: o.limit, Family: o.family}, ConnectionsPerServer: o.connections,
			},
		},
		Target: o.target, Delete: o.delete, Filter: o.filter, DryRun: o.dryRun, NoPreserve: o.noPreserve, Reuse: o.reuse,
		Retries: o.retries, RetryDelay: o.retryDelay, MaxTime: o.maxTime, RetryMaxTime: o.retryMaxTime,
	}
	result, err := transfer.Mirror(ctx, options, report)
	if err != nil && o.policy.accepted(err) {
		result, err = transfer.Mirror(ctx, options, report)
	}
	if _, some := errors.AsType[*transfer.MirrorError](err); some {
		return result, hintedError{err, "the same command tries again what failed, and fetches nothing else anew"}
	}
	if err != nil {
		err = keptError{err}
	}
	return result, err
}

// summary says in a line what became of a mirror.
func (o mirrorCmd) summary(r transfer.MirrorResult) string {
	var b strings.Builder
	verb := "mirrored"
	if o.dryRun {
		verb = "would be mirrored"
	}
	fmt.Fprintf(&b, "%q %s: %s, %s; %d fetched (%s), %d up to date", o.target, verb, counted(r.Files, "file", "files"), size(r.Bytes), r.Fetched, size(r.Network), r.UpToDate)
	for _, x := range []struct {
		n         int64
		one, many string
	}{
		{r.Made, "directory made", "directories made"}, {r.Linked, "link made", "links made"},
		{r.Deleted, "deleted", "deleted"}, {r.Skipped, "skipped", "skipped"}, {r.Failed, "failed", "failed"},
	} {
		if x.n > 0 {
			b.WriteString(", " + counted(x.n, x.one, x.many))
		}
	}
	fmt.Fprintf(&b, ", in %.2f s", r.Seconds)
	if r.Wasted > 0 {
		fmt.Fprintf(&b, " (%s came in vain)", size(r.Wasted))
	}
	return b.String()
}

// counted writes a number of things.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// maxWarnings bounds the lines about single entries; --json has them all.
const maxWarnings = 20

// A mirrorView shows a mirror to people.
type mirrorView struct {
	*view
	dryRun bool
	warned int
}

// File implements transfer.MirrorReporter.
func (v *mirrorView) File(f transfer.FileReport) {
	if v.dryRun && v.t.stdout != nil && f.Action != transfer.FileFailed && f.Action != transfer.FileUpToDate && f.Action != transfer.FileSkipped {
		v.clear() // stdout may be the same terminal
		fmt.Fprintf(v.t.stdout, "%-7s  %s\n", dryWords[f.Action], printableName(f.Path))
	}
	if v.quiet || f.Err == nil {
		return
	}
	if v.warned++; v.warned > maxWarnings {
		return
	}
	v.clear()
	v.t.warningf("%s %s: %s", printableName(f.Path), f.Action, oneLine(f.Err.Error()))
}

var dryWords = map[transfer.FileAction]string{
	transfer.FileFetched: "fetch", transfer.FileLinked: "link", transfer.FileMade: "make", transfer.FileDeleted: "delete",
}

// omitted says how many warnings were not printed.
func (v *mirrorView) omitted() {
	if n := v.warned - maxWarnings; n > 0 {
		v.t.warningf("and %d more, which --json names", n)
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

// printableName writes a name of any bytes so that it is one line, harms no terminal and can be told from every other.
func printableName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, name[i])
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += n
	}
	return b.String()
}

// nameJSON is a name of any bytes in JSON, which can have those of UTF-8 only.
type nameJSON struct {
	Path string `json:"path"` // what is not UTF-8 replaced by U+FFFD
	// Bytes is there if something was replaced.
	Bytes string `json:"path_base64,omitempty"`
}

func jsonName(name string) nameJSON {
	if utf8.ValidString(name) {
		return nameJSON{Path: name}
	}
	return nameJSON{strings.ToValidUTF8(name, "\ufffd"), base64.StdEncoding.EncodeToString([]byte(name))}
}

// File implements transfer.MirrorReporter.
func (e *events) File(f transfer.FileReport) {
	message, root := "", ""
	if f.Err != nil {
		message = f.Err.Error()
	}
	if f.Root != [32]byte{} {
		root = integrity.Root(f.Root).String()
	}
	code := ""
	if f.Action == transfer.FileFailed {
		code = errorCode(f.Err)
	}
	e.enc.Encode(struct {
		event
		nameJSON
		Action  string `json:"action"`
		Bytes   int64  `json:"bytes"`
		BLAKE3  string `json:"blake3,omitempty"`
		Code    string `json:"error_code,omitempty"`
		Message string `json:"message,omitempty"`
	}{event{1, "file"}, jsonName(f.Path), string(f.Action), f.Size, root, code, message})
}

// mirrored prints the last event of a mirror, exactly once.
func (e *events) mirrored(o mirrorCmd, r transfer.MirrorResult, err error) {
	code, message, _ := explain(err)
	servers := []serverJSON{}
	for _, s := range r.Servers {
		servers = append(servers, serverJSON{ID: s.ID, Role: s.Role.String(), Addr: s.Addr, State: string(s.State), Bytes: s.Bytes})
	}
	e.enc.Encode(struct {
		event
		OK        bool         `json:"ok"`
		ExitCode  int          `json:"exit_code"`
		ErrorCode string       `json:"error_code"`
		Message   string       `json:"message"`
		Path      string       `json:"path"`
		Bytes     int64        `json:"bytes"`
		Seconds   float64      `json:"seconds"`
		Network   int64        `json:"fetched_bytes"`
		Wasted    int64        `json:"wasted_bytes"`
		Servers   []serverJSON `json:"servers"`
		DryRun    bool         `json:"dry_run"`
		Files     int64        `json:"files"`
		Fetched   int64        `json:"files_fetched"`
		UpToDate  int64        `json:"files_up_to_date"`
		Made      int64        `json:"directories_made"`
		Linked    int64        `json:"links_made"`
		Deleted   int64        `json:"deleted"`
		Skipped   int64        `json:"skipped"`
		Failed    int64        `json:"failed"`
	}{event{1, "result"}, err == nil, code, errorCode(err), message, o.target, r.Bytes, r.Seconds, r.Network, r.Wasted, servers,
		o.dryRun, r.Files, r.Fetched, r.UpToDate, r.Made, r.Linked, r.Deleted, r.Skipped, r.Failed})
}
