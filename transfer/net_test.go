package transfer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
)

// A wire is a simulated network with one server, ours or a hostile one, inside a synctest bubble.
type wire struct {
	t      *testing.T
	net    *simnet.Network
	link   simnet.Link                         // of every host
	wrap   func(net.PacketConn) net.PacketConn // for the server's socket; nil for none
	cert   tls.Certificate
	listen *kwik.Listener // nil before serve
	log    bytes.Buffer
	wg     sync.WaitGroup
	ctx    context.Context // ends with the test
}

var (
	serverAddr = netip.MustParseAddrPort("10.0.0.1:4433")
	clientHost = netip.MustParseAddrPort("10.0.0.2:0")
	anyLink    = simnet.Link{Latency: 5 * time.Millisecond, Rate: 100e6}
)

func onWire(t *testing.T, f func(w *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{t: t, net: simnet.New(1), link: anyLink}
		var cancel context.CancelFunc
		w.ctx, cancel = context.WithCancel(t.Context())
		var err error
		if w.cert, err = trust.NewIdentity(time.Now()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			if w.listen != nil {
				w.listen.Close()
			}
			w.wg.Wait()
			w.net.Close()
		}()
		f(w)
	})
}

// start listens with a configuration.
func (w *wire) start(conf *kwik.ServerConfig) *kwik.Listener {
	w.t.Helper()
	var socket net.PacketConn
	socket, err := w.net.Listen(serverAddr, w.link)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.wrap != nil {
		socket = w.wrap(socket)
	}
	conf.LocalAddresses = func() []netip.Addr { return nil }
	if w.listen, err = kwik.Listen(socket, &tls.Config{Certificates: []tls.Certificate{w.cert}}, conf); err != nil {
		w.t.Fatal(err)
	}
	return w.listen
}

// serve starts our server of a directory.
func (w *wire) serve(dir Dir) *Server {
	w.t.Helper()
	s := NewServer(dir, slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l := w.start(&kwik.ServerConfig{OpenContent: s.OpenContent})
	w.wg.Go(func() {
		s.Serve(w.ctx, l)
		s.Close()
	})
	return s
}

// serveFiles starts our server of a directory with these files, all of which it has hashed.
func (w *wire) serveFiles(files map[string][]byte) {
	w.t.Helper()
	root := w.t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	dir, err := OpenDir(root)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { dir.Close() })
	w.serve(dir)
	for name := range files {
		w.get(func(o *GetOptions) { o.URL.Path = name })
	}
}

// A script is what a hostile server does with a request.
type script func(p *peer)

// A peer is a hostile server's view of one request.
type peer struct {
	*testing.T
	*kwik.ServerSession
	stream  *kwik.Stream
	request *transferpb.Request
}

func (p *peer) reply(r *transferpb.Reply) { writeMessage(p.stream, r) }

func (p *peer) manifest(m *transferpb.Manifest) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Manifest{Manifest: m}})
}

func (p *peer) tree(cvs []byte) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: &transferpb.Tree{ChainingValues: cvs}}})
}

func (p *peer) failure(code transferpb.Failure_Code) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{Code: code}}})
	p.stream.Close()
}

// hostile starts a server that answers every request with a script, and has content.
func (w *wire) hostile(open kwik.OpenContentFunc, act script) {
	w.t.Helper()
	l := w.start(&kwik.ServerConfig{OpenContent: open})
	w.wg.Go(func() {
		for {
			session, err := l.Accept(w.ctx)
			if err != nil {
				return
			}
			stream, err := session.AcceptStream(w.ctx)
			if err != nil {
				continue
			}
			p := &peer{T: w.t, ServerSession: session, stream: stream, request: &transferpb.Request{}}
			if err := readMessage(bufio.NewReader(stream), p.request); err != nil {
				w.t.Errorf("the client's request: %v", err)
			}
			w.wg.Go(func() { act(p) })
		}
	})
}

// client is the configuration of a client.
func (w *wire) client() *kwik.ClientConfig {
	return &kwik.ClientConfig{
		Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }},
		ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
			return w.net.Listen(clientHost, w.link)
		},
	}
}

func (w *wire) tls() *tls.Config { return trust.PinnedClientConfig(nil, trust.PinOf(w.cert.Leaf)) }

// get fetches "file" in order and returns the bytes that came and how long it took.
func (w *wire) get(change ...func(*GetOptions)) (got []byte, took time.Duration, err error) {
	return w.getContext(w.ctx, change...)
}

// getWhole is Get, and fails the test unless afterwards the target is what it was, or the whole file: only that after a success.
// Tests of Get call it, whatever else they check.
func getWhole(t *testing.T, ctx context.Context, o GetOptions, report Reporter) (Result, error) {
	t.Helper()
	before, absent := os.ReadFile(o.Target)
	r, err := Get(ctx, o, report)
	if o.Output != nil {
		return r, err
	}
	after, gone := os.ReadFile(o.Target)
	isNew := gone == nil && r.Root == blake3.Sum256(after)
	if o.Range != nil {
		isNew = gone == nil && int64(len(after)) == r.Bytes
	}
	isOld := (absent == nil) == (gone == nil) && bytes.Equal(before, after)
	if !isNew && (err == nil || !isOld) {
		t.Errorf("after %v the target has %d bytes (%v), before it had %d (%v)", err, len(after), gone, len(before), absent)
	}
	return r, err
}

func (w *wire) getContext(ctx context.Context, change ...func(*GetOptions)) (got []byte, took time.Duration, err error) {
	var out bytes.Buffer
	o := GetOptions{URL: URL{Host: serverAddr.String(), Path: "file"}, TLS: w.tls(), Output: &out, KWIK: w.client()}
	for _, f := range change {
		f(&o)
	}
	start := time.Now()
	_, err = getWhole(w.t, ctx, o, NoReport{})
	return out.Bytes(), time.Since(start), err
}

// dial connects a hostile client.
func (w *wire) dial() *kwik.ClientSession {
	w.t.Helper()
	c, err := kwik.DialAddr(w.ctx, serverAddr.String(), w.tls(), w.client())
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// ask sends bytes as a request and returns the answers up to the stream's end, and how that ended.
func (w *wire) ask(c *kwik.ClientSession, raw []byte, fin bool) (replies []*transferpb.Reply, err error) {
	w.t.Helper()
	stream, err := c.OpenStreamSync(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := stream.Write(raw); err != nil {
		w.t.Fatal(err)
	}
	if fin {
		stream.Close()
	}
	r := bufio.NewReader(stream)
	for {
		reply := &transferpb.Reply{}
		if err := readMessage(r, reply); err == io.EOF {
			return replies, nil
		} else if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
	}
}

// request encodes a request.
func request(version uint32, path string) []byte {
	var b bytes.Buffer
	writeMessage(&b, &transferpb.Request{Version: version, Path: []byte(path)})
	return b.Bytes()
}

// A slowDir is a Dir whose files take a while to read.
type slowDir struct {
	Dir
	delay time.Duration
}

func (d slowDir) Open(name string) (File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return lazyFile{f, d.delay}, nil
}

type lazyFile struct {
	File
	delay time.Duration
}

func (f lazyFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(f.delay)
	return f.File.ReadAt(p, off)
}
