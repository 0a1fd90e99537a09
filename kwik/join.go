package kwik

import (
	"bufio"
	"crypto/x509"
	"errors"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// joinTimeout bounds a whole join.
const joinTimeout = 10 * time.Second

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

// proveToken returns the proof of knowing the join token, which is bound to this join. role is
// "secondary" or "primary".
func (k joinSecret) proveToken(token []byte, role string) []byte {
	if len(token) == 0 {
		return nil
	}
	var key [32]byte
	blake3.DeriveKey("kwik 2026 join token", token, key[:])
	return keyedMAC(key, "kwik join "+role, k[:])
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

// ownPin returns the hash of the listener's own public key.
func (l *Listener) ownPin() (trust.Pin, error) {
	if len(l.tls.Certificates) == 0 {
		return trust.Pin{}, errors.New("kwik: a listener that joins needs its certificate in tls.Config.Certificates")
	}
	cert := l.tls.Certificates[0]
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
