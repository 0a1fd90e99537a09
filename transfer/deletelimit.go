package transfer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A DeleteLimit bounds how many entries a mirror deletes. A mirror that would delete more deletes
// nothing. The zero value is the default. Then a mirror deletes nothing if its source is empty. Nor
// does it delete more than half of a target with at least ten entries. Entries that the filter
// excludes do not count. Entries that stay for now (ErrMoved) count only for the ten.
type DeleteLimit struct {
	kind deleteLimitKind
	n    int64 // entries, or percent
}

type deleteLimitKind int

const (
	limitDefault deleteLimitKind = iota
	limitEntries
	limitPercent
)

// smallTarget is the number of entries from which on the default limits the share that is deleted.
const smallTarget = 10

// ParseDeleteLimit reads a number of entries, such as 100, or a share of all entries of the
// target, such as 20%.
func ParseDeleteLimit(text string) (DeleteLimit, error) {
	digits, isPercent := strings.CutSuffix(text, "%")
	if strings.Trim(digits, "0123456789") != "" {
		return DeleteLimit{}, errors.New("it is neither a number of entries nor a percentage")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return DeleteLimit{}, errors.New("it is neither a number of entries nor a percentage")
	case isPercent && n > 100:
		return DeleteLimit{}, errors.New("it is more than 100%")
	case isPercent:
		return DeleteLimit{limitPercent, n}, nil
	}
	return DeleteLimit{limitEntries, n}, nil
}

// A loss is what a mirror would delete.
type loss struct {
	deleted int64 // entries that would be deleted
	of      int64 // entries of the target before the mirror that it may change
	listed  int64 // entries of the source that the filter includes
	// held are entries that only stay for now, because a file of the source may have their content.
	// They make the target larger, but do not lessen the share that is deleted.
	held int64
}

// check returns a *DeleteLimitError if a loss exceeds the limit.
func (l DeleteLimit) check(x loss) error {
	exceeded := false
	switch l.kind {
	case limitEntries:
		exceeded = x.deleted > l.n
	case limitPercent:
		// deleted <= of < 2^55: entries that are held in memory
		exceeded = x.deleted*100 > x.of*l.n
	default:
		isMost := x.of+x.held >= smallTarget && x.deleted > x.of-x.deleted
		exceeded = x.deleted > 0 && (x.listed == 0 || isMost)
	}
	if !exceeded {
		return nil
	}
	return &DeleteLimitError{Deleted: x.deleted, Of: x.of, Empty: x.listed == 0, Limit: l}
}

// A DeleteLimitError reports that a mirror would delete more entries than its DeleteLimit allows.
// It has deleted none of them. All other changes are made.
type DeleteLimitError struct {
	Deleted int64       // entries that would be deleted
	Of      int64       // entries of the target before the mirror, without those that stay in any case
	Empty   bool        // the source has no entry that the filter includes
	Limit   DeleteLimit // that is exceeded
}

func (e *DeleteLimitError) Error() string {
	count := fmt.Sprintf("%d of %d entries would be deleted", e.Deleted, e.Of)
	switch {
	case e.Limit.kind == limitEntries:
		count += fmt.Sprintf(", and at most %d may be", e.Limit.n)
	case e.Limit.kind == limitPercent:
		count += fmt.Sprintf(", and at most %d%% may be", e.Limit.n)
	case e.Empty:
		return fmt.Sprintf("the source is empty, and %s; nothing was deleted", count)
	default:
		count += ", more than half"
	}
	return count + "; nothing was deleted"
}
