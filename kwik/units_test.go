package kwik

import "testing"

func TestNewUnitsError(t *testing.T) {
	_, err := newUnits(0, 0, nil)
	wantError(t, err, ErrMetadataProtocolViolation)
}
