package serve

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// serveOn starts a server of a directory in a simulated network.
func serveOn(n *transfertest.Net, dir disk.Dir) *Server {
	n.T.Helper()
	s := NewServer(dir, n.Logger())
	n.Serve(s)
	return s
}
