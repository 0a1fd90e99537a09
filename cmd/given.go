package cmd

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// This file has the rules for all options of a command that hold before their values are read. A
// value is not empty, and the command line overrules the environment.

// exclusions are options that exclude each other: each on the left side those on the right side.
// One with a value stands for that value alone.
var exclusions = []struct{ left, right []string }{
	{[]string{"ipv4"}, []string{"ipv6"}},
	{[]string{"sparse"}, []string{"no-sparse"}},
	{[]string{"hard-links"}, []string{"no-hard-links"}},
	{[]string{"no-clobber"}, []string{"overwrite"}},
	{[]string{"range"}, []string{"reuse", "seed", "checksum", "checksum-file"}},
	{[]string{"recursive"}, []string{"input-file", "checksum", "range", "seed", "no-clobber", "from", "check",
		"directory-prefix"}},
	{[]string{"input-file"}, []string{"checksum", "range", "seed"}},
	{[]string{"metalink"}, []string{"input-file", "recursive"}},
	{[]string{"no-preserve"}, []string{"owner", "special-modes", "xattrs", "acls", "specials"}},
	{[]string{"show"}, []string{"allow", "expires", "name"}},
	{[]string{"role=primary"}, []string{"primary", "advertise", "mirror"}},
	{[]string{"role=secondary"}, []string{"require-token", "revoked", "client-ca", "web-mirror"}},
}

// companions are options that others need.
var companions = []struct {
	option  string
	needing []string
}{
	{"mirror", append([]string{
		"mirror-interval", "mirror-delete", "update", "stage", "min-age", "modify-window", "max-delete", "backup-dir",
		"one-file-system", "sparse", "no-sparse", "preallocate", "token-file", "files-from",
	}, new(keepOptions).names()...)},
	{"recursive", append([]string{
		"delete", "update", "stage", "min-age", "modify-window", "max-delete", "backup-dir", "one-file-system",
		"dry-run", "quick", "include", "exclude", "include-from", "exclude-from", "files-from",
	}, new(keepOptions).names()...)},
	{"delete", []string{"max-delete"}},
	{"mirror-delete", []string{"max-delete"}},
	{"require-token", []string{"revoked"}},
	{"owner", []string{"numeric-ids"}},
}

// needing returns the options that need one.
func needing(option string) (all []string) {
	for _, c := range companions {
		if c.option == option {
			all = append(all, c.needing...)
		}
	}
	return all
}

// checkGiven returns an error if an option on the command line has an empty value. It makes the
// command ignore variables that are empty, and those whose options the command line excludes.
func (l *commandLine) checkGiven() error {
	if l.command == nil {
		return nil
	}
	for _, option := range l.options {
		if takesValue(option.flag) && option.hasValue && option.value == "" {
			return flagError{command: l.command.Name, message: dashed(l.nameOf(option)) + " has an empty value"}
		}
	}
	l.overrule()
	for _, flag := range l.command.Flags {
		variables := variablesOf(flag)
		if isRepeated(flag) && l.has(flag) { // the value of the environment is not one more
			*variables = nil
		}
		*variables = slices.DeleteFunc(*variables, func(name string) bool { return os.Getenv(name) == "" })
	}
	return nil
}

// nameOf returns an option's name as it was given.
func (l *commandLine) nameOf(option givenOption) string {
	word, _, _ := strings.Cut(option.words[0], "=")
	return strings.TrimLeft(word, "-")
}

// has reports whether an option is on the command line.
func (l *commandLine) has(flag cli.Flag) bool {
	return slices.ContainsFunc(l.options, func(o givenOption) bool { return o.flag == flag })
}

// overrule makes the command ignore the variables of options that the command line excludes or
// switches off. The same holds for the options that need these.
func (l *commandLine) overrule() {
	var off []string
	for _, e := range exclusions {
		if l.hasOneOf(e.left) {
			off = append(off, e.right...)
		}
		if l.hasOneOf(e.right) {
			off = append(off, e.left...)
		}
	}
	for _, flag := range l.command.Flags {
		name := flag.Names()[0]
		if l.has(flag) && !takesValue(flag) && !l.hasOneOf([]string{name}) {
			off = append(off, name)
		}
	}
	for i := 0; i < len(off); i++ { // the companions of companions, too
		if !l.hasOneOf(off[i : i+1]) {
			off = append(off, needing(off[i])...)
		}
	}
	for _, flag := range l.command.Flags {
		if slices.Contains(off, flag.Names()[0]) && !l.has(flag) {
			*variablesOf(flag) = nil
		}
	}
}

// hasOneOf reports whether one of the options is on the command line, and switched on.
func (l *commandLine) hasOneOf(names []string) bool {
	return slices.ContainsFunc(l.options, func(o givenOption) bool {
		if o.flag == nil {
			return false
		}
		name := o.flag.Names()[0]
		if takesValue(o.flag) {
			return slices.Contains(names, name) || slices.Contains(names, name+"="+o.value)
		}
		isOn, err := strconv.ParseBool(o.value)
		return slices.Contains(names, name) && (!o.hasValue || err == nil && isOn)
	})
}

// isRepeated reports whether an option may be repeated.
func isRepeated(flag cli.Flag) bool {
	f, ok := flag.(*cli.GenericFlag)
	if !ok {
		return false
	}
	_, ok = f.Value.(*repeatedValue)
	return ok
}

// variablesOf returns the environment variables of an option.
func variablesOf(flag cli.Flag) *[]string {
	switch f := flag.(type) {
	case *cli.BoolFlag:
		return &f.EnvVars
	case *cli.StringFlag:
		return &f.EnvVars
	case *cli.GenericFlag:
		return &f.EnvVars
	case *jsonFlag:
		return &f.EnvVars
	}
	panic(fmt.Sprintf("option %q has an unknown type", flag.Names()))
}
