package disk

import "errors"

func linkInto(osDir, string, osDir, string) error { return errors.ErrUnsupported }

// CannotLink reports whether an error of LinkInto means that the file can have no second name
// there. A copy may succeed.
func CannotLink(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
