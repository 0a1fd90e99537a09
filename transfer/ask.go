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

// An inquiry asks a primary what a file is: manifest and tree, proved up to the root. Get and Compare both begin with one. The primary
// may answer before it knows the root: then what is there of the tree proves that bytes are those that the primary means, and
// complete waits for the rest. It is used by one goroutine.
type inquiry struct {
	url     URL
	tls     *tls.Config
	timeout time.Duration // until the first answer
	kwik    *kwik.ClientConfig
	dial    DialFunc
	pool    *Pool // nil: each attempt has a session of its own
	// byteRange is the part of the file that is wanted; nil for all of it.
	byteRange *ByteRange
	// headStart returns how many bytes of the content to have sent with the answer. Nil means none.
	headStart func() int64

	observer *observer

	// Of the present attempt:
	start         time.Time
	session       *kwik.ClientSession
	release       func(failed bool)      // gives the session back to the pool
	headStartRead func()                 // gives back what was reserved for a head start; nil if none was asked for
	manifest      Manifest               // its root is zero before the tree is complete
	growing       *integrity.GrowingTree // what is there of the tree
	tree          *integrity.Tree        // nil before it is complete, and with a rangeTree
	rangeTree     *integrity.RangeTree   // nil unless the primary proved byteRange alone
	stream        kwik.StreamID          // of the content; nothing moves before it is read
	taken         bool                   // the stream was accepted, and whoever did that closes it
	answer        *dialogue              // nil before the file was asked for
}

// A DialFunc connects to a primary as kwik.DialAddrEarly does.
type DialFunc func(ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig) (*kwik.ClientSession, error)

// newInquiry prepares one. Zero values of timeout and dial mean the defaults.
func newInquiry(u URL, tlsConf *tls.Config, timeout time.Duration, conf *kwik.ClientConfig, dial DialFunc, report Reporter) inquiry {
	if timeout == 0 {
		timeout = DefaultConnectTimeout
	}
	if dial == nil {
		dial = kwik.DialAddrEarly
	}
	return inquiry{url: u, tls: tlsConf, timeout: timeout, kwik: conf, dial: dial, observer: newObserver(report)}
}

// open connects and asks. After success the session is open, and the caller's to close. There is a tree unless the primary is still
// hashing the file.
func (q *inquiry) open(ctx context.Context) error {
	q.start, q.tree, q.growing, q.stream, q.taken, q.answer, q.headStartRead = time.Now(), nil, nil, 0, false, nil, nil
	q.rangeTree = nil
	if err := q.connect(ctx); err != nil {
		return err
	}
	if err := q.ask(ctx); err != nil {
		q.close(err)
		return err
	}
	return nil
}

// close ends the session, or gives it back to the pool. err is what the attempt ended with: a session that met an error of the network is not
// used again.
func (q *inquiry) close(err error) {
	if q.release == nil {
		q.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "")
		return
	}
	if q.answer != nil {
		q.answer.close()
	}
	dropped := q.dropStream(err)
	if dropped && q.headStartRead != nil {
		q.headStartRead()
	}
	e, ok := errors.AsType[*Error](err)
	q.release(!dropped || ok && e.Kind == KindNetwork)
}

// dropStream gives up the stream of the content, if nobody has accepted it, for the server keeps an offer, and the client a head start that
// nobody reads, as long as the session lives. It reports whether it could: a stream of which the answer has not told yet can only be given up
// with the session.
func (q *inquiry) dropStream(err error) bool {
	if q.taken {
		return true
	}
	if q.stream == 0 {
		_, refused := errors.AsType[*RemoteError](err)
		return refused || q.growing != nil // the file is empty
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stream, err := q.session.AcceptAggregate(ctx, q.stream)
	if err != nil {
		return false
	}
	stream.Close()
	return true
}

// connect returns as soon as something can be sent, which travels with Hello; dialogue waits for Welcome.
func (q *inquiry) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	dial := func() (*kwik.ClientSession, error) {
		return q.dial(ctx, q.url.Host, q.tls, patient(q.kwik, q.timeout))
	}
	var session *kwik.ClientSession
	var err error
	if q.pool != nil {
		session, q.release, err = q.pool.take(ctx, poolKeyOf(q.url), dial)
	} else {
		session, err = dial()
	}
	if err != nil {
		return q.connectError(err)
	}
	q.session = session
	return nil
}

func (q *inquiry) connectError(err error) error {
	if _, silent := errors.AsType[*quic.IdleTimeoutError](err); silent {
		err = &quic.HandshakeTimeoutError{} // there was no connection yet that could have fallen idle
	}
	return NetworkError("connect to "+q.url.Host+" over UDP", err)
}

