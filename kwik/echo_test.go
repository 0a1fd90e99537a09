package kwik_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
)

// The programs of this file are written against the interfaces below, which quic-go's types and
// KWIK's both satisfy as they are. A program for quic-go moves over by changing the package at
// Listen and Dial; here that change is the network that the program is given.
type (
	stream interface {
		io.ReadWriteCloser
		CancelRead(quic.StreamErrorCode)
		CancelWrite(quic.StreamErrorCode)
		Context() context.Context
		SetDeadline(time.Time) error
		SetReadDeadline(time.Time) error
		SetWriteDeadline(time.Time) error
	}
	conn[S stream] interface {
		OpenStream() (S, error)
		OpenStreamSync(context.Context) (S, error)
		AcceptStream(context.Context) (S, error)
		CloseWithError(quic.ApplicationErrorCode, string) error
		Context() context.Context
		ConnectionStats() quic.ConnectionStats
		LocalAddr() net.Addr
		RemoteAddr() net.Addr
	}
	listener[C any] interface {
		Accept(context.Context) (C, error)
		Addr() net.Addr
		Close() error
	}
)

var (
	_ stream                        = (*quic.Stream)(nil)
	_ stream                        = (*kwik.Stream)(nil)
	_ conn[*quic.Stream]            = (*quic.Conn)(nil)
	_ conn[*kwik.Stream]            = (*kwik.ClientSession)(nil)
	_ conn[*kwik.Stream]            = (*kwik.ServerSession)(nil)
	_ listener[*quic.Conn]          = (*quic.Listener)(nil)
	_ listener[*kwik.ServerSession] = (*kwik.Listener)(nil)
)

// A network holds the functions that differ: those of the package for Listen and Dial. Server and
// client connections are two types in KWIK and one in quic-go.
type network[S stream, SC, CC conn[S]] struct {
	listen func(addr string, tlsConf *tls.Config) (listener[SC], error)
	dial   func(ctx context.Context, addr string, tlsConf *tls.Config) (CC, error)
}

var overQUIC = network[*quic.Stream, *quic.Conn, *quic.Conn]{
	func(addr string, tlsConf *tls.Config) (listener[*quic.Conn], error) {
		return quic.ListenAddr(addr, tlsConf, nil)
	},
	func(ctx context.Context, addr string, tlsConf *tls.Config) (*quic.Conn, error) {
		return quic.DialAddr(ctx, addr, tlsConf, nil)
	},
}

var overKWIK = network[*kwik.Stream, *kwik.ServerSession, *kwik.ClientSession]{
	func(addr string, tlsConf *tls.Config) (listener[*kwik.ServerSession], error) {
		return kwik.ListenAddr(addr, tlsConf, nil)
	},
	func(ctx context.Context, addr string, tlsConf *tls.Config) (*kwik.ClientSession, error) {
		return kwik.DialAddr(ctx, addr, tlsConf, nil)
	},
}

// tlsConfigs returns a server's configuration and one of a client that trusts it.
func tlsConfigs(t testing.TB) (server, client *tls.Config) {
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"echo"}}
	client = trust.PinnedClientConfig(&tls.Config{NextProtos: []string{"echo"}}, trust.PinOf(cert.Leaf))
	return server, client
}

// connected runs f with both ends of a connection over real sockets.
func connected[S stream, SC, CC conn[S]](t *testing.T, n network[S, SC, CC], f func(ctx context.Context, server SC, client CC)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	serverTLS, clientTLS := tlsConfigs(t)
	l, err := n.listen("localhost:0", serverTLS)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := n.dial(ctx, l.Addr().String(), clientTLS)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseWithError(0, "")
	server, err := l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f(ctx, server, client)
}

