package kwik

import (
	"testing"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

func newTestAttachment(t *testing.T, total, unit uint64) *attachment {
	u, err := newUnits(total, unit, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &attachment{id: firstAggregateStreamID, units: u, wake: make(chan struct{}, 1)}
}

func grantOf(id, start, n uint64) *kwikpb.OffsetSyncResponse {
	return &kwikpb.OffsetSyncResponse{GrantId: id, ExpectedOffset: start, Length: n}
}

// The grants that a client may make, and the changes that it may make to them
// (docs/PROTOCOL.md, section 7).
func TestAttachmentGrants(t *testing.T) {
	for _, tt := range []struct {
		name         string
		id, start, n uint64
		want         ErrorCode
	}{
		{"the first unit", 6, 0, 64, NoError},
		{"the last, short unit", 6, 960, 40, NoError},
		{"all", 6, 0, 1000, NoError},
		{"nothing", 6, 0, 0, ErrOffsetSyncFailure},
		{"half a unit", 6, 0, 32, ErrOffsetSyncFailure},
		{"from half a unit", 6, 32, 32, ErrOffsetSyncFailure},
		{"a byte more than all", 6, 0, 1001, ErrOffsetSyncFailure},
		{"at the end", 6, 1000, 1, ErrOffsetSyncFailure},
		{"far beyond", 6, 1 << 63, 64, ErrOffsetSyncFailure},
		{"a sum that overflows", 6, 64, 1<<64 - 64, ErrOffsetSyncFailure},
		{"the same grant again", 5, 0, 64, ErrOffsetSyncFailure},
		{"an older one", 4, 0, 64, ErrOffsetSyncFailure},
	} {
		a := newTestAttachment(t, 1000, 64)
		if err := a.grant(grantOf(5, 0, 64)); err != nil {
			t.Fatal(err)
		}
		if err := a.grant(grantOf(tt.id, tt.start, tt.n)); codeOf(err) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	a := newTestAttachment(t, 1000, 64)
	for id := range uint64(sched.MaxGrantsQueued) {
		if err := a.grant(grantOf(id+1, 0, 64)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.grant(grantOf(100, 0, 64)); codeOf(err) != ErrSecondaryStreamOverflow {
		t.Errorf("a grant too many: %v", err)
	}
}

// Revoked grants do not count against the queue limit, even while the first grant is still
// being written.
func TestRevokedGrantsTakeNoRoom(t *testing.T) {
	a := newTestAttachment(t, 1000, 64)
	if err := a.grant(grantOf(1, 0, 64)); err != nil {
		t.Fatal(err)
	}
	head := a.next()
	for id := range uint64(4 * sched.MaxGrantsQueued) {
		if err := a.grant(grantOf(id+2, 64, 64)); err != nil {
			t.Fatalf("grant %d: %v", id+2, err)
		}
		a.revoke(id + 2)
	}
	if err := a.grant(grantOf(1000, 64, 64)); err != nil {
		t.Fatal(err)
	}
	a.revoke(head.grant)
	if n := a.finish(head); n != 1 {
		t.Errorf("%d grants are left", n)
	}
	if e := a.next(); e == nil || e.grant != 1000 {
		t.Errorf("next is %+v", e)
	}
}
