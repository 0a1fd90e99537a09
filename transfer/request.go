package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"math"
	"time"

	"github.com/quic-go/quic-go"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// DefaultConnectTimeout bounds the time to the primary's first answer.
	DefaultConnectTimeout = 10 * time.Second
	// answerTimeout bounds the wait for each further message of an answer.
	answerTimeout = 10 * time.Second
)

// An request asks a primary what a file is: manifest and tree, proved up to the root. Get and Compare both begin with one. The primary
// may answer before it knows the root: then what is there of the tree proves that bytes are those that the primary means, and
// complete waits for the rest. It is used by one goroutine.
type request struct {
	url     URL
	tls     *tls.Config
	timeout time.Duration // until the first answer
	kwik    *kwik.ClientConfig
	dial    DialFunc
	pool    *Pool // nil: each attempt has a session of its own
	// headStart returns how many bytes of the content to have sent with the answer. Nil means none.
	headStart func() int64

	observer *observer

	// Of the present attempt:
	start          time.Time
	session        *kwik.ClientSession
	release        func(failed bool)      // gives the session back to the pool
	headStartRead  func()                 // gives back what was reserved for a head start; nil if none was asked for
	manifest       Manifest               // its root is zero before the tree is complete
	growing        *integrity.GrowingTree // what is there of the tree
	tree           *integrity.Tree        // nil before it is complete
	stream         kwik.StreamID          // of the content; nothing moves before it is read
	streamAccepted bool                   // the stream was accepted, and whoever did that closes it
	answer         *exchange              // nil before the file was asked for
}

// A DialFunc connects to a primary as kwik.DialAddrEarly does.
type DialFunc func(ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig) (*kwik.ClientSession, error)

// newRequest prepares one. Zero values of timeout and dial mean the defaults.
func newRequest(u URL, tlsConf *tls.Config, timeout time.Duration, conf *kwik.ClientConfig, dial DialFunc, report Reporter) request {
	if timeout == 0 {
		timeout = DefaultConnectTimeout
	}
	if dial == nil {
		dial = kwik.DialAddrEarly
	}
	return request{url: u, tls: tlsConf, timeout: timeout, kwik: conf, dial: dial, observer: newObserver(report)}
}

// open connects and asks. After success the session is open, and the caller's to close. There is a tree unless the primary is still
// hashing the file.
func (r *request) requestManifest(ctx context.Context) error {
	r.start, r.tree, r.growing, r.stream, r.streamAccepted, r.answer, r.headStartRead = time.Now(), nil, nil, 0, false, nil, nil
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.fetchManifest(ctx); err != nil {
		r.close(err)
		return err
	}
	return nil
}

// close ends the session, or gives it back to the pool. err is what the attempt ended with: a session that met an error of the network is not
// used again.
func (r *request) close(err error) {
	if r.release == nil {
		r.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "")
		return
	}
	if r.answer != nil {
		r.answer.close()
	}
	dropped := r.discardStream(err)
	if dropped && r.headStartRead != nil {
		r.headStartRead()
	}
	e, ok := errors.AsType[*Error](err)
	r.release(!dropped || ok && e.Kind == KindNetwork)
}

// discardStream gives up the stream of the content, if nobody has accepted it, for the server keeps an offer, and the client a head start that
// nobody reads, as long as the session lives. It reports whether it could: a stream of which the answer has not told yet can only be given up
// with the session.
func (r *request) discardStream(err error) bool {
	if r.streamAccepted {
		return true
	}
	if r.stream == 0 {
		_, refused := errors.AsType[*RemoteError](err)
		return refused || r.growing != nil // the file is empty
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stream, err := r.session.AcceptAggregate(ctx, r.stream)
	if err != nil {
		return false
	}
	stream.Close()
	return true
}

// connect returns as soon as something can be sent, which travels with Hello; exchange waits for Welcome.
func (r *request) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	dial := func() (*kwik.ClientSession, error) {
		return r.dial(ctx, r.url.Host, r.tls, withConnectTimeout(r.kwik, r.timeout))
	}
	var session *kwik.ClientSession
	var err error
	if r.pool != nil {
		session, r.release, err = r.pool.acquire(ctx, poolKeyOf(r.url), dial)
	} else {
		session, err = dial()
	}
	if err != nil {
		return r.connectError(err)
	}
	r.session = session
	return nil
}

func (r *request) connectError(err error) error {
	if _, silent := errors.AsType[*quic.IdleTimeoutError](err); silent {
		err = &quic.HandshakeTimeoutError{} // there was no connection yet that could have fallen idle
	}
	return NetworkError("connect to "+r.url.Host+" over UDP", err)
}

