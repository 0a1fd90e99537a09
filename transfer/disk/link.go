package disk

import "errors"

// LinkInto gives the file or symbolic link with a name in one directory a second name in another.
// Both names are single components, and no link is followed. It returns fs.ErrExist if the new
// name is taken, and an error that CannotLink reports if the system cannot do it there.
func LinkInto(from TreeDir, name string, to TreeDir, as string) error {
	if simulated, ok := from.(linker); ok {
		return simulated.LinkInto(name, to, as)
	}
	a, isSystem := systemOf(from)
	b, isSystemToo := systemOf(to)
	if !isSystem || !isSystemToo {
		return errors.ErrUnsupported
	}
	return linkInto(a, name, b, as)
}

// A systemDir is a directory of the operating system, perhaps guarded.
type systemDir interface{ system() (osDir, bool) }

func (d osDir) system() (osDir, bool) { return d, true }

func systemOf(d TreeDir) (osDir, bool) {
	if s, ok := d.(systemDir); ok {
		return s.system()
	}
	return osDir{}, false
}

// A linker is a directory of a simulated disk that has hard links.
type linker interface {
	LinkInto(name string, to TreeDir, as string) error
}
