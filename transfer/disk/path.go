package disk

import "strings"

// Parent returns the path of the directory that a path is in, "" for the top.
func Parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)]
}

// Base returns the last component of a path.
func Base(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// JoinPath puts a slash between two parts, either of which may be empty.
func JoinPath(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	return dir + "/" + name
}
