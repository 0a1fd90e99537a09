package disk

import "errors"

// Exchange gives two entries of a directory each other's name, so that neither name is missing at
// any moment. It returns errors.ErrUnsupported if the system cannot do that there.
func Exchange(d TreeDir, a, b string) error {
	s, isSystem := systemOf(Innermost(d))
	if !isSystem {
		return errors.ErrUnsupported
	}
	return exchange(s, a, b)
}
