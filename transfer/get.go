package transfer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"kwikcp/integrity"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
)

const (
	// DefaultConnectTimeout bounds the time to the primary's first answer.
	DefaultConnectTimeout = 10 * time.Second
	// answerTimeout bounds the wait for each further message of an answer.
	answerTimeout = 10 * time.Second
)

// GetOptions says what to fetch and where to.
type GetOptions struct {
	URL URL
	// TLS decides whom to trust as the primary.
	TLS *tls.Config
	// Target is the path of the file to write. Its directory must exist. A file that is there is replaced, at once and
	// only when the new one is whole.
	Target string
	// Output, if set, receives the bytes in order instead of a file.
	Output io.Writer
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// Retries is how many times the transfer is tried again after an error of KindNetwork. Each goes on where the one before
	// ended. To an Output there is none after the first byte.
	Retries int
	// RetryDelay is the pause before each retry; 0 means one second before the first, and twice as long before each
	// further one, up to MaxRetryDelay.
	RetryDelay time.Duration

	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.Config
	// Dial connects to the primary; nil means kwik.DialAddr.
	Dial func(ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.Config) (*kwik.ClientSession, error)
	// OpenDir opens the target's directory; nil means OpenDir.
	OpenDir func(path string) (Dir, error)
}

// Get fetches a file from a primary and its secondaries, proves it and puts it in place. Its errors are *Error, or the
// cause of ctx if that ended. After an error what stood at the target stands there still; beside it there may be a part file
// (Result.Kept), and another Get to the same target fetches only what that lacks.
func Get(ctx context.Context, o GetOptions, report Reporter) (Result, error) {
	if o.Dial == nil {
		o.Dial = kwik.DialAddr
	}
	if o.OpenDir == nil {
		o.OpenDir = OpenDir
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = DefaultConnectTimeout
	}
	g := &get{GetOptions: o, observer: newObserver(report)}
	start := time.Now()
	err := g.run(ctx)
	g.result.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return g.result, err
}

// A get is one transfer under way. It is used by one goroutine; the observer has its own.
type get struct {
	GetOptions
	observer *observer
	result   Result
	part     *partFile // nil with an Output

	// Of the present attempt:
	start    time.Time
	session  *kwik.ClientSession
	manifest Manifest
	tree     *integrity.Tree
	stream   kwik.StreamID
}

func (g *get) run(ctx context.Context) error {
	if g.Output == nil {
		var err error
		if g.part, err = openPart(g.OpenDir, g.Target); err != nil { // before anything is asked of the network
			return err
		}
		defer func() {
			lost := int64(0)
			g.result.Bytes, g.result.Resumed, lost = g.part.inPlace()
			g.result.Wasted += lost
			g.result.Kept = g.part.leave()
		}()
	}
	if err := g.retry(ctx, func() error { return g.attempt(ctx) }); err != nil {
		return err
	}
	if g.part != nil {
		if err := g.part.commit(fs.FileMode(g.manifest.Mode), g.manifest.MTime); err != nil {
			return err
		}
		g.result.Path = g.Target
	}
	return nil
}

// attempt fetches what is not there yet.
func (g *get) attempt(ctx context.Context) error {
	g.start = time.Now()
	if err := g.connect(ctx); err != nil {
		return err
	}
	defer g.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "")
	if err := g.ask(ctx); err != nil {
		return err
	}
	g.result.Root = g.manifest.Root
	g.observer.manifest(g.manifest)
	if g.part != nil {
		if err := g.part.prove(ctx, g.tree, g.observer.checking); err != nil {
			return err
		}
		if had, _, _ := g.part.inPlace(); had > 0 {
			g.observer.resume(had)
		}
	}
	switch {
	case g.manifest.Size == 0:
		return nil
	case g.part != nil && g.part.whole():
		all := kwik.StreamStats{Size: g.tree.Size(), Bytes: g.tree.Size()}
		g.see(g.observer.look(g.session.Paths(), all), all)
		return nil
	}
	return g.copy(ctx)
}

