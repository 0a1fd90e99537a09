package disk

import "strings"

// Parent returns the slash-separated path of the directory that contains path p, "" if that is the top.
func Parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)]
}

// Base returns the last component of a slash-separated path.
func Base(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// JoinPath joins two slash-separated paths, either of which may be empty.
func JoinPath(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	return dir + "/" + name
}
