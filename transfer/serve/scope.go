package serve

import (
	"slices"
	"strings"
)

// A scope is the part of the served tree that a client may read, as the paths of an access token.
// "" stands for everything, "dir/" for a directory and everything below it, "file" for one path.
// Names count, not the targets of symbolic links: a link inside the scope is followed within the
// root. The zero value allows nothing.
type scope []string

// everything is the scope of clients that are not restricted.
var everything = scope{""}

// allows reports whether a path may be read.
func (s scope) allows(path string) bool { return slices.Contains(s, path) || s.allowsTree(path) }

// allowsTree reports whether a path may be read and, if it is a directory, everything below it.
func (s scope) allowsTree(path string) bool {
	return slices.ContainsFunc(s, func(allowed string) bool {
		return allowed == "" || strings.HasSuffix(allowed, "/") && strings.HasPrefix(path+"/", allowed)
	})
}

// shows reports whether a listing has a path: it may be read, or leads to a path that may.
func (s scope) shows(path string) bool {
	if s.allows(path) {
		return true
	}
	for _, allowed := range s {
		if path == "" || strings.HasPrefix(allowed, path+"/") {
			return true
		}
	}
	return false
}