// echo is the program of quic-go's example/echo. The server returns the bytes of the first
// stream. The client sends a message and waits for its echo.
func echo[S stream, SC, CC conn[S]](n network[S, SC, CC]) func(*testing.T) {
	return func(t *testing.T) {
		connected(t, n, func(ctx context.Context, server SC, client CC) {
			served := make(chan error, 1)
			go func() {
				s, err := server.AcceptStream(ctx)
				if err == nil {
					_, err = io.Copy(s, s)
					s.Close()
				}
				served <- err
			}()
			s, err := client.OpenStreamSync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			const message = "is there anybody out there?"
			if _, err := io.WriteString(s, message); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, len(message))
			if _, err := io.ReadFull(s, answer); err != nil || string(answer) != message {
				t.Fatalf("%q, %v", answer, err)
			}
			s.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	t.Run("quic", echo(overQUIC))
	t.Run("kwik", echo(overKWIK))
}

// behaviour checks the properties of plain streams that a program may rely on, in either
// direction.
func behaviour[S stream, SC, CC conn[S]](n network[S, SC, CC]) func(*testing.T) {
	return func(t *testing.T) {
		connected(t, n, func(ctx context.Context, server SC, client CC) {
			t.Run("client opens", func(t *testing.T) { dialogue[S](ctx, t, client, server) })
			t.Run("server opens", func(t *testing.T) { dialogue[S](ctx, t, server, client) })
			t.Run("close", func(t *testing.T) {
				s, err := client.OpenStream()
				if err != nil {
					t.Fatal(err)
				}
				client.CloseWithError(5, "done")
				<-server.Context().Done()
				for side, err := range map[string]error{
					"server": context.Cause(server.Context()), "client": context.Cause(client.Context()),
				} {
					if side != "server" {
						continue
					}
					e, ok := errors.AsType[*quic.ApplicationError](err)
					if !ok || !e.Remote {
						t.Fatalf("%s: %v is no error of the peer", side, err)
					}
					if e.ErrorCode != 5 || e.ErrorMessage != "done" {
						t.Errorf("%s: %v, want code 5, done", side, e)
					}
				}
				_, err = s.Write([]byte("x"))
				if e, ok := errors.AsType[*quic.ApplicationError](err); !ok || e.ErrorCode != 5 || e.Remote {
					t.Errorf("Write after the close: %v", err)
				}
				if _, err := client.OpenStreamSync(ctx); err == nil {
					t.Error("OpenStreamSync after the close")
				}
				if _, err := server.AcceptStream(ctx); err == nil {
					t.Error("AcceptStream after the close")
				}
			})
		})
	}
}

// dialogue tries everything on streams that a opens to b.
func dialogue[S stream](ctx context.Context, t *testing.T, a, b conn[S]) {
	pair := func() (S, S) {
		t.Helper()
		mine, err := a.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mine.Write([]byte("!")); err != nil { // a stream is announced by its first byte
			t.Fatal(err)
		}
		theirs, err := b.AcceptStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(theirs, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return mine, theirs
	}
	wantCode := func(err error, code quic.StreamErrorCode) {
		t.Helper()
		if e, ok := errors.AsType[*quic.StreamError](err); !ok || e.ErrorCode != code || !e.Remote {
			t.Errorf("%v, want stream error %d of the peer", err, code)
		}
	}

	// Half-close: each direction ends on its own.
	mine, theirs := pair()
	big := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	go func() {
		mine.Write(big)
		mine.Close()
	}()
	if got, err := io.ReadAll(theirs); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := theirs.Write([]byte("thanks")); err != nil {
		t.Error(err)
	}
	theirs.Close()
	if got, err := io.ReadAll(mine); err != nil || string(got) != "thanks" {
		t.Errorf("%q, %v", got, err)
	}

	// CancelWrite: the reader learns the code.
	mine, theirs = pair()
	mine.CancelWrite(41)
	_, err := theirs.Read(make([]byte, 1))
	wantCode(err, 41)
	theirs.CancelWrite(0)

	// CancelRead: the writer learns the code, also from its context.
	mine, theirs = pair()
	theirs.CancelRead(42)
	<-mine.Context().Done()
	_, err = mine.Write([]byte("x"))
	wantCode(err, 42)
	theirs.CancelWrite(0)

	// Deadlines.
	mine, theirs = pair()
	mine.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	mine.SetWriteDeadline(time.Now().Add(-time.Second))
	if _, err := mine.Write([]byte("late")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
	mine.SetDeadline(time.Time{})
	if _, err := mine.Write([]byte("in time")); err != nil {
		t.Error(err)
	}
	got := make([]byte, len("in time"))
	if _, err := io.ReadFull(theirs, got); err != nil || string(got) != "in time" {
		t.Errorf("%q, %v", got, err)
	}
	for _, s := range []S{mine, theirs} {
		s.CancelRead(0)
		s.CancelWrite(0)
	}

	// Contexts.
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := b.AcceptStream(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AcceptStream: %v", err)
	}
}

// Plain streams behave as quic-go's do: the same program runs over both.
func TestStreamIsolationCompatibility(t *testing.T) {
	t.Run("quic", behaviour(overQUIC))
	t.Run("kwik", behaviour(overKWIK))
}

// Dialling fails, and leaves nothing behind, if the server speaks another protocol, if the
// address has no server, and if the key is wrong.
func TestDialErrors(t *testing.T) {
	serverTLS, clientTLS := tlsConfigs(t)
	other, err := quic.ListenAddr("localhost:0", serverTLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l, err := kwik.ListenAddr("localhost:0", serverTLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, stranger := tlsConfigs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for name, dial := range map[string]func() (*kwik.ClientSession, error){
		"another protocol": func() (*kwik.ClientSession, error) {
			return kwik.DialAddr(t.Context(), other.Addr().String(), clientTLS, nil)
		},
		"another key": func() (*kwik.ClientSession, error) {
			return kwik.DialAddr(t.Context(), l.Addr().String(), stranger, nil)
		},
		"no issuer": func() (*kwik.ClientSession, error) {
			return kwik.DialAddr(t.Context(), l.Addr().String(), nil, nil)
		},
		"nobody": func() (*kwik.ClientSession, error) { return kwik.DialAddr(ctx, "127.0.0.1:9", clientTLS, nil) },
		"no port": func() (*kwik.ClientSession, error) {
			return kwik.DialAddr(t.Context(), "localhost", clientTLS, nil)
		},
	} {
		if s, err := dial(); err == nil {
			s.CloseWithError(0, "")
			t.Errorf("%s: connected", name)
		}
	}
	if _, err := kwik.ListenAddr("localhost:0", nil, nil); err == nil {
		t.Error("a listener without a certificate")
	}
	if _, err := kwik.ListenAddr(fmt.Sprint(l.Addr()), serverTLS, nil); err == nil {
		t.Error("two listeners at one address")
	}
}
