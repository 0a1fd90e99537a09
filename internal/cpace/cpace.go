// Package cpace implements CPace, a balanced password-authenticated key exchange: two parties that
// share a secret, however weak, agree on a strong key. A party that does not know the secret can
// test one guess in each exchange with one that does. It learns nothing to test others offline.
//
// It is the suite CPACE-P256_XMD:SHA-256_SSWU_NU_-SHA256 of draft-irtf-cfrg-cpace, with an
// initiator and a responder. Names in the comments are the draft's. Hashing the secret to the
// curve is not constant-time; everything that follows is.
package cpace

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/cloudflare/circl/group"
)

const (
	// ShareSize is the size of a share: an uncompressed point of P-256.
	ShareSize = 65
	// KeySize is the size of the agreed key.
	KeySize = sha256.Size

	dsi = "CPaceP256_XMD:SHA-256_SSWU_NU_"
)

// A Context is public, and both parties must use the same one. The key is another one otherwise.
type Context struct {
	Channel []byte // CI: identifies the purpose
	Session []byte // sid: unique to this exchange
}

// An Exchange is one party's side of an exchange. It must be used for one peer's share only.
type Exchange struct {
	context Context
	scalar  *ecdh.PrivateKey
	share   []byte
}

// New begins an exchange about secret.
func New(secret []byte, c Context) (*Exchange, error) {
	scalar, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return start(secret, c, scalar)
}

func start(secret []byte, c Context, scalar *ecdh.PrivateKey) (*Exchange, error) {
	y := group.P256.NewScalar()
	if err := y.UnmarshalBinary(scalar.Bytes()); err != nil {
		return nil, err
	}
	g := group.P256.HashToElementNonUniform(generatorString(secret, c), []byte(dsi+"_DST"))
	share, err := g.Mul(g, y).MarshalBinary()
	if err != nil {
		return nil, err
	}
	return &Exchange{context: c, scalar: scalar, share: share}, nil
}

// generatorString is the draft's generator_string. Its padding fills the first block of SHA-256.
func generatorString(secret []byte, c Context) []byte {
	padding := sha256.BlockSize - 1 - len(appendBytes(nil, secret)) - len(appendBytes(nil, []byte(dsi)))
	b := appendBytes(nil, []byte(dsi))
	b = appendBytes(b, secret)
	b = appendBytes(b, make([]byte, max(0, padding)))
	b = appendBytes(b, c.Channel)
	return appendBytes(b, c.Session)
}

// Share returns the bytes to send to the peer.
func (x *Exchange) Share() []byte { return x.share }

// Initiator returns the key (ISK) of the initiator, given the share of the responder. The data is
// what each party sent along with its share. The key is the peer's if and only if the secret, the
// context, the shares and the data are. The caller must confirm that it is.
func (x *Exchange) Initiator(responder, data, responderData []byte) ([KeySize]byte, error) {
	return x.key(responder, x.share, data, responder, responderData)
}

// Responder returns the key of the responder, given the share of the initiator. See Initiator.
func (x *Exchange) Responder(initiator, initiatorData, data []byte) ([KeySize]byte, error) {
	return x.key(initiator, initiator, initiatorData, x.share, data)
}

// key computes the key from the peer's share and the transcript.
func (x *Exchange) key(peer []byte, transcript ...[]byte) (key [KeySize]byte, err error) {
	if len(peer) != ShareSize {
		return key, errors.New("cpace: share of the wrong length")
	}
	point, err := ecdh.P256().NewPublicKey(peer) // on the curve, and not the identity
	if err != nil {
		return key, err
	}
	k, err := x.scalar.ECDH(point)
	if err != nil {
		return key, err
	}
	b := appendBytes(nil, []byte(dsi+"_ISK"))
	b = appendBytes(b, x.context.Session)
	b = appendBytes(b, k)
	for _, part := range transcript {
		b = appendBytes(b, part)
	}
	return sha256.Sum256(b), nil
}

// appendBytes appends the length of p, in LEB128, and p.
func appendBytes(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}