// withConnectTimeout returns conf with time-outs of the handshake and of Welcome that let ConnectTimeout be waited for.
func withConnectTimeout(conf *kwik.ClientConfig, timeout time.Duration) *kwik.ClientConfig {
	if timeout <= DefaultConnectTimeout {
		return conf
	}
	p := &kwik.ClientConfig{}
	if conf != nil {
		p = conf.Clone()
	}
	p.HelloTimeout = max(p.HelloTimeout, timeout)
	if p.QUIC == nil {
		p.QUIC = &quic.Config{}
	}
	p.QUIC.HandshakeIdleTimeout = max(p.QUIC.HandshakeIdleTimeout, timeout)
	return p
}

// ask requests the file and reads the manifest, and the tree if its root is known.
func (r *request) fetchManifest(ctx context.Context) (err error) {
	deadline := r.start.Add(r.timeout)
	request := &transferpb.Request{Version: wire.ProtocolVersion, Path: []byte(r.url.Path)}
	if r.headStart != nil {
		var reserved int64
		reserved, r.headStartRead = r.session.ReserveHeadStart(r.headStart())
		request.HeadStart = uint64(reserved)
	}
	if r.answer, err = r.startExchange(ctx, fmt.Sprintf("ask %s for %q", r.url.Host, r.url.Path), deadline, request); err != nil {
		return err
	}
	for {
		reply, err := r.reply(ctx, deadline)
		if err != nil {
			return err
		}
		deadline = time.Now().Add(answerTimeout)
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Manifest:
			if err := r.readManifest(answer.Manifest); err != nil {
				return err
			}
			if len(answer.Manifest.GetRoot()) > 0 {
				return r.completeTree(ctx, nil)
			}
			return nil
		case *transferpb.Reply_Hashing, nil: // nil is one of a later version
		default:
			return r.answer.unexpected(reply)
		}
	}
}

// reply reads the next frame of the answer. Hashing is reported.
func (r *request) reply(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	reply, err := r.answer.next(ctx, deadline)
	if err != nil {
		return nil, err
	}
	if h := reply.GetHashing(); h != nil {
		r.observer.hashing(clamp(h.GetBytes()), clamp(h.GetTotal()))
	}
	return reply, nil
}

// readManifest checks what a manifest says.
func (r *request) readManifest(m *transferpb.Manifest) error {
	group := integrity.GroupSize(m.GetGroup())
	if m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 {
		return r.answer.malformed(errManifest)
	}
	growing, err := integrity.NewGrowingTree(int64(m.GetSize()), group)
	if err != nil {
		return r.answer.malformed(fmt.Errorf("%w: %w", errManifest, err))
	}
	r.growing, r.stream = growing, kwik.StreamID(m.GetKwikStreamId())
	r.manifest = Manifest{Size: growing.Size(), Group: group.Bytes(), MTime: time.Unix(0, m.GetMtimeNs()), Mode: m.GetMode() & 0o777}
	if len(m.GetRoot()) > 0 {
		return r.readRoot(m.GetRoot())
	}
	return nil
}

var errManifest = errors.New("a manifest of no file")

// readRoot takes the file's hash as the primary says it.
func (r *request) readRoot(root []byte) error {
	if len(root) != len(r.manifest.Root) {
		return r.answer.malformed(errManifest)
	}
	r.manifest.Root = integrity.Root(root)
	if want := r.url.Root; want != nil && *want != r.manifest.Root {
		return &Error{Kind: KindIntegrity, Op: r.answer.op, Err: fmt.Errorf("the server's file has the hash %v, not the expected %v", r.manifest.Root, *want)}
	}
	return nil
}

// complete waits until the tree is complete and proved: it reads the chaining values that follow a manifest, and the root if that had
// none. Whenever more of the tree is there, grown, which may be nil, is called.
func (r *request) completeTree(ctx context.Context, grown func() error) error {
	if r.tree != nil {
		return nil
	}
	size, group := r.growing.Size(), r.growing.GroupSize()
	told := time.Now()
	for (group.Groups(size) > 1 && r.growing.End() < size) || r.manifest.Root == (integrity.Root{}) {
		late := r.manifest.Root == (integrity.Root{})
		reply, err := r.reply(ctx, time.Now().Add(answerTimeout))
		if err != nil {
			return err
		}
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Tree:
			if cvs := answer.Tree.GetChainingValues(); len(cvs) == 0 || r.growing.Append(cvs) != nil {
				return r.answer.malformed(errors.New("a tree that does not fit its manifest"))
			}
			if grown != nil {
				if err := grown(); err != nil {
					return err
				}
			}
			if late && time.Since(told) >= wire.HashingInterval {
				told = time.Now()
				r.observer.hashing(r.growing.End(), size)
			}
		case *transferpb.Reply_Root:
			if !late {
				return r.answer.unexpected(reply)
			}
			if err := r.readRoot(answer.Root.GetRoot()); err != nil {
				return err
			}
		case *transferpb.Reply_Hashing, nil:
		default:
			return r.answer.unexpected(reply)
		}
	}
	tree, err := r.growing.Finish(r.manifest.Root)
	if err != nil {
		return &Error{Kind: KindIntegrity, Op: r.answer.op, Err: err}
	}
	r.tree = tree
	r.observer.manifest(r.manifest)
	return nil
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