func (g *get) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.ConnectTimeout)
	defer cancel()
	session, err := g.Dial(ctx, g.URL.Host, g.TLS, patient(g.KWIK, g.ConnectTimeout))
	if err != nil {
		if _, silent := errors.AsType[*quic.IdleTimeoutError](err); silent {
			err = &quic.HandshakeTimeoutError{} // there was no connection yet that could have fallen idle
		}
		return NetworkError("connect to "+g.URL.Host+" over UDP", err)
	}
	g.session = session
	return nil
}

// patient returns conf with a handshake time-out that lets a long ConnectTimeout be waited for.
func patient(conf *kwik.Config, timeout time.Duration) *kwik.Config {
	if timeout <= DefaultConnectTimeout {
		return conf
	}
	p := kwik.Config{}
	if conf != nil {
		p = *conf
	}
	if p.QUIC == nil {
		p.QUIC = &quic.Config{}
	}
	p.QUIC = p.QUIC.Clone()
	p.QUIC.HandshakeIdleTimeout = max(p.QUIC.HandshakeIdleTimeout, timeout)
	return &p
}

// ask requests the file and reads the answer: manifest and tree, proved up to the root.
func (g *get) ask(ctx context.Context) error {
	op := fmt.Sprintf("ask %s for %q", g.URL.Host, g.URL.Path)
	deadline := g.start.Add(g.ConnectTimeout)
	opening, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	stream, err := g.session.OpenStreamSync(opening)
	if err != nil {
		return NetworkError(op, err)
	}
	defer context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })()
	stream.SetWriteDeadline(deadline)
	if err := writeMessage(stream, &transferpb.Request{Version: protocolVersion, Path: []byte(g.URL.Path)}); err != nil {
		return NetworkError(op, err)
	}
	stream.Close() // fails if the server has read the request and stopped reading; the answer says the rest
	r := bufio.NewReader(stream)
	for {
		stream.SetReadDeadline(deadline)
		reply := &transferpb.Reply{}
		if err := readMessage(r, reply); err != nil {
			return answerError(op, err)
		}
		deadline = time.Now().Add(answerTimeout)
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_Hashing:
			g.observer.hashing(clamp(answer.Hashing.GetBytes()), clamp(answer.Hashing.GetTotal()))
		case *transferpb.Reply_Failure:
			return g.refused(op, answer.Failure)
		case *transferpb.Reply_Manifest:
			return g.readTree(op, r, stream, answer.Manifest)
		case nil: // of a later version
		default:
			return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("unexpected answer %T", answer)}
		}
	}
}

func (g *get) refused(op string, f *transferpb.Failure) error {
	kind := KindOther
	switch f.GetCode() {
	case transferpb.Failure_NOT_FOUND, transferpb.Failure_NOT_A_FILE:
		kind = KindNotFound
	case transferpb.Failure_CHANGED:
		kind = KindChanged
	case transferpb.Failure_BUSY:
		kind = KindNetwork
	}
	return &Error{Kind: kind, Op: op, Err: &RemoteError{Path: g.URL.Path, Message: f.GetMessage()}}
}

// readTree reads the chaining values that follow a manifest and proves them.
func (g *get) readTree(op string, r *bufio.Reader, stream *kwik.Stream, m *transferpb.Manifest) error {
	group := integrity.GroupSize(m.GetGroup())
	if m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 || !group.Valid() || len(m.GetRoot()) != len(integrity.Root{}) {
		return &Error{Kind: KindOther, Op: op, Err: errors.New("the manifest makes no sense")}
	}
	root := integrity.Root(m.GetRoot())
	if g.URL.Root != nil && *g.URL.Root != root {
		return &Error{Kind: KindIntegrity, Op: op, Err: fmt.Errorf("the server's file has the hash %v, not the expected %v", root, *g.URL.Root)}
	}
	groups := group.Groups(int64(m.GetSize()))
	if groups > integrity.MaxGroups {
		return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the manifest makes no sense: %d bytes in groups of %d", m.GetSize(), group.Bytes())}
	}
	var cvs []byte // grows with what comes, whatever the size claims
	for want := 32 * groups; groups > 1 && int64(len(cvs)) < want; {
		stream.SetReadDeadline(time.Now().Add(answerTimeout))
		reply := &transferpb.Reply{}
		if err := readMessage(r, reply); err != nil {
			return answerError(op, err)
		}
		if f := reply.GetFailure(); f != nil {
			return g.refused(op, f)
		}
		part := reply.GetTree().GetChainingValues()
		if len(part) == 0 || int64(len(part)) > want-int64(len(cvs)) {
			return &Error{Kind: KindOther, Op: op, Err: errors.New("the tree does not fit the manifest")}
		}
		cvs = append(cvs, part...)
	}
	tree, err := integrity.FromCVs(int64(m.GetSize()), group, cvs, root)
	if err != nil {
		return &Error{Kind: KindIntegrity, Op: op, Err: err}
	}
	g.tree, g.stream = tree, kwik.StreamID(m.GetKwikStreamId())
	g.manifest = Manifest{
		Size: tree.Size(), Root: root, Group: group.Bytes(),
		MTime: time.Unix(0, m.GetMtimeNs()), Mode: m.GetMode() & 0o777,
	}
	return nil
}

