package sysmem

import "testing"

func TestLimit(t *testing.T) {
	if n := Limit(); n < 16<<20 || n > 1<<50 {
		t.Errorf("%d bytes", n)
	}
}
