package kwik

import (
	"errors"
	"time"

	"kwikcp/internal/rangeset"
)

// contentIdleTime is how long a content stays open without a grant while open contents are scarce.
const contentIdleTime = time.Second

// An attachedContent is the content of an attachment. It is opened when the attachment begins,
// since a server that lacks it must tell the client early. While open contents are scarce it is
// closed when the client requests nothing or takes nothing, and opened again when it is needed. It
// is for the attachment's goroutine.
type attachedContent struct {
	a       *attachment
	content Content // nil while it is closed
	// announced is the newest grant that a Prefetcher was told of; 0 after the content was opened.
	announced uint64
}

// open opens the content, unless it is open. It waits while too many contents are open.
func (c *attachedContent) open() error {
	s := c.a.session
	switch {
	case c.content != nil:
		return nil
	case s.listener.config.OpenContent == nil:
		return errors.New("this server has no content")
	}
	if s.contents.TryAcquire(1, 1) == 0 {
		if _, err := s.acquire(c.a.ctx, s.contents, 1, 1); err != nil {
			return err
		}
	}
	defer func() { // also after a panic of the application
		if c.content == nil {
			s.contents.Release(1)
		}
	}()
	content, err := s.listener.config.OpenContent(c.a.ctx, ContentRequest{
		Descriptor: c.a.descriptor, Size: c.a.units.Total(), Session: s,
	})
	if err != nil {
		return err
	}
	c.content, c.announced = content, 0
	if partial, ok := content.(PartialContent); ok {
		for _, l := range partial.Missing() {
			c.a.reportLack(&l)
		}
	}
	return nil
}

// prefetch tells a Prefetcher of the grants that it was not told of. off is where the first grant,
// which is being written, goes on.
func (c *attachedContent) prefetch(off int64) {
	content, ok := c.content.(Prefetcher)
	if !ok {
		return
	}
	for _, r := range c.newGrants(off) {
		content.Prefetch(r.Start, r.End)
	}
}

// newGrants returns the ranges of the grants that were not announced, and takes them for announced.
func (c *attachedContent) newGrants(off int64) (newer []rangeset.Range) {
	a := c.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == c.announced {
		return nil
	}
	for i, e := range a.queue {
		start := e.start
		if i == 0 {
			start = off
		}
		isWanted := !e.revoked && start < e.end && a.lacks.Overlap(start, e.end) == 0
		if e.grant > c.announced && isWanted {
			newer = append(newer, rangeset.Range{Start: start, End: e.end})
		}
	}
	c.announced = a.last
	return newer
}

// close closes the content, if it is open.
func (c *attachedContent) close() {
	if content := c.content; content != nil {
		c.content = nil
		defer c.a.session.contents.Release(1) // also after a panic of the application
		content.Close()
	}
}

// yield closes the content if others may need to open one.
func (c *attachedContent) yield() {
	if c.content != nil && c.a.session.listener.contents.IsScarce() {
		c.close()
	}
}

// awaitGrant waits for the next grant. It returns false if the attachment has ended.
func (c *attachedContent) awaitGrant() bool {
	idle := time.NewTimer(contentIdleTime)
	defer idle.Stop()
	for {
		select {
		case <-c.a.wake:
			return true
		case <-c.a.ctx.Done():
			return false
		case <-idle.C:
		}
		if c.yield(); c.content != nil {
			idle.Reset(contentIdleTime)
		}
	}
}
