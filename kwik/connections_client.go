package kwik

import (
	"time"

	kwikpb "kwikcp/kwik/proto"
)

const (
	// MaxConnectionsPerServer bounds ClientConfig.ConnectionsPerServer.
	MaxConnectionsPerServer = 16
	// maxFurtherPaths bounds the paths of all servers beyond the first of each.
	maxFurtherPaths = 128
)

// handlePathReport passes a server's report on a path to the server's width policy and applies
// the decision.
func (s *ClientSession) handlePathReport(p *path, r *kwikpb.PathReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv := s.paths[p.id].server
	if sv.widths.isTooEarly(p.id, time.Now()) {
		return // a flood of reports must not cost a sum over all streams each
	}
	var received int64
	for _, r := range sv.paths {
		received += s.handler.stats(r.id).TotalBytes
	}
	sv.widths.report(p.id, reportFromWire(r), received, time.Now())
	s.adjustConnections(sv)
}

// adjustConnections opens or drains paths until a server has as many as its width policy wants.
// It does nothing while no stream is open. The caller holds s.mu.
func (s *ClientSession) adjustConnections(sv *serverRecord) {
	if sv.info == nil || sv.paths[0].path == nil || s.unreleased() == 0 {
		return
	}
	for n := 2; n <= sv.widths.width; n++ {
		if len(sv.paths) < n {
			if len(s.paths)-len(s.servers) >= maxFurtherPaths {
				break
			}
			s.newPath(sv, sv.id.path(n), sv.addrs[0])
		}
		r := sv.paths[n-1]
		r.excess = false
		s.startKeeper(r, 0)
	}
	for _, r := range sv.paths[min(sv.widths.width, len(sv.paths)):] {
		if !r.excess {
			r.excess = true
			sv.widths.removePath(r.id)
			s.drainPath(r)
		}
	}
}
