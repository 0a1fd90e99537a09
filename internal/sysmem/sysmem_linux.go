package sysmem

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// systemLimit returns the least of the machine's memory, the limits of the process's control
// groups, and its resource limits; math.MaxInt64 if none is known.
func systemLimit() int64 {
	limit := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = clip(uint64(info.Totalram) * uint64(info.Unit))
	}
	for _, resource := range []int{unix.RLIMIT_AS, unix.RLIMIT_DATA} {
		var r unix.Rlimit
		if unix.Getrlimit(resource, &r) == nil {
			limit = min(limit, clip(r.Cur))
		}
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return limit
	}
	return min(limit, groupLimit(string(groups), func(name string) string {
		text, _ := os.ReadFile("/sys/fs/cgroup" + name) // a file that does not exist sets no limit
		return string(text)
	}))
}

// groupLimit returns the least memory limit of the process's control groups and of those above
// them, of either version. groups is the content of /proc/self/cgroup; read returns the content of
// a file below the mounted hierarchy, or nothing.
func groupLimit(groups string, read func(name string) string) int64 {
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // id:controllers:path
		if len(fields) != 3 {
			continue
		}
		root, file := "/", "memory.max"
		if isVersion1 := fields[1] != ""; isVersion1 {
			if !hasMemory(fields[1]) {
				continue
			}
			root, file = "/memory", "memory.limit_in_bytes"
		}
		// In a container the path may be the one outside, and then only the root exists.
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			text := strings.TrimSpace(read(path.Join(root, dir, file)))
			if n, err := strconv.ParseUint(text, 10, 64); err == nil { // not "max"
				limit = min(limit, clip(n))
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

// hasMemory reports whether a list of controllers contains that of the memory.
func hasMemory(controllers string) bool {
	for name := range strings.SplitSeq(controllers, ",") {
		if name == "memory" {
			return true
		}
	}
	return false
}

func clip(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
