package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// This file has the options that select entries of trees: rules of patterns, and lists of paths.

// filterRules are the rules of --include, --exclude, --include-from and --exclude-from together,
// since their order matters. Rules from the environment are set first; the first rule on the
// command line replaces them.
type filterRules struct {
	list        []filterRule
	environment int  // rules that the environment has not set yet
	given       bool // there are rules on the command line
	ignoreCase  bool

	filesFrom string
	from0     bool // files end their lines with NUL bytes
}

// A selection is the parsed options. The zero value selects everything.
type selection struct {
	filter transfer.Filter
	folded transfer.Filter // the same rules, for names in any case
	paths  *transfer.PathList
}

// A filterRule is one use of an option.
type filterRule struct {
	*filterFlag
	value string // a pattern, or the name of a file
}

// A filterFlag is one of the four options. It implements flag.Value.
type filterFlag struct {
	name    string
	include bool
	isFile  bool
	rules   *filterRules
}

// filterOption returns --include or --exclude.
func filterOption(to *filterRules, name, usage string) cli.Flag {
	return to.flag(filterFlag{name: name, include: name == "include"}, usage)
}

// filterFromOption returns --include-from or --exclude-from.
func filterFromOption(to *filterRules, name string) cli.Flag {
	option := strings.TrimSuffix(name, "-from")
	usage := "read patterns from `FILE`, one a line, as if for --" + option + "; - is standard input"
	return to.flag(filterFlag{name: name, include: option == "include", isFile: true}, usage)
}

func filesFromOption(to *filterRules, usage string) cli.Flag {
	return stringOption(&to.filesFrom, "files-from", usage)
}

func from0Option(to *filterRules) cli.Flag {
	return boolOption(&to.from0, "from0", "in the FILE of each of these three options a NUL byte ends a line", "0")
}

// flag returns one of the four options for rules.
func (o *filterRules) flag(f filterFlag, usage string) cli.Flag {
	f.rules = o
	if os.Getenv(variableOf(f.name)) != "" {
		o.environment++
	}
	return &cli.GenericFlag{Name: f.name, EnvVars: []string{variableOf(f.name)}, Usage: usage, Value: &f}
}

// Set implements flag.Value. The rules are parsed when all options are known.
func (f *filterFlag) Set(value string) error {
	o := f.rules
	switch {
	case o.environment > 0:
		o.environment--
	case !o.given:
		o.given, o.list = true, nil
	}
	o.list = append(o.list, filterRule{f, value})
	return nil
}

// String implements flag.Value.
func (f *filterFlag) String() string { return "" }

// used returns the name of one of the options that is in use; empty if none is.
func (o *filterRules) used() string {
	if len(o.list) > 0 {
		return o.list[0].name
	}
	if o.filesFrom != "" {
		return "files-from"
	}
	return ""
}

// parse reads the files and parses the rules.
func (o *filterRules) parse(ctx context.Context) (s selection, err error) {
	s.filter.IgnoreCase, s.folded.IgnoreCase = o.ignoreCase, true
	from := fromReader{ctx: ctx}
	for _, rule := range o.list {
		var file []byte
		if rule.isFile {
			if file, err = from.read(rule.name, rule.value); err != nil {
				return s, err
			}
		}
		for _, filter := range []*transfer.Filter{&s.filter, &s.folded} {
			if rule.isFile {
				err = filter.AddFile(rule.include, file, o.from0)
			} else {
				err = filter.Add(rule.include, rule.value)
			}
			if err != nil {
				return s, usagef(advisePattern, "--%s %q: %w", rule.name, rule.value, err)
			}
		}
	}
	if o.filesFrom == "" {
		return s, nil
	}
	file, err := from.read("files-from", o.filesFrom)
	if err != nil {
		return s, err
	}
	if s.paths, err = transfer.ParsePathList(file, o.from0); err != nil {
		return s, usagef(adviseFrom, "--files-from %q: %w", o.filesFrom, err)
	}
	return s, nil
}

// maxFrom bounds a file of patterns or of paths, in bytes.
const maxFrom = 256 << 20

// A fromReader reads the files of options.
type fromReader struct {
	ctx   context.Context
	stdin string // the option that has read standard input; empty if none has
}

// read reads a file of patterns or of paths; - is standard input. It returns when ctx ends: a
// terminal or a FIFO may never end. Then the goroutine is left to the process, which is about to
// end.
func (r *fromReader) read(option, name string) ([]byte, error) {
	if name == "-" {
		if r.stdin != "" {
			return nil, usagef(adviseOneStdin, "--%s and --%s both read standard input", r.stdin, option)
		}
		r.stdin = option
	}
	var (
		file []byte
		err  error
		done = make(chan struct{})
	)
	stdin := os.Stdin
	go func() {
		defer close(done)
		file, err = readBounded(name, stdin)
	}()
	select {
	case <-done:
	case <-r.ctx.Done():
		return nil, context.Cause(r.ctx)
	}
	return file, localFileError(fmt.Sprintf("read the file %q of --%s", name, option), err)
}

// readBounded reads a file of at most maxFrom bytes; - is in.
func readBounded(name string, in io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	file, err := io.ReadAll(io.LimitReader(in, maxFrom+1))
	if err == nil && len(file) > maxFrom {
		err = fmt.Errorf("it has more than %d MiB", maxFrom>>20)
	}
	return file, err
}
