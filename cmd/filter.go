package cmd

import (
	"os"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// filterRules are the rules of --include and --exclude together, since their order matters. Rules
// from the environment are set first; the first rule on the command line replaces them.
type filterRules struct {
	filter      transfer.Filter
	folded      transfer.Filter // the same rules, for names in any case
	count       int
	environment int  // rules that the environment has not set yet
	given       bool // there are rules on the command line
}

// A filterFlag is one of the two options. It implements flag.Value.
type filterFlag struct {
	rules   *filterRules
	include bool
}

// filterOption returns --include or --exclude.
func filterOption(to *filterRules, name, usage string) cli.Flag {
	if os.Getenv(variableOf(name)) != "" {
		to.environment++
	}
	return &cli.GenericFlag{
		Name: name, EnvVars: []string{variableOf(name)}, Usage: usage, Value: &filterFlag{to, name == "include"},
	}
}

// Set implements flag.Value.
func (f *filterFlag) Set(pattern string) error {
	switch {
	case f.rules.environment > 0:
		f.rules.environment--
	case !f.rules.given:
		*f.rules = filterRules{given: true, filter: transfer.Filter{IgnoreCase: f.rules.filter.IgnoreCase}}
	}
	f.rules.folded.IgnoreCase = true
	if err := f.rules.filter.Add(f.include, pattern); err != nil {
		return err
	}
	if err := f.rules.folded.Add(f.include, pattern); err != nil {
		return err
	}
	f.rules.count++
	return nil
}

// String implements flag.Value.
func (f *filterFlag) String() string { return "" }

func (r *filterRules) used() bool { return r.count > 0 }
