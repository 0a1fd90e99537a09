package disk

import (
	"encoding/binary"
	"os"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// bootID returns 128 random bits that the kernel chose at its start, as text; "" if there are none.
// All containers of a machine see the same ones, and two machines never do, even if one is a copy.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(id)
})

func placesOf(d osDir) (places []PlaceID) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	if conn.Control(func(fd uintptr) { places = climb(int(fd)) }) != nil {
		return nil
	}
	return places
}

// climb returns the places of an open directory and of those above it. The names of directories do
// not matter: it follows "..".
func climb(fd int) (places []PlaceID) {
	opened := -1
	defer func() {
		if opened >= 0 {
			unix.Close(opened)
		}
	}()
	for len(places) < maxPlaces {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			return places
		}
		id, ok := placeOf(uint64(st.Dev), st.Ino)
		if !ok {
			return nil
		}
		if n := len(places); n > 0 && places[n-1] == id { // ".." of the top is the top
			return places
		}
		places = append(places, id)
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return places
		}
		if opened >= 0 {
			unix.Close(opened)
		}
		fd, opened = up, up
	}
	return places
}

func placeOf(device, inode uint64) (id PlaceID, ok bool) {
	if bootID() == "" {
		return id, false
	}
	h := blake3.NewDeriveKey("kwikcp 2026-11 place of a directory")
	h.WriteString(bootID())
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], device)
	binary.BigEndian.PutUint64(b[8:], inode)
	h.Write(b[:])
	return PlaceID(h.Sum(nil)), true
}
