package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

var testKey = [32]byte{1, 2, 3}

// testToken returns a token of the test's key.
func testToken(t *testing.T, name string, life time.Duration, paths ...string) []byte {
	t.Helper()
	now := time.Now()
	paths = slices.Clone(paths)
	for i := range paths {
		paths[i] = "/" + paths[i]
	}
	paths, err := trust.NormalizePaths(paths)
	if err != nil {
		t.Fatal(err)
	}
	token := trust.AccessToken{Name: name, Paths: paths, Issued: now}
	if life != 0 {
		token.Expires = now.Add(life)
	}
	text, err := token.Sign(testKey)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// A guarded is a server that demands tokens, on a simulated network.
type guarded struct {
	*transfertest.Net
	access *Access
	root   string
}

// guard runs f with a guarded server of a small tree.
func guard(t *testing.T, f func(g *guarded)) {
	t.Helper()
	transfertest.OnNet(t, func(n *transfertest.Net) {
		g := &guarded{Net: n, access: NewAccess(n.Logger()), root: t.TempDir()}
		for _, name := range []string{"a/b/one", "a/b/c/two", "a/other", "d/three", "top"} {
			path := filepath.Join(g.root, name)
			os.MkdirAll(filepath.Dir(path), 0o755)
			if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		os.Symlink("../../d/three", filepath.Join(g.root, "a/b/link"))
		os.Symlink("a/b", filepath.Join(g.root, "short"))
		g.access.RequireToken(testKey)
		dir, err := disk.OpenTree(g.root, false)
		if err != nil {
			t.Fatal(err)
		}
		s := NewServer(source.Local(dir), n.Logger())
		s.SetAccess(g.access)
		l := n.Start(&kwik.ServerConfig{OpenContent: s.OpenContent, Authorize: g.access.Authorize})
		n.Go(func() {
			s.Serve(n.Ctx, l)
			s.Close()
			dir.Close()
		})
		f(g)
	})
}

// dial connects a client with a credential.
func (g *guarded) dial(credential []byte) (*kwik.ClientSession, error) {
	conf := g.Client()
	conf.Credential = credential
	return kwik.DialAddr(g.Ctx, transfertest.ServerAddr.String(), g.TLS(), conf)
}

// mustDial is dial for a client that the server accepts. The session ends with f.
func (g *guarded) mustDial(credential []byte, f func(c *kwik.ClientSession)) {
	g.T.Helper()
	c, err := g.dial(credential)
	if err != nil {
		g.T.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	f(c)
}

// ask sends a request and returns the replies.
func (g *guarded) ask(c *kwik.ClientSession, request *transferpb.Request) []*transferpb.Reply {
	g.T.Helper()
	request.Version = wire.ProtocolVersion
	var b bytes.Buffer
	wire.WriteMessage(&b, request)
	replies, err := g.Ask(c, b.Bytes(), true)
	if err != nil || len(replies) == 0 {
		g.T.Fatalf("%v: %d replies, %v", request, len(replies), err)
	}
	return replies
}

// list returns the paths of a listing, those of restricted directories with a "*", and whether the
// directory itself is restricted.
func (g *guarded) list(
	c *kwik.ClientSession, path string, options *transferpb.ListRequest,
) (paths []string, restricted bool) {
	g.T.Helper()
	for _, reply := range g.ask(c, &transferpb.Request{Path: []byte(path), List: options}) {
		if f := reply.GetFailure(); f != nil {
			return []string{f.GetCode().String()}, false
		}
		for _, e := range reply.GetListing().GetEntries() {
			mark := ""
			if e.GetRestricted() {
				mark = "*"
			}
			paths = append(paths, string(e.GetPath())+mark)
		}
		restricted = reply.GetListing().GetRestricted()
	}
	return paths, restricted
}

func wantRefused(t *testing.T, err error, message string) {
	t.Helper()
	e, _ := errors.AsType[*kwik.Error](err)
	if !errors.Is(err, kwik.ErrAccessRefused) || !e.Remote || e.Message != message {
		t.Errorf("%v, want a refusal: %s", err, message)
	}
}

// Each token that is not valid has its own message, and opens no session.
func TestAccessTokens(t *testing.T) {
	guard(t, func(g *guarded) {
		g.access.SetRevoked([]string{"left"})
		valid := testToken(t, "lab", time.Hour, "")
		stale := testToken(t, "old", time.Minute, "")
		time.Sleep(time.Minute)
		foreign, _ := trust.AccessToken{Name: "lab", Paths: []string{""}, Issued: time.Now()}.Sign([32]byte{9})
		later := time.Now().Add(time.Hour)
		future, _ := trust.AccessToken{Name: "lab", Paths: []string{""}, Issued: later}.Sign(testKey)
		for message, credential := range map[string][]byte{
			wire.RefusedNoToken: nil,
			wire.RefusedExpired: stale,
			wire.RefusedNotYet:  []byte(future),
			wire.RefusedRevoked: testToken(t, "left", 0, "a/"),
		} {
			_, err := g.dial(credential)
			wantRefused(t, err, message)
		}
		for _, bad := range []string{foreign, "kwikcp1_", "x", string(valid[:len(valid)-1]), string(valid) + "\n"} {
			_, err := g.dial([]byte(bad))
			wantRefused(t, err, wire.RefusedToken)
		}
		g.mustDial(valid, func(c *kwik.ClientSession) {
			if got, restricted := g.list(c, "", &transferpb.ListRequest{Flat: true}); len(got) != 4 || restricted {
				t.Errorf("a token for everything sees %q, restricted %t", got, restricted)
			}
		})
		for _, want := range []string{"token=left", "token=old", wire.RefusedNoToken} {
			if !strings.Contains(g.Log.String(), want) {
				t.Errorf("the log has no %q", want)
			}
		}
	})
}

// A path that the token does not allow gets one answer, whether it exists or not and whatever is
// asked about it.
func TestAttackForbiddenPaths(t *testing.T) {
	guard(t, func(g *guarded) {
		g.mustDial(testToken(t, "lab", time.Hour, "a/b/"), func(c *kwik.ClientSession) {
			batchOfOne := &transferpb.BatchRequest{Paths: wire.AppendPath(nil, "", "x")}
			want := &transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{
				Code: transferpb.Failure_FORBIDDEN, Message: wire.RefusedPath,
			}}}
			for _, path := range []string{
				"top", "missing", "d/three", "d/missing", "a/other", "a/missing", "short/one", "a", "a/bb", "d", "",
			} {
				for kind, r := range map[string]*transferpb.Request{
					"file":  {Path: []byte(path)},
					"range": {Path: []byte(path), Range: &transferpb.ByteRange{Start: 1}},
					"list":  {Path: []byte(path), List: &transferpb.ListRequest{}},
					"batch": {Path: []byte(path), Batch: batchOfOne},
				} {
					onTheWay := path == "" || path == "a"
					if onTheWay && (kind == "list" || kind == "batch") {
						continue
					}
					if path == "" && kind != "list" && kind != "batch" {
						continue // names no file
					}
					if got := g.ask(c, r); len(got) != 1 || !proto.Equal(got[0], want) {
						t.Errorf("%s of %q: %v", kind, path, got)
					}
				}
			}
			// Of a batch each file is decided by itself.
			var paths []byte
			names, before := []string{"a/b/one", "a/missing", "a/other", "d/three", "short/one", "top"}, ""
			for _, name := range names {
				paths, before = wire.AppendPath(paths, before, name), name
			}
			var answers []string
			for _, reply := range g.ask(c, &transferpb.Request{Batch: &transferpb.BatchRequest{Paths: paths}}) {
				if f := reply.GetBatchFile(); f != nil {
					answers = append(answers, f.GetFailure().GetCode().String())
				}
			}
			no := "FORBIDDEN" // OTHER is the zero value: no failure
			if want := []string{"OTHER", no, no, no, no, no}; !slices.Equal(answers, want) {
				t.Errorf("batch: %q", answers)
			}
			// Traversal stays what it was.
			for _, path := range []string{"a/b/../other", "a/b/../../top", "a/b//one", "/a/b/one"} {
				for _, reply := range g.ask(c, &transferpb.Request{Path: []byte(path)}) {
					if reply.GetManifest() != nil {
						t.Errorf("%q is served", path)
					}
				}
			}
			// A link inside the scope is followed, since names count.
			got := g.ask(c, &transferpb.Request{Path: []byte("a/b/link")})
			if got[0].GetManifest().GetSize() != uint64(len("d/three")) {
				t.Errorf("the link: %v", got)
			}
		})
	})
}

// A listing has what the token allows, and the directories that lead there.
func TestListingViews(t *testing.T) {
	guard(t, func(g *guarded) {
		all := &transferpb.ListRequest{}
		flat := &transferpb.ListRequest{Flat: true}
		for _, c := range []struct {
			paths      []string // of the token
			dir        string
			options    *transferpb.ListRequest
			want       []string
			restricted bool
		}{
			{[]string{"a/b/"}, "", all, []string{"a*", "a/b", "a/b/c", "a/b/c/two", "a/b/link", "a/b/one"}, true},
			{[]string{"a/b/"}, "", flat, []string{"a*"}, true},
			{[]string{"a/b/"}, "a", flat, []string{"b"}, true},
			{[]string{"a/b/"}, "a/b", flat, []string{"c", "link", "one"}, false},
			{[]string{"a/b/"}, "a/b/c", flat, []string{"two"}, false},
			{[]string{"a/b/c/two", "top"}, "", all, []string{"a*", "a/b*", "a/b/c*", "a/b/c/two", "top"}, true},
			{[]string{"a/b/c/two"}, "a/b/c/two", all, []string{""}, false},
			{[]string{"missing/x", "a/gone/", "top/x", "short/one"}, "", all, []string{"a*"}, true},
			{[]string{"top/x"}, "top", all, []string{"FORBIDDEN"}, false},
			{[]string{"short/"}, "", all, []string{"short"}, true},
			{[]string{"short/"}, "short", flat, []string{"c", "link", "one"}, false},
			{[]string{"d"}, "", all, []string{"d*"}, true}, // without the slash nothing below it is allowed
			{[]string{"d"}, "d", all, nil, true},
			{[]string{"a", "a/b/one"}, "a", flat, []string{"b*"}, true},
			{[]string{""}, "", flat, []string{"a", "d", "short", "top"}, false},
			{[]string{"d/"}, "", &transferpb.ListRequest{After: []byte("a/b/c")}, []string{"d", "d/three"}, true},
			{[]string{"d/"}, "", &transferpb.ListRequest{After: []byte("a/b/c"), Limit: 1}, []string{"d"}, true},
			{[]string{"d/"}, "", &transferpb.ListRequest{After: []byte("a")}, []string{"d", "d/three"}, true},
		} {
			g.mustDial(testToken(t, "lab", time.Hour, c.paths...), func(s *kwik.ClientSession) {
				got, restricted := g.list(s, c.dir, c.options)
				if !slices.Equal(got, c.want) || restricted != c.restricted {
					t.Errorf("%q in %q: %q, restricted %t; want %q, %t",
						c.paths, c.dir, got, restricted, c.want, c.restricted)
				}
			})
		}
	})
}

// A session ends with its token: at once when the token is revoked, and when it expires. Others
// continue. The client cannot connect again.
func TestAttackTokenOutlived(t *testing.T) {
	guard(t, func(g *guarded) {
		revoked, expiring := testToken(t, "left", 0, ""), testToken(t, "short", 10*time.Second, "")
		open := func(credential []byte) *kwik.ClientSession {
			c, err := g.dial(credential)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		one, two, three := open(revoked), open(expiring), open(testToken(t, "stays", time.Hour, ""))
		defer func() {
			for _, c := range []*kwik.ClientSession{one, two, three} {
				c.CloseWithError(0, "")
			}
		}()
		synctest.Wait()
		start := time.Now()
		g.access.SetRevoked([]string{"left", "unknown"})
		<-one.Context().Done()
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("a revoked session ended after %v", took)
		}
		wantRefused(t, context.Cause(one.Context()), wire.RefusedRevoked)
		<-two.Context().Done()
		if took := time.Since(start); took < 9*time.Second || took > 10*time.Second+100*time.Millisecond {
			t.Errorf("the session of an expired token ended after %v", took)
		}
		wantRefused(t, context.Cause(two.Context()), wire.RefusedSession)
		for message, credential := range map[string][]byte{
			wire.RefusedRevoked: revoked, wire.RefusedExpired: expiring,
		} {
			_, err := g.dial(credential)
			wantRefused(t, err, message)
		}
		if got := g.ask(three, &transferpb.Request{Path: []byte("top")}); got[0].GetManifest() == nil {
			t.Errorf("another session: %v", got)
		}
		g.access.SetRevoked(nil) // the name is valid again
		open(revoked).CloseWithError(0, "")
	})
}

// A request is checked by itself as well: a session that is still open serves nothing with a token
// that has ended.
func TestRequestsAreChecked(t *testing.T) {
	guard(t, func(g *guarded) {
		g.mustDial(testToken(t, "lab", time.Hour, ""), func(c *kwik.ClientSession) {
			g.access.mu.Lock()
			g.access.revoked = map[string]bool{"lab": true} // without an end of the sessions
			g.access.mu.Unlock()
			ask := func() *transferpb.Failure {
				return g.ask(c, &transferpb.Request{Path: []byte("top")})[0].GetFailure()
			}
			if f := ask(); f.GetMessage() != wire.RefusedRevoked || f.GetCode() != transferpb.Failure_FORBIDDEN {
				t.Errorf("revoked: %v", f)
			}
			g.access.SetRevoked(nil)
			g.access.now = func() time.Time { return time.Now().Add(2 * time.Hour) } // the clock was set
			if f := ask(); f.GetMessage() != wire.RefusedExpired {
				t.Errorf("expired: %v", f)
			}
			g.access.now = time.Now
		})
	})
}

// A server whose listener does not ask its Access serves nothing.
func TestAccessWithoutAuthorize(t *testing.T) {
	transfertest.OnNet(t, func(n *transfertest.Net) {
		dir, err := disk.OpenTree(t.TempDir(), false)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		s := NewServer(source.Local(dir), n.Logger())
		s.SetAccess(NewAccess(n.Logger()))
		n.Serve(s)
		c, err := kwik.DialAddr(n.Ctx, transfertest.ServerAddr.String(), n.TLS(), n.Client())
		if err == nil {
			<-c.Context().Done()
			err = context.Cause(c.Context())
			c.CloseWithError(0, "")
		}
		wantRefused(t, err, wire.RefusedNoToken)
	})
}

// An authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, parent *authority) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = makeCert(t, parent, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.ExtKeyUsage = nil
	})
	return a
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// makeCert makes the certificate of a client, signed by parent or by itself.
func makeCert(t *testing.T, parent *authority, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "lab7"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	signer, by := key, template
	if parent != nil {
		signer, by = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Client certificates are verified with their authority, dates and usage. With tokens as well, both
// must hold, and the earlier end counts.
func TestAccessCertificates(t *testing.T) {
	ours, theirs := newAuthority(t, nil), newAuthority(t, nil)
	middle := newAuthority(t, ours)
	client := func(parent *authority, change func(*x509.Certificate)) []*x509.Certificate {
		cert, _ := makeCert(t, parent, change)
		return []*x509.Certificate{cert}
	}
	same := func(*x509.Certificate) {}
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	notYet := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	ofServer := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	good := client(ours, same)
	chain := append(client(middle, same), middle.cert)
	token := testToken(t, "lab", 10*time.Minute, "a/")
	type state struct{ token, certificate bool }
	for _, c := range []struct {
		name       string
		needs      state
		chain      []*x509.Certificate
		credential []byte
		message    string // empty if it is accepted
		scope      scope
	}{
		{"nothing needed", state{}, nil, nil, "", everything},
		{"a certificate", state{certificate: true}, good, nil, "", everything},
		{"a chain", state{certificate: true}, chain, nil, "", everything},
		{"a chain without its middle", state{certificate: true}, chain[:1], nil, wire.RefusedCert, nil},
		{"no certificate", state{certificate: true}, nil, token, wire.RefusedNoCert, nil},
		{"another authority", state{certificate: true}, client(theirs, same), nil, wire.RefusedCert, nil},
		{"signed by itself", state{certificate: true}, client(nil, same), nil, wire.RefusedCert, nil},
		{"expired", state{certificate: true}, client(ours, expired), nil, wire.RefusedCertDates, nil},
		{"not yet", state{certificate: true}, client(ours, notYet), nil, wire.RefusedCertDates, nil},
		{"a server's", state{certificate: true}, client(ours, ofServer), nil, wire.RefusedCert, nil},
		{"both", state{true, true}, good, token, "", scope{"a/"}},
		{"both, no token", state{true, true}, good, nil, wire.RefusedNoToken, nil},
		{"both, a bad token", state{true, true}, good, []byte("x"), wire.RefusedToken, nil},
		{"both, no certificate", state{true, true}, nil, token, wire.RefusedNoCert, nil},
		{"a token that is not needed", state{}, nil, []byte("anything"), "", everything},
	} {
		n := transfertest.Net{}
		a := NewAccess(n.Logger())
		if c.needs.token {
			a.RequireToken(testKey)
		}
		if c.needs.certificate {
			a.RequireCertificate(ours.pool())
		}
		got, err := a.Authorize(kwik.AuthorizeRequest{
			TLS: tls.ConnectionState{PeerCertificates: c.chain}, RemoteAddr: &net.UDPAddr{}, Credential: c.credential,
		})
		if c.message != "" {
			e, _ := errors.AsType[*kwik.Error](err)
			if !errors.Is(err, kwik.ErrAccessRefused) || e.Message != c.message {
				t.Errorf("%s: %v, want %q", c.name, err, c.message)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		g := got.Value.(*grant)
		if !reflect.DeepEqual(g.scope, c.scope) || (g.subject == "") == c.needs.certificate {
			t.Errorf("%s: grant %+v", c.name, g)
		}
		if c.needs.certificate && c.needs.token && got.Expires.After(time.Now().Add(11*time.Minute)) {
			t.Errorf("%s: expires at %v", c.name, got.Expires)
		}
		want := map[state]string{
			{}: "open", {true, false}: "token", {false, true}: "certificate", {true, true}: "token+certificate",
		}[c.needs]
		if a.String() != want {
			t.Errorf("%s: %q, want %q", c.name, a, want)
		}
	}
	if got := fmt.Sprint((*Access)(nil)); got != "open" {
		t.Errorf("no Access is %q", got)
	}
}
