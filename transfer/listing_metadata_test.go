package transfer

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// FuzzReadMetadata checks that metadata of any bytes is rejected or within its limits.
func FuzzReadMetadata(f *testing.F) {
	for _, m := range []*transferpb.Metadata{
		{Owner: &transferpb.Owner{Uid: 1, Gid: 2, User: []byte("daemon")}, SpecialMode: 0o7000},
		{Xattrs: []*transferpb.Xattr{{Name: []byte(disk.AccessACL)}, {Name: []byte("user.a"), Value: []byte("v")}}},
		{Special: &transferpb.Special{Kind: transferpb.Special_BLOCK_DEVICE, Major: 1, Minor: 3}, XattrsOmitted: true},
	} {
		raw, _ := proto.Marshal(m)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := &transferpb.Metadata{}
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		got, err := readMetadata(m)
		if err != nil {
			return
		}
		if got.special&^disk.SpecialMode != 0 || got.kind.Perm() != 0 || len(got.xattrs) > wire.MaxXattrsListed {
			t.Fatalf("%+v", got)
		}
		size := 0
		for _, x := range got.xattrs {
			size += len(x.name) + len(x.value)
			if strings.HasPrefix(x.name, "system.") && !disk.IsACL(x.name) || strings.ContainsRune(x.name, 0) {
				t.Fatalf("%q", x.name)
			}
		}
		if size > wire.MaxXattrs {
			t.Fatalf("%d bytes", size)
		}
	})
}

// TestReadMetadataLimits checks that a client rejects metadata beyond the limits.
func TestReadMetadataLimits(t *testing.T) {
	many := &transferpb.Metadata{}
	for i := range wire.MaxXattrsListed + 1 {
		name := "user." + strings.Repeat("a", i+1)
		many.Xattrs = append(many.Xattrs, &transferpb.Xattr{Name: []byte(name)})
	}
	x := func(names ...string) *transferpb.Metadata {
		m := &transferpb.Metadata{}
		for _, name := range names {
			m.Xattrs = append(m.Xattrs, &transferpb.Xattr{Name: []byte(name)})
		}
		return m
	}
	large := x("user.large")
	large.Xattrs[0].Value = make([]byte, wire.MaxXattrs)
	for what, m := range map[string]*transferpb.Metadata{
		"many":         many,
		"large":        large,
		"a long owner": {Owner: &transferpb.Owner{Group: make([]byte, wire.MaxOwnerName+1)}},
		"twice":        x("user.a", "user.a"),
		"out of order": x("user.b", "user.a"),
		"no name":      x(""),
		"a long name":  x("user." + strings.Repeat("n", 251)),
		"a NUL":        x("user.\x00"),
		"of a system":  x("system.nfs4_acl"),
	} {
		if _, err := readMetadata(m); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := readMetadata(x(disk.AccessACL, "user.a", "user.b")); err != nil {
		t.Error(err)
	}
}
