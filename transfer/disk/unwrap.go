package disk

// An unwrapper is a TreeDir around another one, of the same directory.
type unwrapper interface{ Unwrap() TreeDir }

// Innermost returns the directory in d that is no longer wrapped. It knows none of the rules of the
// wrappers: its user must have looked at a name through d before.
func Innermost(d TreeDir) TreeDir {
	for {
		u, ok := d.(unwrapper)
		if !ok {
			return d
		}
		d = u.Unwrap()
	}
}
