// Package attack has what tests and tools need to attack a server.
package attack

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Initials returns n Initial packets, each of which begins the handshake of another connection.
// Each is a client's whole first flight. They are recorded from real dials: the keys of an Initial
// follow from its connection ID, so that one cannot be made from another.
func Initials(n int, protocol string) ([][]byte, error) {
	conf := &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{protocol},
		CurvePreferences: []tls.CurveID{tls.X25519}, // so that ClientHello fits into one packet
	}
	packets := make([][]byte, n)
	for i := range packets {
		var err error
		if packets[i], err = firstPacket(conf); err != nil {
			return nil, err
		}
	}
	return packets, nil
}

func firstPacket(conf *tls.Config) ([]byte, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := &recorder{sent: cancel, closed: make(chan struct{})}
	transport := &quic.Transport{Conn: r}
	_, err := transport.Dial(ctx, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4433}, conf, &quic.Config{})
	transport.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.packet == nil {
		return nil, errors.Join(errors.New("attack: the client sent nothing"), err)
	}
	return r.packet, nil
}

// A recorder is a socket that keeps the first packet that is written. Reads block until it is
// closed, or its read deadline is set.
type recorder struct {
	sent func() // called for each packet

	once   sync.Once
	closed chan struct{}

	mu     sync.Mutex
	packet []byte
}

func (r *recorder) WriteTo(p []byte, _ net.Addr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.packet == nil {
		r.packet = append(r.packet, p...)
	}
	r.sent()
	return len(p), nil
}

func (r *recorder) ReadFrom([]byte) (int, net.Addr, error) {
	<-r.closed
	return 0, nil, net.ErrClosed
}

func (r *recorder) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

// SetReadDeadline is how quic-go ends a read when it closes a transport.
func (r *recorder) SetReadDeadline(time.Time) error  { return r.Close() }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) SetReadBuffer(int) error          { return nil }
func (r *recorder) SetWriteBuffer(int) error         { return nil }
func (r *recorder) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1} }
