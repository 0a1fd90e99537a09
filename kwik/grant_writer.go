package kwik

import (
	"errors"
	"time"
)

// A grantWriter answers one grant of an attachment. It is for the attachment's goroutine.
type grantWriter struct {
	a       *attachment
	e       *extent
	content *attachedContent
	// stream is opened when the first bytes are read: reading the content may take long, or fail.
	stream *secondaryStream
	off    int64 // of the next byte
	lacks  bool  // bytes of the grant are missing
}

// writeFrame writes the next frame of a grant that ends at end. It holds a block only while it
// reads and writes the frame. It writes nothing if the grant was shortened while it waited for the
// block, or if bytes are missing.
func (w *grantWriter) writeFrame(end int64) error {
	a := w.a
	if err := w.content.open(); err != nil {
		return contentError{err}
	}
	w.content.prefetch(w.off)
	unit := min(a.units.Size(), end-w.off)
	b, err := a.session.acquireBlock(a.ctx, int(max(unit, min(a.frames.size, end-w.off))), int(unit))
	if err != nil {
		return contentError{err}
	}
	defer a.session.releaseBlock(b)
	end, revoked := a.bounds(w.e)
	if revoked || w.off >= end {
		return nil
	}
	next := a.units.Cut(w.off, min(a.frames.size, b.payloadSize()), end)
	if err := readPayload(w.content.content, b, w.off, int(next-w.off)); err != nil {
		lack, ok := errors.AsType[*MissingRange](err)
		if concernsGrant := ok && lack.Start < next && lack.End > w.off; !concernsGrant {
			return err
		}
		a.reportLack(lack) // before the client notices that its grant ends early
		w.lacks = true
		if w.stream != nil {
			w.stream.cancel()
		}
		return nil
	}
	if w.stream == nil {
		if w.stream, err = a.openStream(w.e); err != nil {
			return err
		}
		w.stream.onStall = w.content.yield
	}
	begun := time.Now()
	if err := w.stream.writePayload(b, int(next-w.off)); err != nil {
		return err
	}
	a.frames.wrote(next-w.off, time.Since(begun))
	if a.offer != nil {
		a.offer.sent.Add(next - w.off)
	}
	w.off = next
	return nil
}

// end ends the stream because of err, and returns the error of the grant. A client that takes
// nothing ends the attachment.
func (w *grantWriter) end(err error) error {
	_, isContent := errors.AsType[contentError](err)
	isStalled := !isContent && errors.Is(err, ErrServerBusy)
	switch {
	case isContent && w.stream != nil:
		w.stream.close(printable(err.Error()))
	case isStalled && w.stream != nil:
		w.stream.cancel()
	}
	if isStalled {
		return contentError{err}
	}
	return err
}
