package kwik

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/cpace"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

const (
	// joinTimeout bounds a whole join.
	joinTimeout = 10 * time.Second
	// joinVersion is the version of the join that is spoken here.
	joinVersion = 2
	// MinJoinToken is the least length of a join token, in bytes.
	MinJoinToken = 16
)

// A joinSecret is a key that only the two ends of a join connection know: 32 bytes exported from
// its TLS session (RFC 5705).
type joinSecret [32]byte

func newJoinSecret(conn *quic.Conn) (k joinSecret, err error) {
	state := conn.ConnectionState().TLS
	raw, err := state.ExportKeyingMaterial("EXPORTER-kwik-join", nil, len(k))
	copy(k[:], raw)
	return k, err
}

// proveProbe returns a secondary's answer to a probe.
func (k joinSecret) proveProbe(nonce []byte) []byte { return keyedMAC(k, "kwik join probe", nonce) }

// newExchange begins a key exchange about the join token. Neither side can find out more from it
// than whether the other knows the token, and it cannot be relayed to another TLS session.
func (k joinSecret) newExchange(token []byte) (*cpace.Exchange, error) {
	return cpace.New(token, cpace.Context{Channel: []byte("kwik-join"), Session: k[:]})
}

// joinData returns the contents of a request that the exchange protects.
func joinData(r *kwikpb.JoinRequest) []byte {
	return append(slices.Clone(r.GetKeyHash()), r.GetAdvertise()...)
}

// proveKey returns a side's proof that the exchange gave it this key. role is "secondary" or
// "primary".
func proveKey(key [cpace.KeySize]byte, role string) []byte {
	return keyedMAC(key, "kwik join "+role, nil)
}

// checkToken returns an error if a join token can be guessed because it is short.
func checkToken(token []byte) error {
	if len(token) > 0 && len(token) < MinJoinToken {
		return fmt.Errorf("kwik: join token of %d bytes, at least %d are required", len(token), MinJoinToken)
	}
	return nil
}

func keyedMAC(key [32]byte, context string, data []byte) []byte {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("kwik: internal error: " + err.Error()) // only a key that is not 32 bytes long
	}
	h.WriteString(context)
	h.Write(data)
	return h.Sum(nil)
}

// ownCertificate returns the certificate that the listener shows at present.
func (l *Listener) ownCertificate() (*tls.Certificate, error) {
	if len(l.tls.Certificates) > 0 {
		return &l.tls.Certificates[0], nil
	}
	if l.tls.GetCertificate != nil {
		return l.tls.GetCertificate(&tls.ClientHelloInfo{})
	}
	return nil, errors.New("kwik: a listener that joins needs its certificate in its tls.Config")
}

// ownPin returns the hash of the listener's own public key.
func (l *Listener) ownPin() (trust.Pin, error) {
	cert, err := l.ownCertificate()
	if err != nil {
		return trust.Pin{}, err
	}
	leaf := cert.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return trust.Pin{}, err
		}
	}
	return trust.PinOf(leaf), nil
}

// joinQUIC returns the QUIC configuration of connections between servers that this side opens. It
// keeps a membership alive and detects its death within a few seconds.
func (c *ServerConfig) joinQUIC() *quic.Config {
	q := c.QUIC.Clone()
	setServerWindows(q)
	q.KeepAlivePeriod = 2 * time.Second
	q.MaxIdleTimeout = 8 * time.Second
	q.MaxIncomingStreams, q.MaxIncomingUniStreams = 1, -1 // challenges
	q.DisablePathMTUDiscovery = true                      // small packets outlive a fall of the MTU
	return q
}

func writeJoin(stream *quic.Stream, f *kwikpb.JoinFrame) error {
	raw, err := appendDelimited(nil, proto.Message(f))
	if err != nil {
		return err
	}
	_, err = stream.Write(raw)
	return err
}

// readJoin reads one frame. The peer sends nothing more before it has an answer, so reading ahead
// loses nothing.
func readJoin(stream *quic.Stream) (*kwikpb.JoinFrame, error) {
	f := &kwikpb.JoinFrame{}
	if err := readDelimited(bufio.NewReaderSize(stream, 512), maxJoinFrame, f); err != nil {
		return nil, err
	}
	return f, nil
}
