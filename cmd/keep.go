package cmd

import (
	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// This file has the options of what get -r and serve --mirror keep of a tree besides contents, names,
// times and permission bits.

// keepOptions are these options.
type keepOptions struct {
	hardLinks   bool
	noHardLinks bool
}

// flags returns the options. when names the option that they need.
func (o *keepOptions) flags(when string) []cli.Flag {
	return []cli.Flag{
		boolOption(&o.hardLinks, "hard-links", when+", keep the names of one file (hard links) together (the default)"),
		boolOption(&o.noHardLinks, "no-hard-links", when+", make each name of a file a file of its own"),
	}
}

// names returns the names of the options.
func (o *keepOptions) names() (names []string) {
	for _, f := range o.flags("") {
		names = append(names, f.Names()[0])
	}
	return names
}

// checkUnused returns an error if one of the options is set, for a command without the option that
// they need.
func (o *keepOptions) checkUnused(isSet func(name string) bool, hint advice, isFor string) error {
	for _, name := range o.names() {
		if isSet(name) {
			return usagef(hint, "--%s is for %s", name, isFor)
		}
	}
	return nil
}

// check returns an error if the options contradict each other.
func (o *keepOptions) check(hint advice) error {
	if o.hardLinks && o.noHardLinks {
		return usagef(hint, "--hard-links and --no-hard-links exclude each other")
	}
	return nil
}

// apply sets the options of a mirror.
func (o *keepOptions) apply(to *transfer.MirrorOptions) {
	to.NoHardLinks = o.noHardLinks
}
