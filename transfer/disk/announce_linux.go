package disk

import (
	"io"
	"net"
)

// Announce makes a name known to the programs of this machine, until it is closed or the process
// ends. It is the name of an abstract Unix socket, which nothing reads. Programs in other network
// namespaces do not see it. Any user may announce any name.
func Announce(name string) (io.Closer, error) {
	return net.ListenUnixgram("unixgram", announced(name))
}

// IsAnnounced reports whether a program has announced a name.
func IsAnnounced(name string) bool {
	c, err := net.DialUnix("unixgram", nil, announced(name))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func announced(name string) *net.UnixAddr {
	return &net.UnixAddr{Name: "@kwikcp/" + name, Net: "unixgram"}
}
