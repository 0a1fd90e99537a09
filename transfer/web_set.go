package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"kwikcp/internal/webfile"
	"kwikcp/kwik"
	"maps"
	"net/netip"
	"slices"
	"sync"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// MaxWebMirrors bounds the web mirrors of one transfer. Those with larger priorities are not
	// used.
	MaxWebMirrors = 8
	// maxWebSets bounds the sets of a Pool.
	maxWebSets = 64
	// webAgent names this program to web servers.
	webAgent = "kwikcp"
)

// A webSet holds the web mirrors for the files of one primary. A mirror that is banned is so for
// all transfers that share the set. It is safe for concurrent use.
type webSet struct {
	options WebOptions
	// own sends requests to the mirrors of the options, named to those that the primary names.
	own, named *webfile.Client
	// shared is the set of other transfers, too, that a set of one file adds to; nil for none.
	shared *webSet

	mu      sync.Mutex
	sources map[webKey]*webSource
}

type webKey struct {
	template string
	isNamed  bool
}

// A webSource is a web mirror as a source of streams.
type webSource struct {
	WebMirror
	*kwik.ExternalSource
	host   string
	client *webfile.Client
	// allowHTTP is set if the URLs of the mirror may be without TLS.
	allowHTTP bool
}

// newWebSet returns a set. mayName reports whether the primary may send this client to an
// address.
func newWebSet(o WebOptions, mayName func(netip.Addr) bool) *webSet {
	own := webfile.Options{Roots: o.Roots, AllowHTTP: o.AllowHTTP, Credentials: o.Credentials, Agent: webAgent}
	named := own
	named.Credentials, named.MayConnect = nil, mayName
	return &webSet{options: o, own: webfile.New(own), named: webfile.New(named), sources: make(map[webKey]*webSource)}
}

// of returns a set that uses the mirrors of one file first. Their bans are for its transfer alone:
// a wrong URL of one file tells nothing about others.
func (s *webSet) of(file WebFile) *webSet {
	if len(file.Mirrors) == 0 {
		return s
	}
	o := s.options
	o.Mirrors = file.Mirrors
	f := &webSet{options: o, own: s.own, shared: s, sources: make(map[webKey]*webSource)}
	if file.IsForeign {
		options := webfile.Options{Roots: o.Roots, AllowHTTP: o.AllowHTTP, MayConnect: file.MayConnect, Agent: webAgent}
		if o.Credentials != nil {
			options.Credentials = func(host string, _ bool) (string, string, bool) { return o.Credentials(host, true) }
		}
		f.own = webfile.New(options)
	}
	return f
}

// close closes idle connections. It may be called more than once.
func (s *webSet) close() {
	s.own.Close()
	if s.shared != nil {
		s.shared.close()
		return
	}
	s.named.Close()
}

// namedMirrors returns the mirrors that a primary names, those that can be used.
func (s *webSet) namedMirrors(named []*transferpb.WebMirror) (mirrors []WebMirror) {
	if s.options.IgnoreNamed {
		return nil
	}
	for _, m := range named[:min(len(named), 2*MaxWebMirrors)] {
		mirror := WebMirror{Template: string(m.GetTemplate()), Priority: int(min(m.GetPriority(), 1<<30))}
		if mirror.HasPath() && mirror.Check(s.options.AllowHTTP) == nil {
			mirrors = append(mirrors, mirror)
		}
	}
	return mirrors
}

// choose returns the sources for a transfer: the mirrors of the options, then those that the
// primary names. manyFiles leaves out those that have one file.
func (s *webSet) choose(named []*transferpb.WebMirror, manyFiles bool) (sources []*webSource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(mirrors []WebMirror, isNamed bool) {
		byPriority := func(a, b WebMirror) int { return cmp.Compare(a.Priority, b.Priority) }
		for _, m := range slices.SortedStableFunc(slices.Values(mirrors), byPriority) {
			if len(sources) == MaxWebMirrors || manyFiles && !m.HasPath() {
				continue
			}
			if source := s.source(m, isNamed); source != nil && !slices.Contains(sources, source) {
				sources = append(sources, source)
			}
		}
	}
	add(s.options.Mirrors, false)
	if s.shared != nil {
		sources = append(sources, s.shared.choose(named, manyFiles)...)
		return sources[:min(len(sources), MaxWebMirrors)]
	}
	add(s.namedMirrors(named), true)
	return sources
}

