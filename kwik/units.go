package kwik

import "kwikcp/kwik/internal/sched"

// newUnits returns the units of an aggregate stream as an offer or an attachment describes it.
// Its errors have the code ErrMetadataProtocolViolation.
func newUnits(total, alignment uint64, segments []uint64) (sched.Units, error) {
	u, err := sched.NewUnits(total, alignment, segments)
	if err != nil {
		return sched.Units{}, errorf(ErrMetadataProtocolViolation, "%w", err)
	}
	return u, nil
}
