package transfer

import (
	"kwikcp/transfer/internal/pattern"
)

// A Filter selects entries of a tree. Its rules are tried in order, and the first match decides.
// Entries without a match are included. The zero value includes everything.
//
// The patterns are those of rsync's --include and --exclude. They match bytes:
//
//	?           one byte but a slash
//	**, *       any bytes; the latter matches no slash
//	[a-z]       one byte of a set, which never matches a slash; [!a-z] and [^a-z] negate it
//	[[:upper:]] one byte of a class: alnum, alpha, blank, cntrl, digit, graph, lower, print, punct,
//	            space, upper or xdigit
//	\c          the byte c; without any of *, ? and [ in the pattern a backslash is itself
//	/a/b        begins with a slash: matches from the top of the tree
//	a/b         has a slash elsewhere, or **: matches the end of a path, from a component on
//	a           matches the last component
//	a/          ends with a slash: matches directories only
//	a/***       matches a and everything below it
//
// Entries below an excluded directory are excluded, whichever rules match them.
type Filter struct {
	// IgnoreCase makes Add compile patterns that match names in any case.
	IgnoreCase bool

	rules pattern.Rules
}

// Add appends a rule. As in rsync, a text that begins with "+ " or "- " decides itself whether it
// includes, and "!" removes the rules before it. A text that rsync would never match, or that looks
// like a rule of its --filter, is an error. Errors name the column.
func (f *Filter) Add(include bool, text string) error {
	return f.rules.Add(text, include, f.IgnoreCase)
}

// AddFile appends the rules of a file, one a line, for which include holds unless they begin with
// "+ " or "- ". Lines end with a line feed, a carriage return or both; with nul they end with a NUL
// byte instead. Empty lines and those that begin with # or ; are ignored. Errors name the line and
// the column, and leave the Filter as it was.
func (f *Filter) AddFile(include bool, file []byte, nul bool) error {
	return f.rules.AddFile(file, include, f.IgnoreCase, nul)
}

// Wants reports whether an entry is included. Its directory must be.
func (f *Filter) Wants(path string, dir bool) bool { return f.rules.Wants(path, dir) }
