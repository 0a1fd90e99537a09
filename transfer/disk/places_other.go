//go:build !linux

package disk

func placesOf(osDir) []PlaceID { return nil }
