package serve

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
)

// serveOn starts a server of a directory in a simulated network.
func serveOn(n *transfertest.Net, dir disk.TreeDir) *Server {
	n.T.Helper()
	s := NewServer(source.Local(dir), n.Logger())
	n.Serve(s)
	return s
}
