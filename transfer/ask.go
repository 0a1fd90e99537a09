package transfer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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

// An inquiry asks a primary what a file is: manifest and tree, proved up to the root. Get and Compare both begin with one. It is
// used by one goroutine.
type inquiry struct {
	url     URL
	tls     *tls.Config
	timeout time.Duration // until the first answer
	kwik    *kwik.Config
	dial    DialFunc

	observer *observer

	// Of the present attempt:
	start    time.Time
	session  *kwik.ClientSession
	manifest Manifest
	tree     *integrity.Tree
	stream   kwik.StreamID // of the content; nothing moves before it is read
}

// A DialFunc connects to a primary as kwik.DialAddr does.
type DialFunc func(ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.Config) (*kwik.ClientSession, error)

// newInquiry prepares one. Zero values of timeout and dial mean the defaults.
func newInquiry(u URL, tlsConf *tls.Config, timeout time.Duration, conf *kwik.Config, dial DialFunc, report Reporter) inquiry {
	if timeout == 0 {
		timeout = DefaultConnectTimeout
	}
	if dial == nil {
		dial = kwik.DialAddr
	}
	return inquiry{url: u, tls: tlsConf, timeout: timeout, kwik: conf, dial: dial, observer: newObserver(report)}
}

// open connects and asks. After success the session is open, and the caller's to close.
func (q *inquiry) open(ctx context.Context) error {
	q.start = time.Now()
	if err := q.connect(ctx); err != nil {
		return err
	}
	if err := q.ask(ctx); err != nil {
		q.close()
		return err
	}
	q.observer.manifest(q.manifest)
	return nil
}

func (q *inquiry) close() { q.session.CloseWithError(kwik.ApplicationErrorCode(kwik.NoError), "") }

func (q *inquiry) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	session, err := q.dial(ctx, q.url.Host, q.tls, patient(q.kwik, q.timeout))
	if err != nil {
		if _, silent := errors.AsType[*quic.IdleTimeoutError](err); silent {
			err = &quic.HandshakeTimeoutError{} // there was no connection yet that could have fallen idle
		}
		return NetworkError("connect to "+q.url.Host+" over UDP", err)
	}
	q.session = session
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
func (q *inquiry) ask(ctx context.Context) error {
	op := fmt.Sprintf("ask %s for %q", q.url.Host, q.url.Path)
	deadline := q.start.Add(q.timeout)
	opening, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	stream, err := q.session.OpenStreamSync(opening)
	if err != nil {
		return NetworkError(op, err)
	}
	defer context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })()
	stream.SetWriteDeadline(deadline)
	if err := writeMessage(stream, &transferpb.Request{Version: protocolVersion, Path: []byte(q.url.Path)}); err != nil {
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
			q.observer.hashing(clamp(answer.Hashing.GetBytes()), clamp(answer.Hashing.GetTotal()))
		case *transferpb.Reply_Failure:
			return q.refused(op, answer.Failure)
		case *transferpb.Reply_Manifest:
			return q.readTree(op, r, stream, answer.Manifest)
		case nil: // of a later version
		default:
			return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("unexpected answer %T", answer)}
		}
	}
}

func (q *inquiry) refused(op string, f *transferpb.Failure) error {
	kind := KindOther
	switch f.GetCode() {
	case transferpb.Failure_NOT_FOUND, transferpb.Failure_NOT_A_FILE:
		kind = KindNotFound
	case transferpb.Failure_CHANGED:
		kind = KindChanged
	case transferpb.Failure_BUSY:
		kind = KindNetwork
	}
	return &Error{Kind: kind, Op: op, Err: &RemoteError{Path: q.url.Path, Message: f.GetMessage()}}
}

// readTree reads the chaining values that follow a manifest and proves them.
func (q *inquiry) readTree(op string, r *bufio.Reader, stream *kwik.Stream, m *transferpb.Manifest) error {
	group := integrity.GroupSize(m.GetGroup())
	if m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 || !group.Valid() || len(m.GetRoot()) != len(integrity.Root{}) {
		return &Error{Kind: KindOther, Op: op, Err: errors.New("the manifest makes no sense")}
	}
	root := integrity.Root(m.GetRoot())
	if q.url.Root != nil && *q.url.Root != root {
		return &Error{Kind: KindIntegrity, Op: op, Err: fmt.Errorf("the server's file has the hash %v, not the expected %v", root, *q.url.Root)}
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
			return q.refused(op, f)
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
	q.tree, q.stream = tree, kwik.StreamID(m.GetKwikStreamId())
	q.manifest = Manifest{
		Size: tree.Size(), Root: root, Group: group.Bytes(),
		MTime: time.Unix(0, m.GetMtimeNs()), Mode: m.GetMode() & 0o777,
	}
	return nil
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
