package transfer

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
)

// A Pool lets transfers from the same primary share a session, so that the primary and its
// secondaries are dialled once. The zero value is an empty pool. It is safe for concurrent use.
// Close closes the sessions that are left.
type Pool struct {
	mu       sync.Mutex
	sessions map[poolKey]*pooledSession
	webSets  map[poolKey]*webSet
	known    map[poolKey]*atomic.Bool // whether a server has replied to a transfer
	wg       sync.WaitGroup           // one goroutine for each session that is being closed
}

const (
	// maxIdleSessions bounds the sessions without a user.
	maxIdleSessions = 8
	// maxIdleTime is how long a session without a user is used again. Servers close sessions
	// without a stream after a minute.
	maxIdleTime = 45 * time.Second
)

// A poolKey identifies the server of a session.
type poolKey struct {
	host string
	pin  trust.Pin // zero for none
}

func poolKeyOf(u URL) poolKey {
	key := poolKey{host: u.Host}
	if u.Pin != nil {
		key.pin = *u.Pin
	}
	return key
}

// A pooledSession is a session, or the attempt to dial one. The pool's lock guards users, unused
// and retired. The dialling goroutine sets session and err before it closes ready.
type pooledSession struct {
	ready   chan struct{} // closed once session or err is set
	session *kwik.ClientSession
	err     error
	users   int
	unused  time.Time // since when it has no user, if users is 0
	retired bool      // it is not in the pool any more, and is closed with its last user
}

// isKnown returns whether a server has replied to a transfer of the pool. The transfers set it.
func (p *Pool) isKnown(key poolKey) *atomic.Bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[key] == nil {
		if p.known == nil {
			p.known = make(map[poolKey]*atomic.Bool)
		}
		p.known[key] = new(atomic.Bool)
	}
	return p.known[key]
}

// acquire returns a session with a server, and dials one if there is none. The caller must call
// release once, with failed set if the session should not be used again.
func (p *Pool) acquire(
	ctx context.Context, key poolKey, dial func() (*kwik.ClientSession, error),
) (session *kwik.ClientSession, release func(failed bool), err error) {
	for {
		p.mu.Lock()
		e, mine := p.sessions[key], false
		if e != nil && e.dead() {
			p.retire(key, e)
			e = nil
		}
		if e == nil {
			e = &pooledSession{ready: make(chan struct{}), users: 1}
			if p.sessions == nil {
				p.sessions = make(map[poolKey]*pooledSession)
			}
			p.sessions[key] = e
			p.mu.Unlock()
			mine = true
			e.session, e.err = dial()
			close(e.ready)
		} else {
			e.users++
			p.mu.Unlock()
		}
		release := func(failed bool) { p.release(key, e, failed) }
		select {
		case <-e.ready:
		case <-ctx.Done():
			release(false)
			return nil, nil, ctx.Err()
		}
		if e.err == nil {
			return e.session, release, nil
		}
		release(true)
		// Another transfer dialled, and was cancelled. This one dials again.
		otherCancelled := !mine && errors.Is(e.err, context.Canceled)
		if ctx.Err() != nil || !otherCancelled {
			return nil, nil, e.err
		}
	}
}

// dead reports whether a session failed, has ended, or is so long without a user that the server
// may be about to close it. It must be called with the pool's lock held.
func (e *pooledSession) dead() bool {
	select {
	case <-e.ready:
		isOld := e.users == 0 && time.Since(e.unused) > maxIdleTime
		return e.err != nil || isOld || e.session.Context().Err() != nil || e.isWithoutPrimary()
	default:
		return false
	}
}

// isWithoutPrimary reports whether the primary sent wrong bytes. The session serves no content of
// it any more.
func (e *pooledSession) isWithoutPrimary() bool {
	servers := e.session.Servers()
	return len(servers) > 0 && servers[0].State == kwik.PathBanned
}

func (p *Pool) release(key poolKey, e *pooledSession, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.users--
	e.unused = time.Now()
	switch {
	case e.retired && e.users == 0:
		p.close(e)
	case failed && !e.retired, e.users == 0 && p.idle() > maxIdleSessions:
		p.retire(key, e)
	}
}

// idle returns the number of sessions without a user. It must be called with the lock held.
func (p *Pool) idle() (n int) {
	for _, e := range p.sessions {
		if e.users == 0 {
			n++
		}
	}
	return n
}

// retire removes a session from the pool. It is closed with its last user. retire must be called
// with the lock held.
func (p *Pool) retire(key poolKey, e *pooledSession) {
	e.retired = true
	if p.sessions[key] == e {
		delete(p.sessions, key)
	}
	if e.users == 0 {
		p.close(e)
	}
}

// close closes a session without users. It must be called with the lock held.
func (p *Pool) close(e *pooledSession) {
	if e.session != nil {
		p.wg.Go(func() { e.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "") })
	}
}

// webSet returns the web mirrors for the files of a primary.
func (p *Pool) webSet(key poolKey, o WebOptions, mayName func(netip.Addr) bool) *webSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set := p.webSets[key]; set != nil {
		return set
	}
	if p.webSets == nil {
		p.webSets = make(map[poolKey]*webSet)
	}
	for other, set := range p.webSets {
		if len(p.webSets) < maxWebSets {
			break
		}
		set.close() // its users may go on
		delete(p.webSets, other)
	}
	set := newWebSet(o, mayName)
	p.webSets[key] = set
	return set
}

// Close closes all sessions and waits for that. No session may be in use.
func (p *Pool) Close() {
	p.mu.Lock()
	for key, e := range p.sessions {
		p.retire(key, e)
	}
	for _, set := range p.webSets {
		set.close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
