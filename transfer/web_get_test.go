package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kwikcp/integrity"
	"kwikcp/kwik"
)

const testPiece = 100_003 // bytes; no power of two

// piecesOf returns the hashes of the pieces of a content.
func piecesOf(content []byte, piece int) (hashes []byte) {
	for off := 0; off < len(content); off += piece {
		h := sha256.Sum256(content[off:min(off+piece, len(content))])
		hashes = append(hashes, h[:]...)
	}
	return hashes
}

// sumOf returns the SHA-256 checksum of a content.
func sumOf(t *testing.T, content []byte) []Checksum {
	t.Helper()
	c, err := ParseChecksum(fmt.Sprintf("sha256=%x", sha256.Sum256(content)))
	if err != nil {
		t.Fatal(err)
	}
	return []Checksum{c}
}

// webOnly returns a server for a handler.
func webOnly(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

func contentHandler(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// aloneOptions are the options of a get of a file from servers, with pieces.
func aloneOptions(t *testing.T, content []byte, servers ...*httptest.Server) GetOptions {
	t.Helper()
	o := GetOptions{
		Target: filepath.Join(t.TempDir(), "copy"), Web: WebOptions{Roots: x509.NewCertPool(), minExtent: 128 << 10},
		WebFile: WebFile{
			HasSize: true, Size: int64(len(content)), PieceSize: testPiece, Pieces: piecesOf(content, testPiece),
		},
	}
	for i, s := range servers {
		o.Web.Roots.AddCert(s.Certificate())
		o.WebFile.Mirrors = append(o.WebFile.Mirrors, WebMirror{Template: s.URL + "/file", Priority: i})
	}
	return o
}

// wholeOptions are aloneOptions with a hash of the whole file instead of pieces.
func wholeOptions(t *testing.T, content []byte, servers ...*httptest.Server) GetOptions {
	t.Helper()
	o := aloneOptions(t, content, servers...)
	o.WebFile.PieceSize, o.WebFile.Pieces, o.Checksums = 0, nil, sumOf(t, content)
	return o
}

// getAlone gets a file and compares it.
func getAlone(t *testing.T, o GetOptions, content []byte, proof Proof) Result {
	t.Helper()
	result, err := Get(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err, result.Servers)
	}
	got, err := os.ReadFile(o.Target)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if result.Proof != proof || result.Root != (integrity.Root{}) {
		t.Errorf("proof %q, root %v", result.Proof, result.Root)
	}
	return result
}

func TestGetFromMirrorsAlone(t *testing.T) {
	for _, size := range []int{0, 1, testPiece, 3 << 20} {
		content := someBytes(1, size)
		servers := []*httptest.Server{webOnly(t, contentHandler(content)), webOnly(t, contentHandler(content))}
		for proof, o := range map[Proof]GetOptions{
			ProofPieces: aloneOptions(t, content, servers...), ProofWhole: wholeOptions(t, content, servers...),
		} {
			result := getAlone(t, o, content, proof)
			used := 0
			for _, s := range fromWeb(result.Servers) {
				if s.Bytes > 0 {
					used++
				}
			}
			if want := min(size/(1<<20), 2); used < want || result.Bytes != int64(size) {
				t.Errorf("%d bytes from %+v", size, result.Servers)
			}
			if again := getAlone(t, o, content, proof); !again.UpToDate {
				t.Errorf("%d bytes, %s: fetched again", size, proof)
			}
			o.Target = ""
			var out bytes.Buffer
			o.Output = &out
			if _, err := Get(t.Context(), o, nil); err != nil || !bytes.Equal(out.Bytes(), content) {
				t.Errorf("output of %d bytes, %s: %d, %v", size, proof, out.Len(), err)
			}
		}
	}
}

// A mirror that fails in mid-transfer costs no byte of the file, without a primary, too.
func TestGetFromMirrorsAloneWithFaults(t *testing.T) {
	content := someBytes(1, 2<<20)
	other := webOnly(t, contentHandler(content))
	plain := httptest.NewServer(contentHandler(content))
	defer plain.Close()
	slow := webOnly(t, func(w http.ResponseWriter, r *http.Request) {
		contentHandler(content)(&faultyWriter{w, 0, func(w http.ResponseWriter, p []byte) {
			time.Sleep(time.Duration(len(p)) * time.Microsecond) // 1 MB/s a request
			w.Write(p)
		}}, r)
	})
	var wg sync.WaitGroup
	for name, fault := range webFaults(content, other.URL, plain.URL) {
		wg.Go(func() {
			t.Run(name, func(t *testing.T) {
				h, _ := faultyHandler(content, fault)
				result := getAlone(t, aloneOptions(t, content, slow, webOnly(t, h)), content, ProofPieces)
				for _, m := range fromWeb(result.Servers) {
					if isBanned := m.State == ServerBanned; isBanned && fault.state != ServerBanned {
						t.Errorf("%+v", m)
					}
				}
			})
		})
	}
	wg.Wait()
}

// Without pieces a wrong mirror is found by fetching from each one alone.
func TestGetFromMirrorsFindsTheLiar(t *testing.T) {
	content := someBytes(1, 2<<20)
	wrong := bytes.Clone(content)
	for off := 0; off < len(wrong); off += 100_000 {
		wrong[off]++
	}
	good := webOnly(t, contentHandler(content))
	bad := func() *httptest.Server { return webOnly(t, contentHandler(wrong)) }
	result := getAlone(t, wholeOptions(t, content, bad(), good, bad()), content, ProofWhole)
	banned := 0
	for _, m := range fromWeb(result.Servers) {
		if m.State == ServerBanned {
			banned++
		}
	}
	if banned != 1 { // the third one is not tried alone
		t.Errorf("%+v", result.Servers)
	}
	for _, o := range []GetOptions{wholeOptions(t, content, bad(), bad()), aloneOptions(t, content, bad(), bad())} {
		result, err := Get(t.Context(), o, nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindIntegrity {
			t.Errorf("%s: %v, %+v", result.Proof, err, result.Servers)
		}
		if entries, _ := os.ReadDir(filepath.Dir(o.Target)); len(entries) > 0 {
			t.Errorf("%s: %v is left", result.Proof, entries)
		}
	}
}

// Verified pieces are kept, and only the others are fetched later.
func TestGetFromMirrorsResumes(t *testing.T) {
	content := someBytes(1, 3<<20)
	s := webOnly(t, contentHandler(content))
	interrupt := errors.New("interrupted")
	for proof, o := range map[Proof]GetOptions{
		ProofPieces: aloneOptions(t, content, s), ProofWhole: wholeOptions(t, content, s),
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		o.KWIK = &kwik.ClientConfig{Config: kwik.Config{RateLimit: kwik.NewRateLimit(4 << 20)}}
		result, err := Get(ctx, o, &interrupter{at: 300_000, interrupt: func() { cancel(interrupt) }})
		cancel(nil)
		if isKept := proof == ProofPieces; err != interrupt || result.Kept != isKept {
			t.Fatalf("%s: %v, kept %t of %d", proof, err, result.Kept, result.Bytes)
		}
		o.KWIK = nil
		result = getAlone(t, o, content, proof)
		if isResumed := result.Resumed > 200_000; isResumed != (proof == ProofPieces) {
			t.Errorf("%s: %d bytes were resumed", proof, result.Resumed)
		}
	}
}

// An interrupter is a Reporter that interrupts a transfer when so many bytes are in place.
type interrupter struct {
	NoReport
	at        int64
	interrupt func()
}

func (i *interrupter) Progress(p Progress) {
	if p.Bytes >= i.at {
		i.interrupt()
	}
}

func TestGetFromMirrorsAloneErrors(t *testing.T) {
	content := someBytes(1, 300_000)
	status := func(code int) *httptest.Server {
		return webOnly(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	closed := httptest.NewTLSServer(nil)
	closed.Close()
	good := webOnly(t, contentHandler(content))
	for name, tt := range map[string]struct {
		servers []*httptest.Server
		change  func(*GetOptions)
		kind    Kind
	}{
		"missing everywhere": {[]*httptest.Server{status(404), status(410)}, nil, KindNotFound},
		"forbidden":          {[]*httptest.Server{status(403), status(401)}, nil, KindRefused},
		"mixed":              {[]*httptest.Server{status(403), status(404)}, nil, KindNetwork},
		"nothing listens":    {[]*httptest.Server{closed}, nil, KindNetwork},
		"no mirror":          {nil, nil, KindOther},
		"no size":            {[]*httptest.Server{good}, func(o *GetOptions) { o.WebFile.HasSize = false }, KindOther},
		"no hash":            {[]*httptest.Server{good}, func(o *GetOptions) { o.WebFile.PieceSize = 0 }, KindOther},
		"wrong number": {
			[]*httptest.Server{good}, func(o *GetOptions) { o.WebFile.Pieces = o.WebFile.Pieces[32:] }, KindOther,
		},
		"large pieces": {
			[]*httptest.Server{good}, func(o *GetOptions) { o.WebFile.PieceSize = MaxPiece + 1 }, KindOther,
		},
		"negative": {[]*httptest.Server{good}, func(o *GetOptions) { o.WebFile.PieceSize = -1 }, KindOther},
		"too short": {
			[]*httptest.Server{webOnly(t, contentHandler(content[1:]))}, nil, KindNetwork,
		},
		"contradiction": {
			[]*httptest.Server{good}, func(o *GetOptions) { o.Checksums = sumOf(t, content[1:]) }, KindIntegrity,
		},
	} {
		o := aloneOptions(t, content, tt.servers...)
		o.ConnectTimeout = 2 * time.Second
		if tt.change != nil {
			tt.change(&o)
		}
		result, err := Get(t.Context(), o, nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != tt.kind || result.Path != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The rate limit holds for mirrors without a primary.
func TestGetFromMirrorsAloneIsLimited(t *testing.T) {
	content := someBytes(1, 1<<20)
	o := aloneOptions(t, content, webOnly(t, contentHandler(content)))
	o.KWIK = &kwik.ClientConfig{Config: kwik.Config{RateLimit: kwik.NewRateLimit(2 << 20)}}
	begun := time.Now()
	getAlone(t, o, content, ProofPieces)
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("1 MiB at 2 MiB/s took %v", took)
	}
}

// An expected size that the primary's file does not have is an error before anything is fetched.
func TestGetWebFileOfAnotherSize(t *testing.T) {
	w := newWebWorld(t, map[string][]byte{"file": someBytes(1, 1000)})
	o := GetOptions{URL: URL{Host: w.primary.Addr().String(), Path: "file"}, TLS: w.tls(),
		Target: filepath.Join(t.TempDir(), "x"), WebFile: WebFile{HasSize: true, Size: 1001}}
	_, err := Get(t.Context(), o, nil)
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindIntegrity {
		t.Error(err)
	}
	o.WebFile.Size = 1000
	if result, err := Get(t.Context(), o, nil); err != nil || result.Proof != ProofTree {
		t.Error(result.Proof, err)
	}
}
