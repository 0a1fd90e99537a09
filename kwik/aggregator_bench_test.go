package kwik

import (
	"io"
	"sync"
	"testing"
	"time"

	"kwikcp/kwik/internal/sched"
)

// BenchmarkSecondaryStreamAggregation measures the cost of aggregation on top of QUIC: scheduler,
// offsets, blocks and locks. It has no network, no verification and no disk.
func BenchmarkSecondaryStreamAggregation(b *testing.B) {
	b.Run("ordered", func(b *testing.B) {
		buf := make([]byte, 256<<10)
		benchmarkAggregation(b, func(a *streamAggregator) error {
			for {
				if _, err := a.read(buf); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	})
	b.Run("unordered", func(b *testing.B) {
		benchmarkAggregation(b, func(a *streamAggregator) error {
			discard := writerFunc(func(p []byte, _ int64) (int, error) { return len(p), nil })
			_, err := a.copyTo(b.Context(), discard, nil)
			return err
		})
	})
	b.Run("latency", benchmarkAggregationLatency)
	b.Run("short frames", func(b *testing.B) { benchmarkShortFrames(b, dataFrameSize) })
	b.Run("short frames one by one", func(b *testing.B) { benchmarkShortFrames(b, -1) })
}

// newBenchAggregator returns an aggregator of size bytes in units of 64 KiB. Each source's grants
// go to a channel.
func newBenchAggregator(b *testing.B, size uint64, ids ...PathID) (*streamAggregator, map[PathID]chan sched.Action) {
	u, err := newUnits(size, 64<<10, nil)
	if err != nil {
		b.Fatal(err)
	}
	conf := (&ClientConfig{}).populate()
	a := newStreamAggregator(b.Context(), firstAggregateStreamID, u, uint64(u.Size()), nil, conf)
	grants := make(map[PathID]chan sched.Action)
	for _, id := range ids {
		grants[id] = make(chan sched.Action, 1<<16) // sendAction must not block
	}
	a.attachSources, a.expectsSource, a.done = func() {}, func() bool { return true }, func() {}
	a.sendAction = func(action sched.Action) {
		if action.Kind == sched.ActionGrant {
			grants[PathID(action.Source)] <- action
		}
	}
	for _, id := range ids {
		a.attach(id, func() time.Duration { return 100 * time.Microsecond })
		a.synchronise(id, 0, grantQueueLimit, 0)
	}
	return a, grants
}

// benchmarkAggregation moves a stream from three sources to a consumer.
func benchmarkAggregation(b *testing.B, consume func(a *streamAggregator) error) {
	const size = 256 << 20
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		a, grants := newBenchAggregator(b, size, "a", "b", "c")
		var wg sync.WaitGroup
		for id, granted := range grants {
			a.mu.Lock()
			src := a.sources[id]
			a.mu.Unlock()
			wg.Go(func() {
				for {
					select {
					case <-a.ctx.Done():
						return
					case g := <-granted:
						for off := g.Start; off < g.End; {
							next := a.units.Cut(off, dataFrameSize, g.End)
							src.received.Add(next - off)
							a.deliver(src, g.Grant, off, newBlock(int(next-off)))
							off = next
						}
						a.ended(src, g.Grant, nil)
					}
				}
			})
		}
		if err := consume(a); err != nil {
			b.Fatal(err)
		}
		a.close()
		wg.Wait()
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N)/(size/dataFrameSize), "ms/frame")
}

// benchmarkAggregationLatency measures the time from a frame's arrival to the return of its
// reader, a waiting goroutine. It includes the copy of the 64 KiB out of the block. An ordered
// reader waits so much longer than a reader of a QUIC stream.
func benchmarkAggregationLatency(b *testing.B) {
	const frame = 64 << 10
	a, grants := newBenchAggregator(b, 1<<40, "a")
	read := make(chan time.Time)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, frame)
		for {
			if n, err := a.read(buf); n != frame || err != nil {
				return
			}
			select {
			case read <- time.Now():
			case <-quit:
				return
			}
		}
	})
	src := a.sources["a"] // nothing changes it concurrently
	var g sched.Action
	var total time.Duration
	n := 0
	for b.Loop() {
		if g.Start == g.End {
			if g.Grant != 0 {
				a.ended(src, g.Grant, nil)
			}
			g = <-grants["a"]
		}
		block := newBlock(frame)
		src.received.Add(frame)
		arrived := time.Now()
		a.deliver(src, g.Grant, g.Start, block)
		total += (<-read).Sub(arrived)
		g.Start += frame
		n++
	}
	close(quit)
	a.close()
	wg.Wait()
	b.ReportMetric(total.Seconds()*1e3/float64(n), "ms/frame")
}

// benchmarkShortFrames measures the cost of a peer that writes frames of 64 bytes.
func benchmarkShortFrames(b *testing.B, batch int) {
	const frame, count = 64, 1 << 14
	var raw []byte
	for range count {
		raw = append(appendDataHeader(raw, frame), make([]byte, frame)...)
	}
	u, err := newUnits(frame*count, frame, nil)
	if err != nil {
		b.Fatal(err)
	}
	conf := (&ClientConfig{}).populate()
	b.SetBytes(frame * count)
	deliveries, loops := 0, 0
	for b.Loop() {
		a := newStreamAggregator(b.Context(), firstAggregateStreamID, u, frame, nil, conf)
		a.attachSources, a.done, a.sendAction = func() {}, func() {}, func(sched.Action) {}
		a.expectsSource = func() bool { return true }
		a.attach("a", func() time.Duration { return 0 })
		a.mode = consumerUnordered
		a.w = writerFunc(func(p []byte, _ int64) (int, error) { deliveries++; return len(p), nil })
		h := newSecondaryStreamHandler(nil, nil, conf)
		id := secondaryStreamID{"a", 3}
		mapping, err := h.mappings.create(id, a.id, 1, 0, a.units.Total(), time.Now())
		if err != nil {
			b.Fatal(err)
		}
		reader := &frameReader{r: &piecewise{rest: raw}}
		in := &intake{h: h, a: a, src: a.sources["a"], mapping: mapping, frames: reader, batch: batch}
		in.info = &secondaryStreamInfo{}
		if err := h.receive(&metadataProtocol{r: reader, id: 3}, in, u.Total()); err != io.EOF {
			b.Fatal(err)
		}
		a.close()
		loops++
	}
	b.ReportMetric(float64(deliveries)/float64(loops)/count, "deliveries/frame")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(loops)/count, "ns/frame")
}

// piecewise is a reader that fills p with the remaining bytes.
type piecewise struct{ rest []byte }

func (r *piecewise) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
