//go:build unix

package disk

import (
	"encoding/hex"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/zeebo/blake3"
)

// Process returns a name of the machine since its start, and the number of this process there. A
// number is of no process of another container: on Linux the name tells them apart.
func Process() (machine string, id int) { return processSpace(), os.Getpid() }

var processSpace = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid")
	sum := blake3.Sum256([]byte(host + "\x00" + string(boot) + "\x00" + space))
	return hex.EncodeToString(sum[:6])
})

// IsRunning reports whether there is a process of a number that Process returned.
func IsRunning(id int) bool { return !errors.Is(syscall.Kill(id, 0), syscall.ESRCH) }

// SameOwner reports whether two files have the same owner.
func SameOwner(a, b os.FileInfo) bool {
	x, ok := ownerOf(a)
	y, okToo := ownerOf(b)
	return ok && okToo && x.UID == y.UID
}
