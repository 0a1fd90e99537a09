package disk

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
)

// Announce makes a name known to the programs of this machine, until it is closed or the process
// ends. It is the name of an abstract Unix socket, which nothing reads. Programs in other network
// namespaces do not see it. Any user may announce any name.
func Announce(name string) (io.Closer, error) {
	return net.ListenUnixgram("unixgram", announced(name))
}

// maxAnnounced bounds the names that Announced returns.
const maxAnnounced = 10_000

// Announced returns the names with a prefix that programs have announced. It returns none if the
// system does not tell them.
func Announced(prefix string) (names []string) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(names) < maxAnnounced {
		_, name, found := strings.Cut(lines.Text(), " "+announcedPrefix)
		if found && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// announcedPrefix is that of the names of sockets. An @ stands for the NUL byte of abstract ones.
const announcedPrefix = "@kwikcp/"

func announced(name string) *net.UnixAddr {
	return &net.UnixAddr{Name: announcedPrefix + name, Net: "unixgram"}
}
