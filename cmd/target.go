package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// stdoutNames are the names of stdout on Unix systems. They are links, which a file must not
// replace.
var stdoutNames = []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}

// targetOf resolves the FILE argument for the file at a path on the server: it returns the file to
// write, or that it is stdout. In a directory the file gets its own name, as with cp. With
// makesDirs the directory may be missing.
func targetOf(arg, urlPath string, makesDirs bool) (target string, stdout bool, err error) {
	op := fmt.Sprintf("write %q", arg)
	link, _ := os.Readlink(arg)
	if arg == "-" || slices.Contains(stdoutNames, arg) || slices.Contains(stdoutNames, link) {
		return "-", true, nil
	}
	info, err := os.Stat(arg)
	slash := os.IsPathSeparator(arg[len(arg)-1])
	willBeDir := slash && makesDirs && errors.Is(err, fs.ErrNotExist)
	if err == nil && info.IsDir() || willBeDir {
		name := path.Base(urlPath)
		switch {
		case !filepath.IsLocal(name): // such as "CON" on Windows
			return arg, false, transfer.LocalError(op, fmt.Errorf("%q is not a valid file name here; choose another", name))
		case slash:
			return arg + name, false, nil
		}
		// Not cleaned: "link/.." is the parent of the directory that the link leads to.
		return arg + string(filepath.Separator) + name, false, nil
	}
	special := err == nil && !info.Mode().IsRegular() || strings.HasPrefix(link, "/proc/") // such as /dev/stderr
	switch {
	case slash && errors.Is(err, fs.ErrNotExist):
		return arg, false, advisedError{adviseMakeDirectory, transfer.LocalError(op, errors.New("no such directory"))}
	case slash && err != nil:
		return arg, false, transfer.LocalError(op, err)
	case special:
		return arg, false, advisedError{adviseStdout, transfer.LocalError(op, disk.ErrNotAFile)}
	}
	return arg, false, nil
}
