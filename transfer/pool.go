package transfer

import (
	"context"
	"errors"
	"sync"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
)

// A Pool keeps sessions, so that several transfers from one primary share one: neither the primary nor its secondaries are dialled
// anew for each file. Its zero value is empty; Close ends what is left. It may be used by several goroutines.
type Pool struct {
	mu       sync.Mutex
	sessions map[poolKey]*pooledSession
	wg       sync.WaitGroup // sessions that are being closed
}

// maxIdleSessions is how many sessions are kept that nobody uses.
const maxIdleSessions = 8

// A poolKey says which server a session is with.
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

// A pooledSession is guarded by the pool, but for what is set before ready is closed.
type pooledSession struct {
	ready   chan struct{} // closed when there is a session or an error
	session *kwik.ClientSession
	err     error
	users   int
	retired bool // nobody may take it any more: it is not in the pool
}

// take returns a session with a server, by dial unless there is one. The caller gives it back with release, and says then whether
// it failed.
func (p *Pool) acquire(ctx context.Context, key poolKey, dial func() (*kwik.ClientSession, error)) (session *kwik.ClientSession, release func(failed bool), err error) {
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
		if mine || ctx.Err() != nil || !errors.Is(e.err, context.Canceled) {
			return nil, nil, e.err
		} // otherwise whoever dialled was cancelled, which is nothing to us
	}
}

// dead reports whether a session is of no use any more. Called with the lock held.
func (e *pooledSession) dead() bool {
	select {
	case <-e.ready:
		return e.err != nil || e.session.Context().Err() != nil
	default:
		return false
	}
}

func (p *Pool) release(key poolKey, e *pooledSession, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.users--
	switch {
	case e.retired && e.users == 0:
		p.close(e)
	case failed && !e.retired, e.users == 0 && p.idle() > maxIdleSessions:
		p.retire(key, e)
	}
}

// idle returns how many sessions nobody uses. Called with the lock held.
func (p *Pool) idle() (n int) {
	for _, e := range p.sessions {
		if e.users == 0 {
			n++
		}
	}
	return n
}

// retire takes a session out of the pool. It is closed when nobody uses it any more. Called with the lock held.
func (p *Pool) retire(key poolKey, e *pooledSession) {
	e.retired = true
	if p.sessions[key] == e {
		delete(p.sessions, key)
	}
	if e.users == 0 {
		p.close(e)
	}
}

// close closes a session that nobody uses. Called with the lock held.
func (p *Pool) close(e *pooledSession) {
	if e.session != nil {
		p.wg.Go(func() { e.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "") })
	}
}

// Close closes all sessions, none of which may be in use, and waits until nothing is left of them.
func (p *Pool) Close() {
	p.mu.Lock()
	for key, e := range p.sessions {
		p.retire(key, e)
	}
	p.mu.Unlock()
	p.wg.Wait()
}
