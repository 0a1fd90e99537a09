package cpace

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"testing"

	"github.com/cloudflare/circl/group"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func scalarOf(t *testing.T, text string) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().NewPrivateKey(unhex(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The test vector of draft-irtf-cfrg-cpace for NIST P-256 and SHA-256, initiator and responder.
func TestVector(t *testing.T) {
	c := Context{
		Channel: []byte("\x0bA_initiator\x0bB_responder"),
		Session: unhex(t, "34b36454cab2e7842c389f7d88ecb7df"),
	}
	secret := []byte("Password")
	g, err := group.P256.HashToElementNonUniform(generatorString(secret, c), []byte(dsi+"_DST")).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "generator", g, "0439bff2b051701594d3e9c7e93be9213af15db42214dfc4f7ee929a"+
		"6697f774d7ba5fb289b982399e4acd281a988bf058ea7ff6d7ff34fdb72157bb464ff4af87")
	a, err := start(secret, c, scalarOf(t, "37574cfbf1b95ff6a8e2d7be462d4d01e6dde2618f34f4de9df869b24f532c5d"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Ya", a.Share(), "04cf55f0a53a1b4c43002e1be8171f42737cf20b7cd6177b901ef962"+
		"c2e2d486b2f738263c6da5aa902fe185ae2cda587df8d27a16fc19c32a7b31aab097919736")
	b, err := start(secret, c, scalarOf(t, "e5672fc9eb4e721f41d80181ec4c9fd9886668acc48024d33c82bb102aecba52"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Yb", b.Share(), "046f538f9b8eb4e628bcace0fbba7d36fea44e98334d233c22101a2f"+
		"28eb3afc1a61b2bd14c0f11b222b5ea34df7756d104e2b5da09c9e8ffa330c150f47e84cef")
	const isk = "d67704f1c69b85736f273e73198a79fe5e4f60cb405e32f708e0aff5fdb5f9db"
	key, err := a.Initiator(b.Share(), []byte("ADa"), []byte("ADb"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ISK of A", key[:], isk)
	if key, err = b.Responder(a.Share(), []byte("ADa"), []byte("ADb")); err != nil {
		t.Fatal(err)
	}
	equal(t, "ISK of B", key[:], isk)
}

func equal(t *testing.T, name string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s is %x, want %s", name, got, want)
	}
}

// exchange returns both keys of an exchange.
func exchange(t *testing.T, a, b *Exchange, dataOfA, dataAtB []byte) (keyA, keyB [KeySize]byte) {
	t.Helper()
	keyA, err := a.Initiator(b.Share(), dataOfA, nil)
	if err != nil {
		t.Fatal(err)
	}
	if keyB, err = b.Responder(a.Share(), dataAtB, nil); err != nil {
		t.Fatal(err)
	}
	return keyA, keyB
}

// Every input makes a difference.
func TestKeysDiffer(t *testing.T) {
	type input struct{ secret, channel, session, data string }
	right := input{"secret", "channel", "session", "data"}
	begin := func(i input) *Exchange {
		x, err := New([]byte(i.secret), Context{[]byte(i.channel), []byte(i.session)})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for name, other := range map[string]input{
		"the same":        right,
		"another secret":  {"Secret", right.channel, right.session, right.data},
		"another channel": {right.secret, "Channel", right.session, right.data},
		"another session": {right.secret, right.channel, "Session", right.data},
		"other data":      {right.secret, right.channel, right.session, "Data"},
		"moved borders":   {"secretc", "hannel", right.session, right.data},
	} {
		keyA, keyB := exchange(t, begin(right), begin(other), []byte(right.data), []byte(other.data))
		if isEqual := keyA == keyB; isEqual != (name == "the same") {
			t.Errorf("%s: keys equal: %v", name, isEqual)
		}
	}
}

// A share that is no point of the curve, or the identity, gives no key.
func TestAttackInvalidShares(t *testing.T) {
	x, err := New([]byte("secret"), Context{})
	if err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(x.Share())
	offCurve[64] ^= 1
	compressed := append([]byte{2}, x.Share()[1:33]...)
	for name, share := range map[string][]byte{
		"nothing": nil, "the identity": {0}, "zeros": make([]byte, ShareSize), "off the curve": offCurve,
		"compressed": compressed, "one byte more": append(bytes.Clone(x.Share()), 0),
		"beyond the field": append([]byte{4}, bytes.Repeat([]byte{0xff}, 64)...),
	} {
		if _, err := x.Initiator(share, nil, nil); err == nil {
			t.Errorf("initiator took %s", name)
		}
		if _, err := x.Responder(share, nil, nil); err == nil {
			t.Errorf("responder took %s", name)
		}
	}
}

func FuzzShare(f *testing.F) {
	x, err := New([]byte("secret"), Context{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(x.Share())
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, share []byte) {
		key, err := x.Responder(share, nil, nil)
		if err == nil && (len(share) != ShareSize || key == [KeySize]byte{}) {
			t.Errorf("%x gave a key", share)
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	for b.Loop() {
		x, err := New([]byte("a secret of 32 random characters"), Context{[]byte("c"), make([]byte, 32)})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := x.Responder(x.Share(), nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
