package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"math"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// DefaultConnectTimeout bounds the time until the primary's first reply.
	DefaultConnectTimeout = 10 * time.Second
	// serveTimeout bounds the wait for a reply, or for content, while a server answers and sends
	// none.
	serveTimeout = 10 * time.Second
)

// A request fetches the manifest and the tree of a file from a primary, and verifies the tree
// against the root. Get and Compare both begin with one. The primary may reply before it knows
// the root. Then growing verifies bytes against the part of the tree that has arrived, and
// completeTree waits for the rest. A request is used by one goroutine.
type request struct {
	url     URL
	tls     *tls.Config
	timeout time.Duration // until the first reply
	kwik    *kwik.ClientConfig
	dial    DialFunc
	pool    *Pool // nil gives each attempt a new session
	// byteRange is the requested part of the file; nil for all of it.
	byteRange *ByteRange
	// metadata is what listings request of entries besides time and permission bits; nil for
	// nothing.
	metadata *transferpb.MetadataRequest
	// headStart returns how many bytes of the content the primary should send with its reply. Nil
	// means none.
	headStart func() int64
	// wantsHoles is set if the primary should announce the holes of files.
	wantsHoles bool
	// asksPlaces requests the places of a listed directory.
	asksPlaces bool
	// webOptions configures web mirrors, and web are those of the primary, from the first session
	// on.
	webOptions WebOptions
	webFile    WebFile
	web        *webSet
	// target is the place to which the listed directory is copied; empty if it is not known.
	target []byte

	observer *observer
	stall    *stallWatch

	// State of the current attempt:
	start          time.Time
	session        *kwik.ClientSession
	release        func(failed bool)       // returns the session to the pool
	headStartRead  func()                  // releases the reservation of a head start; nil without one
	manifest       Manifest                // its root is zero until the primary knows it
	webMirrors     []*transferpb.WebMirror // that the primary names for the file
	holes          partfile.Holes          // of the file, as the primary announced them
	growing        *integrity.GrowingTree  // the part of the tree that has arrived
	tree           *integrity.Tree         // nil until it is complete, and with a rangeTree
	rangeTree      *integrity.RangeTree    // nil unless the primary proved byteRange alone
	stream         kwik.StreamID           // of the content; no byte is sent before it is read, but a head start
	streamAccepted bool                    // the code that accepted the stream closes it
	progress       progressLimit           // of the replies
	covered        int64                   // bytes of the file whose chaining values have arrived
	trees          treeShare               // of those values; kept until the next attempt or releaseTrees
	answer         *exchange               // nil until the request is sent
}

// A DialFunc connects to a primary as kwik.DialAddrEarly does.
type DialFunc func(
	ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig,
) (*kwik.ClientSession, error)

// newRequest returns a request. Zero values of timeout, stall, dial and report mean the defaults.
func newRequest(
	u URL, tlsConf *tls.Config, timeout, stall time.Duration, conf *kwik.ClientConfig, dial DialFunc, report Reporter,
) request {
	if timeout == 0 {
		timeout = DefaultConnectTimeout
	}
	if stall == 0 {
		stall = DefaultStallTimeout
	}
	if conf == nil {
		conf = &kwik.ClientConfig{}
	}
	if conf.SourceTimeout == 0 && conf.OutageTimeout == 0 {
		conf = conf.Clone()
		conf.OutageTimeout = stallLimit(stall)
		conf.SourceTimeout = min(serveTimeout, conf.OutageTimeout)
	}
	if dial == nil {
		dial = kwik.DialAddrEarly
	}
	o := newObserver(report)
	watch := &stallWatch{host: u.Host, timeout: stall, report: o.waiting}
	o.stall = watch
	return request{url: u, tls: tlsConf, timeout: timeout, kwik: conf, dial: dial, observer: o, stall: watch}
}

// answerTimeout bounds the wait for each reply after the first, if the primary does not answer at
// all.
func (r *request) answerTimeout() time.Duration { return stallLimit(r.stall.timeout) }

// requestManifest connects and fetches the manifest. After success the caller must call close.
// The tree is complete unless the primary is still hashing the file.
func (r *request) requestManifest(ctx context.Context) error {
	r.start, r.answer, r.headStartRead = time.Now(), nil, nil
	r.tree, r.rangeTree, r.growing, r.stream, r.streamAccepted = nil, nil, nil, 0, false
	r.progress, r.covered = hashingLimit(), 0
	r.trees.release()
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.fetchManifest(ctx); err != nil {
		r.close(err)
		return err
	}
	return nil
}

