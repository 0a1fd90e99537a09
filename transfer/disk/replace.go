package disk

// CheckReplaceable returns the error that a rename over a name of a directory will have, as far as
// that can be known before: of a file that is a mount point, immutable or append-only, or of another
// user's in a sticky directory. It returns nil if there is no such error, or if the system does not
// tell.
func CheckReplaceable(d Dir, name string) error {
	if tree, ok := d.(TreeDir); ok {
		if system, ok := systemOf(Innermost(tree)); ok {
			return system.checkReplaceable(name)
		}
	}
	if system, ok := d.(interface{ checkReplaceable(name string) error }); ok {
		return system.checkReplaceable(name)
	}
	return nil
}