// patient returns conf with time-outs of the handshake and of Welcome that let ConnectTimeout be waited for.
func patient(conf *kwik.ClientConfig, timeout time.Duration) *kwik.ClientConfig {
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
func (q *inquiry) ask(ctx context.Context) (err error) {
	deadline := q.start.Add(q.timeout)
	request := &transferpb.Request{Version: wire.ProtocolVersion, Path: []byte(q.url.Path)}
	if q.byteRange != nil {
		request.Range = q.byteRange.Message()
	}
	if q.headStart != nil {
		var reserved int64
		reserved, q.headStartRead = q.session.ReserveHeadStart(q.headStart())
		request.HeadStart = uint64(reserved)
	}
	if q.answer, err = q.dialogue(ctx, fmt.Sprintf("ask %s for %q", q.url.Host, q.url.Path), deadline, request); err != nil {
		return err
	}
	for {
		reply, err := q.reply(ctx, deadline)
		if err != nil {
			return err
		}
		deadline = time.Now().Add(answerTimeout)
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Manifest:
			if err := q.readManifest(answer.Manifest); err != nil {
				return err
			}
			rootIsKnown := len(answer.Manifest.GetRoot()) > 0
			switch {
			case rootIsKnown && q.byteRange != nil:
				return q.readRangeProof(ctx)
			case rootIsKnown:
				return q.complete(ctx, nil)
			}
			return nil
		case *transferpb.Reply_Hashing, nil: // nil is one of a later version
		default:
			return q.answer.unexpected(reply)
		}
	}
}

// reply reads the next frame of the answer. Hashing is reported.
func (q *inquiry) reply(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	reply, err := q.answer.next(ctx, deadline)
	if err != nil {
		return nil, err
	}
	if h := reply.GetHashing(); h != nil {
		q.observer.hashing(clamp(h.GetBytes()), clamp(h.GetTotal()))
	}
	return reply, nil
}

// readManifest checks what a manifest says.
func (q *inquiry) readManifest(m *transferpb.Manifest) error {
	group := integrity.GroupSize(m.GetGroup())
	if m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 {
		return q.answer.nonsense(errManifest)
	}
	growing, err := integrity.NewGrowingTree(int64(m.GetSize()), group)
	if err != nil {
		return q.answer.nonsense(fmt.Errorf("%w: %w", errManifest, err))
	}
	q.growing, q.stream = growing, kwik.StreamID(m.GetKwikStreamId())
	q.manifest = Manifest{Size: growing.Size(), Group: group.Bytes(), MTime: time.Unix(0, m.GetMtimeNs()), Mode: m.GetMode() & 0o777}
	if len(m.GetRoot()) > 0 {
		return q.readRoot(m.GetRoot())
	}
	return nil
}

var errManifest = errors.New("a manifest of no file")

// readRoot takes the file's hash as the primary says it.
func (q *inquiry) readRoot(root []byte) error {
	if len(root) != len(q.manifest.Root) {
		return q.answer.nonsense(errManifest)
	}
	q.manifest.Root = integrity.Root(root)
	if want := q.url.Root; want != nil && *want != q.manifest.Root {
		return &Error{Kind: KindIntegrity, Op: q.answer.op, Err: fmt.Errorf("the server's file has the hash %v, not the expected %v", q.manifest.Root, *want)}
	}
	return nil
}

// complete waits until the tree is complete and proved: it reads the chaining values that follow a manifest, and the root if that had
// none. Whenever more of the tree is there, grown, which may be nil, is called.
func (q *inquiry) complete(ctx context.Context, grown func() error) error {
	if q.tree != nil || q.rangeTree != nil {
		return nil
	}
	size, group := q.growing.Size(), q.growing.GroupSize()
	told := time.Now()
	for (group.Groups(size) > 1 && q.growing.End() < size) || q.manifest.Root == (integrity.Root{}) {
		late := q.manifest.Root == (integrity.Root{})
		reply, err := q.reply(ctx, time.Now().Add(answerTimeout))
		if err != nil {
			return err
		}
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Tree:
			if err := q.growTree(answer.Tree); err != nil {
				return err
			}
			if grown != nil {
				if err := grown(); err != nil {
					return err
				}
			}
			if late && time.Since(told) >= wire.HashingInterval {
				told = time.Now()
				q.observer.hashing(q.growing.End(), size)
			}
		case *transferpb.Reply_Root:
			if !late {
				return q.answer.unexpected(reply)
			}
			if err := q.readRoot(answer.Root.GetRoot()); err != nil {
				return err
			}
		case *transferpb.Reply_Hashing, nil:
		default:
			return q.answer.unexpected(reply)
		}
	}
	tree, err := q.growing.Finish(q.manifest.Root)
	if err != nil {
		return &Error{Kind: KindIntegrity, Op: q.answer.op, Err: err}
	}
	q.tree = tree
	q.observer.manifest(q.manifest)
	return nil
}

// growTree takes the next chaining values of the tree.
func (q *inquiry) growTree(m *transferpb.Tree) error {
	cvs := m.GetChainingValues()
	if len(cvs) == 0 || q.growing.Append(cvs) != nil {
		return q.answer.nonsense(errors.New("a tree that does not fit its manifest"))
	}
	return nil
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
