package transfer

import (
	"bytes"
	"strconv"
	"sync"
	"testing"

	"kwikcp/kwik"
)

// TestHeadStartsLeaveRoomForWhatTheyNeed checks many requests at once with the smallest window.
// The client cannot read a head start before its offer and the reply. All three share the
// connection's flow control, so a head start must leave room for the other two.
func TestHeadStartsLeaveRoomForWhatTheyNeed(t *testing.T) {
	for _, limit := range []int64{0, 64 << 10, 2 << 20, 64 << 20} {
		t.Run(strconv.FormatInt(limit, 10), func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.serveFiles(map[string][]byte{"file": theFile})
				conf := w.Client()
				if limit > 0 {
					conf.RateLimit = kwik.NewRateLimit(limit)
				}
				var pool Pool
				defer pool.Close()
				var wg sync.WaitGroup
				for range 24 {
					wg.Go(func() {
						got, _, err := w.get(func(o *GetOptions) { o.KWIK, o.Pool = conf, &pool })
						if err != nil || !bytes.Equal(got, theFile) {
							t.Errorf("%d bytes, %v", len(got), err)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}
