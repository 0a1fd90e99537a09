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

// stdoutNames are what stdout is called on Unix systems. They are links, which a file must not replace.
var stdoutNames = []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}

// targetOf returns what the FILE of a command line means for the file at a path on the server: the file to write, or that it is
// stdout. Into a directory the file goes under its own name, as with cp.
func targetOf(arg, urlPath string) (target string, stdout bool, err error) {
	op := fmt.Sprintf("write %q", arg)
	link, _ := os.Readlink(arg)
	if arg == "-" || slices.Contains(stdoutNames, arg) || slices.Contains(stdoutNames, link) {
		return "-", true, nil
	}
	info, err := os.Stat(arg)
	slash := os.IsPathSeparator(arg[len(arg)-1])
	switch {
	case err == nil && info.IsDir():
		name := path.Base(urlPath)
		if !filepath.IsLocal(name) { // as "CON" is on Windows
			return arg, false, transfer.LocalError(op, fmt.Errorf("%q can be no file in it; name one", name))
		}
		if slash {
			return arg + name, false, nil
		}
		return arg + string(filepath.Separator) + name, false, nil // not cleaned: "link/.." is where the link leads
	case slash && errors.Is(err, fs.ErrNotExist):
		return arg, false, hintedError{transfer.LocalError(op, errors.New("there is no such directory")), "make it first; without the slash at its end this is the name of the file"}
	case slash && err != nil:
		return arg, false, transfer.LocalError(op, err)
	case err == nil && !info.Mode().IsRegular(), strings.HasPrefix(link, "/proc/"): // such as /dev/stderr, whatever it is
		return arg, false, notAFile(transfer.LocalError(op, disk.ErrNotAFile))
	}
	return arg, false, nil
}

// notAFile adds a hint to the error of a target that is a device, a FIFO or a socket.
func notAFile(err error) error {
	return hintedError{err, `"-" writes to stdout, and from there to anything`}
}