// close ends the session or returns it to the pool. err is the result of the attempt: a session
// with a network error is not used again.
func (r *request) close(err error) {
	if r.release == nil {
		r.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "")
		return
	}
	if r.answer != nil {
		r.answer.close()
	}
	discarded := r.discardStream(err)
	if discarded && r.headStartRead != nil {
		r.headStartRead()
	}
	e, ok := errors.AsType[*Error](err)
	networkFailed := ok && e.Kind == KindNetwork
	r.release(!discarded || networkFailed)
}

// discardStream closes the stream of the content if it was not accepted. Otherwise the server
// would keep the offer, and the client an unread head start, until the session ends. It reports
// whether nothing is left: before the number of the stream has arrived, only the end of the
// session discards it.
func (r *request) discardStream(err error) bool {
	if r.streamAccepted {
		return true
	}
	if r.stream == 0 {
		_, refused := errors.AsType[*RemoteError](err)
		emptyFile := r.growing != nil
		return refused || emptyFile
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

// servers returns the servers of the session, none without one.
func (r *request) servers() []kwik.ServerStats {
	if r.session == nil {
		return nil
	}
	return r.session.Servers()
}

// connect returns as soon as data can be sent, which travels with Hello. startExchange waits for
// Welcome.
func (r *request) connect(ctx context.Context) error {
	defer r.stall.wait()()
	r.session = nil
	ctx, cancel := context.WithTimeout(ctx, r.stall.connectTimeout(r.timeout))
	defer cancel()
	dial := func() (*kwik.ClientSession, error) {
		return r.dial(ctx, r.url.Host, r.tls, r.kwik)
	}
	var session *kwik.ClientSession
	var err error
	if r.pool != nil {
		r.stall.share(r.pool.isKnown(poolKeyOf(r.url)))
		session, r.release, err = r.pool.acquire(ctx, poolKeyOf(r.url), dial)
	} else {
		session, err = dial()
	}
	if err != nil {
		return r.connectError(err)
	}
	r.stall.connect()
	r.session = session
	if r.web == nil {
		r.web = r.newWeb()
		r.observer.useWeb(r.web)
	}
	return nil
}

// connectError wraps an error from before the primary accepted the session.
func (r *request) connectError(err error) error {
	op := "connect to " + r.url.Host + " over UDP"
	if r.session != nil && errors.Is(err, context.DeadlineExceeded) && r.session.IsAnswering() {
		return &Error{Kind: KindNetwork, Op: op, Err: errUnserved}
	}
	_, isSilent := errors.AsType[*quic.IdleTimeoutError](err) // there was no connection that could fall silent
	isTimeout := errors.Is(err, context.DeadlineExceeded)
	if _, isLookup := errors.AsType[*net.DNSError](err); (isSilent || isTimeout) && !isLookup {
		return &Error{Kind: KindNetwork, Op: op, Err: &ConnectError{Reason: ConnectNoAnswer, Err: err}}
	}
	return NetworkError(op, err)
}

// fetchManifest sends the request and reads the manifest, and the tree if the root is known.
func (r *request) fetchManifest(ctx context.Context) (err error) {
	deadline := r.start.Add(r.timeout)
	message := &transferpb.Request{Version: wire.ProtocolVersion, Path: []byte(r.url.Path), Holes: r.wantsHoles,
		WebMirrors: !r.webOptions.IgnoreNamed}
	if r.byteRange != nil {
		message.Range = wire.ByteRange(*r.byteRange).Message()
	}
	if r.headStart != nil {
		var reserved int64
		reserved, r.headStartRead = r.session.ReserveHeadStart(r.headStart())
		message.HeadStart = uint64(reserved)
	}
	op := fmt.Sprintf("ask %s for %q", r.url.Host, r.url.Path)
	if r.answer, err = r.startExchange(ctx, op, deadline, message); err != nil {
		return err
	}
	for {
		reply, err := r.reply(ctx, deadline)
		if err != nil {
			return err
		}
		deadline = time.Now().Add(r.answerTimeout())
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Manifest:
			if err := r.readManifest(answer.Manifest); err != nil {
				return err
			}
			rootIsKnown := len(answer.Manifest.GetRoot()) > 0
			switch {
			case rootIsKnown && r.byteRange != nil:
				return r.readRangeProof(ctx)
			case rootIsKnown:
				return r.completeTree(ctx, nil)
			}
			return nil
		case *transferpb.Reply_Hashing, nil: // nil is a reply of a later version
		default:
			return r.answer.unexpected(reply)
		}
	}
}

// reply reads the next reply, and reports it if it is about hashing. It fails if the replies make
// no progress.
func (r *request) reply(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	reply, err := r.answer.next(ctx, deadline)
	if err != nil {
		return nil, err
	}
	if h := reply.GetHashing(); h != nil {
		r.observer.hashing(clamp(h.GetBytes()), clamp(h.GetTotal()))
	}
	limit := int64(maxFileSize)
	if r.growing != nil {
		limit = r.growing.Size()
	}
	done := max(r.covered, min(clamp(reply.GetHashing().GetBytes()), limit))
	if err := r.progress.observe(done, time.Now()); err != nil {
		return nil, &Error{Kind: KindNetwork, Op: r.answer.op, Err: err}
	}
	return reply, nil
}

// readManifest checks and keeps a manifest.
func (r *request) readManifest(m *transferpb.Manifest) error {
	group := integrity.GroupSize(m.GetGroup())
	if m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 {
		return r.answer.malformed(errManifest)
	}
	growing, err := integrity.NewGrowingTree(int64(m.GetSize()), group)
	if err != nil {
		return r.answer.malformed(fmt.Errorf("%w: %w", errManifest, err))
	}
	if err := checkGroup(growing.Size(), m.GetGroup()); err != nil {
		return r.answer.malformed(err)
	}
	if r.holes, err = readHoles(m, &r.trees); err != nil {
		return r.answer.malformedOr(err)
	}
	r.growing, r.stream = growing, kwik.StreamID(m.GetKwikStreamId())
	r.webMirrors = m.GetWebMirrors()
	r.manifest = Manifest{
		Size: growing.Size(), Group: group.Bytes(), MTime: wire.JoinTime(m.GetMtimeNs(), m.GetMtimeEra()),
		Mode: m.GetMode() & 0o777,
	}
	if len(m.GetRoot()) > 0 {
		return r.readRoot(m.GetRoot())
	}
	return nil
}

var (
	errManifest = errors.New("an invalid manifest")
	errTree     = errors.New("a tree that does not fit its manifest")
)

// readRoot keeps the root that the primary sent, unless the URL names another one.
func (r *request) readRoot(root []byte) error {
	if len(root) != len(r.manifest.Root) {
		return r.answer.malformed(errManifest)
	}
	r.manifest.Root = integrity.Root(root)
	if want := r.url.Root; want != nil && *want != r.manifest.Root {
		err := fmt.Errorf("the server's file has the hash %v, not the expected %v", r.manifest.Root, *want)
		return &Error{Kind: KindIntegrity, Op: r.answer.op, Err: err}
	}
	return nil
}

// notOffered returns the error of a stream that the primary named and that has not arrived. In an
// outage the offer may have been lost.
func (r *request) notOffered(op string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && r.session.IsAnswering() {
		return &Error{Kind: KindNetwork, Op: op, Err: errUnserved}
	}
	return NetworkError(op, err)
}

// completeTree blocks until the tree is complete and verified. It reads the chaining values that
// follow a manifest, and the root if the manifest had none. It calls grown, which may be nil,
// after each part of the tree.
func (r *request) completeTree(ctx context.Context, grown func() error) error {
	if r.tree != nil || r.rangeTree != nil {
		return nil
	}
	size, group := r.growing.Size(), r.growing.GroupSize()
	reported := time.Now()
	for {
		valuesMissing := group.Groups(size) > 1 && r.growing.End() < size // one group needs none
		rootMissing := r.manifest.Root == (integrity.Root{})
		if !valuesMissing && !rootMissing {
			break
		}
		reply, err := r.reply(ctx, time.Now().Add(r.answerTimeout()))
		if err != nil {
			return err
		}
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Tree:
			if err := r.growTree(answer.Tree); err != nil {
				return err
			}
			if grown != nil {
				if err := grown(); err != nil {
					return err
				}
			}
			if rootMissing && time.Since(reported) >= wire.HashingInterval {
				reported = time.Now()
				r.observer.hashing(r.growing.End(), size)
			}
		case *transferpb.Reply_Root:
			if !rootMissing {
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

// growTree takes the next chaining values of the tree.
func (r *request) growTree(m *transferpb.Tree) error {
	cvs := m.GetChainingValues()
	if err := r.trees.take(int64(len(cvs))); err != nil {
		return err
	}
	if len(cvs) == 0 || r.growing.Append(cvs) != nil {
		return r.answer.malformed(errTree)
	}
	r.covered = r.growing.End()
	return nil
}