// source returns the source of a mirror, nil if its template is none. Called with the lock held.
func (s *webSet) source(m WebMirror, isNamed bool) *webSource {
	key := webKey{m.Template, isNamed}
	if known := s.sources[key]; known != nil {
		return known
	}
	u, err := m.urlOf("", s.options.AllowHTTP)
	if err == nil {
		err = m.Check(s.options.AllowHTTP)
	}
	if err != nil || len(s.sources) >= 4*MaxWebMirrors { // a primary that names others all the time
		return nil
	}
	client := s.own
	if isNamed {
		client = s.named
	}
	external, err := kwik.NewExternalSource(kwik.ExternalConfig{ID: s.idOf(u.Host), MinExtent: s.options.minExtent})
	if err != nil {
		return nil // the host has bytes that no name has
	}
	source := &webSource{WebMirror: m, ExternalSource: external, host: u.Host, client: client,
		allowHTTP: s.options.AllowHTTP}
	s.sources[key] = source
	return source
}

// idOf returns an ID for a mirror at a host that no other one of the set has.
func (s *webSet) idOf(host string) kwik.ServerID {
	const longest = 48 // bytes; kwik allows 64
	host = host[max(0, len(host)-longest):]
	if s.shared != nil {
		host += "#file" // the shared set may have a mirror at the same host
	}
	for n := 1; ; n++ {
		id := kwik.ServerID(kwik.ExternalPrefix + host)
		if n > 1 {
			id += kwik.ServerID(fmt.Sprintf("#%d", n))
		}
		isTaken := false
		for _, source := range s.sources {
			isTaken = isTaken || source.Stats().ID == id
		}
		if !isTaken {
			return id
		}
	}
}

// stats returns snapshots of the sources that were used.
func (s *webSet) stats() (all []kwik.ServerStats, hosts map[kwik.ServerID]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts = make(map[kwik.ServerID]string)
	for _, source := range s.sources {
		if st := source.Stats(); st.State != kwik.PathConnecting {
			all = append(all, st)
			hosts[st.ID] = source.host
		}
	}
	if s.shared != nil {
		others, theirs := s.shared.stats()
		all = append(all, others...)
		maps.Copy(hosts, theirs)
	}
	slices.SortFunc(all, func(a, b kwik.ServerStats) int { return cmp.Compare(a.ID, b.ID) })
	return all, hosts
}

// file returns the file at a path on a mirror.
func (s *webSource) file(path string, size int64) (*webfile.File, error) {
	u, err := s.urlOf(path, s.allowHTTP)
	if err != nil {
		return nil, err
	}
	return s.client.File(u, size), nil
}

// fetchOf returns the FetchFunc of a stream that consists of one file.
func fetchOf(f *webfile.File) kwik.FetchFunc {
	return func(ctx context.Context, start, end int64) (io.ReadCloser, error) {
		r, err := f.Fetch(ctx, start, end)
		if err != nil {
			return nil, fetchError(err)
		}
		return r, nil
	}
}

// fetchError tells kwik how to use a mirror that failed.
func fetchError(err error) error {
	e, ok := errors.AsType[*webfile.Error](err)
	if !ok {
		return err
	}
	return &kwik.FetchError{Err: e, Permanent: e.Permanent, RetryAfter: e.RetryAfter}
}

// addWebMirrors adds the web mirrors to the stream of a file. A mirror that cannot be added is
// not used: the stream has other sources.
func (r *request) addWebMirrors(stream *kwik.AggregateReader) {
	for _, source := range r.web.choose(r.webMirrors, false) {
		if file, err := source.file(r.url.Path, r.manifest.Size); err == nil {
			stream.AddExternal(source.ExternalSource, fetchOf(file))
		}
	}
}

// newWeb returns the web mirrors for the files of a session's primary.
func (r *request) newWeb() *webSet {
	set := (*webSet)(nil)
	if r.pool != nil {
		set = r.pool.webSet(poolKeyOf(r.url), r.webOptions, r.session.MayName)
	} else {
		set = newWebSet(r.webOptions, r.session.MayName)
	}
	return set.of(r.webFile)
}

// closeWeb closes the web mirrors, unless they belong to a pool.
func (r *request) closeWeb() {
	switch {
	case r.web == nil:
	case r.pool == nil:
		r.web.close()
	case r.webFile.IsForeign && r.web.shared != nil:
		r.web.own.Close()
	}
}
