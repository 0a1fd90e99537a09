package disk

import (
	"io/fs"
	"testing"
	"time"
)

// A taggedInfo describes an object of a store.
type taggedInfo struct{ Version }

func (i taggedInfo) Name() string       { return "object" }
func (i taggedInfo) Size() int64        { return 1 }
func (i taggedInfo) Mode() fs.FileMode  { return 0o444 }
func (i taggedInfo) ModTime() time.Time { return time.Unix(0, i.MTime) }
func (i taggedInfo) IsDir() bool        { return false }
func (i taggedInfo) Sys() any           { return versioned(i.Version) }

type versioned Version

func (v versioned) Version() Version { return Version(v) }

// TestTaggedVersion takes the version of an object from its store. Objects of one tag are not one
// file.
func TestTaggedVersion(t *testing.T) {
	v := Version{Size: 7, MTime: 8, Device: 1, Inode: 2}
	if got := VersionOf(taggedInfo{v}); got != v || !got.IsIdentified() || !SameFile(taggedInfo{v}, taggedInfo{v}) {
		t.Errorf("without a tag: %+v", got)
	}
	v.Tag[0] = 1
	if got := VersionOf(taggedInfo{v}); got != v || got.IsIdentified() || SameFile(taggedInfo{v}, taggedInfo{v}) {
		t.Errorf("with a tag: %+v", got)
	}
}