// copy takes the content from the servers into the part file, or in order to the output.
func (g *get) copy(ctx context.Context) error {
	op := fmt.Sprintf("fetch %q", g.URL.Path)
	accepting, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stream, err := g.session.AcceptAggregate(accepting, g.stream)
	if err != nil {
		return NetworkError(op, err)
	}
	defer stream.Close()
	if stream.Size() != g.tree.Size() {
		return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the stream has %d bytes, the manifest says %d", stream.Size(), g.tree.Size())}
	}
	stream.SetProof(g.prove)
	if g.part != nil {
		for _, r := range g.part.ranges() {
			if err := stream.SetHave(r.Start, r.End); err != nil {
				return &Error{Kind: KindOther, Op: op, Err: err}
			}
		}
	}

	stop := g.observer.watch(g.session, stream)
	if g.part != nil {
		_, err = stream.CopyTo(ctx, g.part)
	} else {
		defer context.AfterFunc(ctx, func() { stream.Close() })()
		err = copyInOrder(g.Output, stream)
	}
	stats := stream.Stats()
	g.see(stop(), stats)
	if err == nil {
		return nil
	}
	wrapped := NetworkError(op, err)
	if e, ok := errors.AsType[*Error](wrapped); ok && errors.Is(err, kwik.ErrAggregationTimeout) {
		e.Kind = kindOfLoss(stats.Sources)
	}
	return wrapped
}

// see takes into the result what an attempt ended with.
func (g *get) see(p Progress, stats kwik.StreamStats) {
	g.result.Bytes, g.result.Servers = p.Bytes, p.Servers
	g.result.Wasted += stats.Wasted
}

// prove is the aggregate stream's kwik.ProofFunc.
func (g *get) prove(source kwik.PathID, off int64, p []byte) error {
	err := g.tree.Verify(off, p)
	if bad, ok := errors.AsType[*integrity.GroupError](err); ok {
		g.observer.badBlock(source, bad.Offset, bad.Length)
	}
	return err
}

// copyInOrder copies a stream to a writer.
func copyInOrder(w io.Writer, stream *kwik.Stream) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return LocalError("write the output", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// kindOfLoss says what it means that no source is left: every one lied, or one says that the file changed, or it may
// come back.
func kindOfLoss(sources []kwik.SourceStats) Kind {
	lied := 0
	for _, s := range sources {
		if errors.Is(s.Gone, kwik.ErrContentChanged) {
			return KindChanged
		}
		if _, ok := errors.AsType[*integrity.GroupError](s.Gone); ok {
			lied++
		}
	}
	if lied > 0 && lied == len(sources) {
		return KindIntegrity
	}
	return KindNetwork
}

// answerError wraps an error of reading an answer: the network's, or what came is none.
func answerError(op string, err error) error {
	_, tooLarge := errors.AsType[*protodelim.SizeTooLargeError](err)
	switch {
	case tooLarge, errors.Is(err, proto.Error):
		return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the answer makes no sense: %w", err)}
	case err == io.EOF:
		err = io.ErrUnexpectedEOF // more was due
	}
	return NetworkError(op, err)
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
