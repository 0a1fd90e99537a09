package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// localWeb is an external source for streams without a session.
func localWeb(t *testing.T, id ServerID, data []byte) *webServer {
	t.Helper()
	return (&world{t: t, data: data}).web(ExternalConfig{ID: id, MinExtent: 256 << 10})
}

// A local stream takes its bytes from external sources alone, and bans the one that lies.
func TestLocalStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := randomBytes(1, 9<<20+777)
		verify := func(_ ServerID, off int64, p []byte) error {
			if !bytes.Equal(p, data[off:off+int64(len(p))]) {
				return errors.New("wrong")
			}
			return nil
		}
		for _, unit := range []int64{1, 300_007, 1 << 20, MaxLocalUnit} {
			s, err := NewLocalStream(t.Context(), int64(len(data)), unit, verify, nil)
			if err != nil {
				t.Fatal(err)
			}
			good, bad := localWeb(t, "web:good", data), localWeb(t, "web:bad", make([]byte, len(data)))
			for _, web := range []*webServer{good, bad} {
				if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
					t.Fatal(err)
				}
			}
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("unit %d: %d bytes, %v", unit, len(got), err)
			}
			if g, b := good.Stats().State, bad.Stats().State; g != PathActive || b != PathBanned {
				t.Errorf("unit %d: the states are %v and %v", unit, g, b)
			}
			s.Close()
		}
		if _, err := NewLocalStream(t.Context(), 1, MaxLocalUnit+1, verify, nil); err == nil {
			t.Error("a unit is too large")
		}
	})
}

// A local stream without a source that delivers ends.
func TestLocalStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := randomBytes(1, 1<<20)
		errDown := errors.New("down")
		for _, err := range []error{&FetchError{Err: errDown, Permanent: true}, errDown, nil} {
			ctx, cancel := context.WithCancel(t.Context())
			s, failed := NewLocalStream(ctx, int64(len(data)), 1, nil, &ClientConfig{OutageTimeout: 40 * time.Second})
			if failed != nil {
				t.Fatal(failed)
			}
			if err != nil {
				web := localWeb(t, "web:1", data)
				web.fault = func(int, int64, int64) error { return err }
				s.AddExternal(web.ExternalSource, web.fetch)
			}
			begun := time.Now()
			_, failed = s.Read(make([]byte, 1))
			wantError(t, failed, ErrAggregationTimeout)
			took := time.Since(begun)
			if isTooEarly := err == errDown && took < 30*time.Second; isTooEarly || took > 50*time.Second {
				t.Errorf("%v: it took %v", err, took)
			}
			s.Close()
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		s, _ := NewLocalStream(ctx, 5, 1, nil, nil)
		cancel()
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("it outlives its context")
		}
		s.Close()
	})
}
