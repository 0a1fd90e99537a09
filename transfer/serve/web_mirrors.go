package serve

import (
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A WebMirror is a web server that has the served files. Clients that request its name take bytes
// from it as well, and verify them.
type WebMirror struct {
	// Template is the URL of a file, in which {path} stands for the file's path below the served
	// directory, percent-encoded.
	Template string
	// Priority orders mirrors: clients use those with small numbers first.
	Priority int
}

// NameWebMirrors names web mirrors to clients. It must be called before Serve.
func (s *Server) NameWebMirrors(mirrors ...WebMirror) {
	s.mirrors = nil
	for _, m := range mirrors {
		named := &transferpb.WebMirror{Template: []byte(m.Template), Priority: uint32(max(m.Priority, 0))}
		s.mirrors = append(s.mirrors, named)
	}
}

// webMirrorsFor returns the web mirrors to name in the response to a request.
func (s *Server) webMirrorsFor(request *transferpb.Request) []*transferpb.WebMirror {
	if !request.GetWebMirrors() {
		return nil
	}
	return s.mirrors
}
