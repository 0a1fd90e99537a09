package disk

import "io/fs"

// A PlaceID names a directory of this machine until it is started again. Two programs that get the
// same PlaceID have the same directory. It tells a program on another machine nothing.
type PlaceID [16]byte

// PlaceOf returns the PlaceID of the directory that info describes. ok is false if the system does
// not tell it.
func PlaceOf(info fs.FileInfo) (id PlaceID, ok bool) {
	v := VersionOf(info)
	if !info.IsDir() || !v.IsIdentified() {
		return id, false
	}
	return placeOf(v.Device, v.Inode)
}

// maxPlaces bounds the directories of Places.
const maxPlaces = 256

// Places returns the PlaceIDs of an open directory and of the directories that contain it, the
// innermost first. It returns nil if the system does not tell them, or if the directory is not one
// of the operating system. A directory that may not be passed ends the list.
func Places(d Dir) []PlaceID {
	tree, ok := d.(TreeDir)
	if !ok {
		return nil
	}
	system, ok := systemOf(tree)
	if !ok {
		return nil
	}
	return placesOf(system)
}
