package cmd

import (
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// This file has the options of what get -r and serve --mirror keep of a tree besides contents,
// names, times and permission bits.

// keepOptions are these options.
type keepOptions struct {
	hardLinks    bool
	noHardLinks  bool
	owner        bool
	numericIDs   bool
	specialModes bool
	xattrs       bool
	acls         bool
	specials     bool
	outsideLinks bool
}

// flags returns the options. when names the option that they need.
func (o *keepOptions) flags(when string) []cli.Flag {
	return []cli.Flag{
		boolOption(&o.hardLinks, "hard-links", when+", keep the names of one file (hard links) together (the default)"),
		boolOption(&o.noHardLinks, "no-hard-links", when+", make separate files of the names of one file"),
		boolOption(&o.owner, "owner", when+", keep owner and group, by name, or by number if "+
			"the name is unknown; as root"),
		boolOption(&o.numericIDs, "numeric-ids", "with --owner, keep the numbers of owner and group, "+
			"whatever their names"),
		boolOption(&o.specialModes, "special-modes", when+", keep setuid, setgid and sticky bits, "+
			"and do not apply the umask"),
		boolOption(&o.xattrs, "xattrs", when+", keep extended attributes: user.* and, as root, others"),
		boolOption(&o.acls, "acls", when+", keep POSIX access control lists"),
		boolOption(&o.specials, "specials", when+", make devices, FIFOs and sockets; as root"),
		boolOption(&o.outsideLinks, "outside-links", when+", make symbolic links that lead outside the tree, too"),
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

// check returns an error if the options contradict each other or --no-preserve, or if they
// cannot work here.
func (o *keepOptions) check(hint advice, noPreserve bool) error {
	if o.hardLinks && o.noHardLinks {
		return usagef(hint, "--hard-links and --no-hard-links exclude each other")
	}
	if o.numericIDs && !o.owner {
		return usagef(hint, "--numeric-ids is for --owner")
	}
	for _, more := range o.more() {
		switch {
		case !more.isSet:
		case runtime.GOOS != "linux":
			return usagef(hint, "--%s works on Linux only", more.name)
		case noPreserve:
			return usagef(hint, "--%s and --no-preserve exclude each other", more.name)
		}
	}
	if o.specials && os.Geteuid() != 0 {
		return usagef(hint, "--specials needs root, who alone may make devices")
	}
	return nil
}

// A moreOption is an option of which the system must know the calls.
type moreOption struct {
	name  string
	isSet bool
}

func (o *keepOptions) more() []moreOption {
	return []moreOption{
		{"owner", o.owner}, {"special-modes", o.specialModes}, {"xattrs", o.xattrs}, {"acls", o.acls},
		{"specials", o.specials},
	}
}

// apply sets the options of a mirror.
func (o *keepOptions) apply(to *transfer.MirrorOptions) {
	to.NoHardLinks = o.noHardLinks
	to.Owner, to.NumericIDs, to.SpecialModes = o.owner, o.numericIDs, o.specialModes
	to.Xattrs, to.ACLs, to.Specials = o.xattrs, o.acls, o.specials
	to.OutsideLinks = o.outsideLinks
}

// A loss is a kind of what a mirror did not keep.
type loss struct {
	n         int64
	one, many string
	key       string // in logs
}

// lossesOf lists the kinds of which there are some.
func lossesOf(n transfer.NotKept) (all []loss) {
	for _, l := range []loss{
		{n.HardLinks, "hard link", "hard links", "hard_links"},
		{n.Owners, "owner", "owners", "owners"},
		{n.SpecialModes, "special mode", "special modes", "special_modes"},
		{n.Xattrs, "entry's extended attributes", "entries' extended attributes", "xattrs"},
		{n.ACLs, "ACL", "ACLs", "acls"},
		{n.Specials, "device, FIFO or socket", "devices, FIFOs and sockets", "specials"},
		{n.OutsideLinks, "link that leads outside", "links that lead outside", "outside_links"},
	} {
		if l.n > 0 {
			all = append(all, l)
		}
	}
	return all
}

// describeLosses returns the counts in words, empty if there are none.
func describeLosses(n transfer.NotKept) string {
	var words []string
	for _, l := range lossesOf(n) {
		words = append(words, counted(l.n, l.one, l.many))
	}
	return strings.Join(words, ", ")
}

// logLosses adds the counts to the lines of a log.
func logLosses(log *slog.Logger, n transfer.NotKept) *slog.Logger {
	var counts []any
	for _, l := range lossesOf(n) {
		counts = append(counts, slog.Int64(l.key, l.n))
	}
	if counts == nil {
		return log
	}
	return log.With(slog.Group("not_kept", counts...))
}

// A notKeptJSON is a transfer.NotKept in the result of a mirror.
type notKeptJSON struct {
	HardLinks    int64 `json:"hard_links"`
	Owners       int64 `json:"owners"`
	SpecialModes int64 `json:"special_modes"`
	Xattrs       int64 `json:"xattrs"`
	ACLs         int64 `json:"acls"`
	Specials     int64 `json:"specials"`
	OutsideLinks int64 `json:"outside_links"`
}
