package integrity

import (
	"strings"
	"testing"
)

func TestParseRoot(t *testing.T) {
	const hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	for _, s := range []string{hex, strings.ToUpper(hex)} {
		r, err := ParseRoot(s)
		if err != nil || r.String() != hex {
			t.Errorf("ParseRoot(%q) = %v, %v", s, r, err)
		}
	}
	for _, s := range []string{
		"", hex[1:], hex + "0", hex[:62], hex[:63] + "g", " " + hex[1:], "0x" + hex[2:], strings.Repeat("é", 32),
	} {
		if r, err := ParseRoot(s); err == nil || r != (Root{}) {
			t.Errorf("ParseRoot(%q) = %v, nil, want an error", s, r)
		}
	}
}
