package disk

// A targetChecker is a Dir that knows beforehand which names it will refuse.
type targetChecker interface {
	checkReplaceable(name string) error
	// mayCreate returns the error that the creation of a file is likely to have.
	mayCreate() error
	// holdsAnyName reports whether the file system holds any name.
	holdsAnyName() bool
}

// checkerOf returns nil if the system does not tell, or if a directory is not one of it.
func checkerOf(d Dir) targetChecker {
	if tree, ok := d.(TreeDir); ok {
		if system, ok := systemOf(Innermost(tree)); ok {
			return system
		}
	}
	c, _ := d.(targetChecker)
	return c
}

// CheckReplaceable returns the error that a rename to a name of a directory will have, as far as
// that is known before. The file there may be a mount point, immutable or append-only, as may the
// directory. In a sticky directory it may be another user's. The file system may not hold the
// name.
func CheckReplaceable(d Dir, name string) error {
	if lazy, ok := d.(lazyDir); ok {
		return lazy.do(func(dir Dir) error { return CheckReplaceable(dir, name) })
	}
	c := checkerOf(d)
	if c == nil {
		return nil
	}
	if err := c.checkReplaceable(name); err != nil || oddities(name) == "" || c.holdsAnyName() {
		return err
	}
	return checkHolds(d, name)
}

// CheckWritable returns the error that the creation of files in a directory has. It creates one
// only if the system tells that it cannot: some file systems tell so wrongly.
func CheckWritable(d Dir) error {
	c := checkerOf(d)
	if c == nil || c.mayCreate() == nil {
		return nil
	}
	return tryCreate(d, probeName(""))
}
