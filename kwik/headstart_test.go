package kwik

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// offerWithHeadStart is offer with a head start.
func (w *world) offerWithHeadStart(
	client *ClientSession, server *ServerSession, n int64, verify ProofFunc,
) (*AggregateReader, *AggregateStream) {
	w.t.Helper()
	return w.offerNamed(client, server, "data", n, verify)
}

// offerNamed is offerWithHeadStart with another descriptor.
func (w *world) offerNamed(
	client *ClientSession, server *ServerSession, descriptor string, n int64, verify ProofFunc,
) (*AggregateReader, *AggregateStream) {
	w.t.Helper()
	o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: int64(len(w.data)), Alignment: unit, Descriptor: []byte(descriptor), HeadStart: n})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.accept(client, o.StreamID(), verify), o
}

// A head start arrives with its stream, without a grant. Only the bytes after it take a round
// trip.
func TestHeadStart(t *testing.T) {
	const rtt = 400 * time.Millisecond
	link := simnet.Link{Latency: rtt / 4}
	for _, c := range []struct {
		size  int
		n     int64
		trips time.Duration
	}{
		{10_000, 0, 1}, {10_000, 1, 1}, // less than a unit, which is the whole stream
		{10_000, 10_000, 0}, {10_000, maxHeadStart, 0},
	} {
		inWorldOf(t, c.size, 0, link, func(w *world) {
			client, server := w.dial(nil)
			stream, _ := w.offerWithHeadStart(client, server, c.n, nil)
			begun := time.Now()
			w.copy(stream).wantAll()
			if trips := time.Since(begun).Round(rtt/20) / rtt; trips != c.trips {
				w.t.Errorf("%+v: %v after the offer", c, time.Since(begun))
			}
			if st := stream.Stats(); st.Wasted != 0 {
				w.t.Errorf("%+v: %d bytes wasted", c, st.Wasted)
			}
		})
	}
}

// The lengths to which a head start is cut.
func TestHeadStartLength(t *testing.T) {
	for _, c := range []struct {
		size, align, n int64
		secondaries    int
		want           int64
	}{
		{100, 64, 0, 0, 0},
		{100, 64, -1, 0, 0},
		{100, 64, 63, 0, 0},
		{100, 64, 99, 0, 64},
		{100, 64, 1000, 0, 100},
		{100, 64, 1000, 9, 100}, // too small to be shared
		{6000, 64, 4000, 2, 1984},
		{8 << 20, 1 << 10, 8 << 20, 0, maxHeadStart},
	} {
		u, err := newUnits(uint64(c.size), uint64(c.align), nil)
		if err != nil {
			t.Fatal(err)
		}
		spec := &AggregateStreamSpec{HeadStart: c.n}
		if got := spec.headStartLength(u, c.secondaries); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
		spec.Pushed = true
		if got := spec.headStartLength(u, c.secondaries); got != 0 {
			t.Errorf("%+v, pushed: %d", c, got)
		}
	}
}

// Reserved head starts leave half of the connection's window and streams free. A reservation
// can be released once, and then reserved again.
func TestReserveHeadStart(t *testing.T) {
	const room = 5 * maxHeadStart
	s := newClientSession(nil, (&ClientConfig{Config: Config{QUIC: &quic.Config{InitialConnectionReceiveWindow: 2 * room}}}).populate())
	var releases []func()
	for i, c := range []struct{ n, want int64 }{
		{-1, 0}, {0, 0}, {maxHeadStart + 1, maxHeadStart}, {maxHeadStart - 4, maxHeadStart - 4}, {maxHeadStart, (3*maxHeadStart + 4) / 4}, {1, 1},
	} {
		got, release := s.ReserveHeadStart(c.n)
		if got != c.want {
			t.Errorf("%d: %d of %d, want %d", i, got, c.n, c.want)
		}
		releases = append(releases, release)
	}
	for _, release := range releases {
		release()
		release()
	}
	if s.headStartRoom != room || s.headStarts != 0 {
		t.Errorf("%d bytes of room afterwards, %d before; %d head starts", s.headStartRoom, room, s.headStarts)
	}
	for i := range 2 * s.config.SecondaryStreams.MaxStreamsPerPath {
		if got, _ := s.ReserveHeadStart(1); (got == 1) != (i < s.config.SecondaryStreams.MaxStreamsPerPath/2) {
			t.Errorf("%d bytes for head start %d", got, i)
		}
	}
}

// A head start need not be read. It costs no more than QUIC's windows, and ends with its
// stream.
func TestHeadStartThatNobodyReads(t *testing.T) {
	inWorldOf(t, 3*unit, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		for range 3 * client.config.SecondaryStreams.MaxStreamsPerPath {
			stream, o := w.offerWithHeadStart(client, server, unit, nil)
			synctest.Wait()
			stream.Close()
			<-o.Context().Done()
		}
		stream, _ := w.offerWithHeadStart(client, server, unit, nil)
		w.copy(stream).wantAll()
	})
}

// A primary that announces a head start and does not begin it is stalled: the other servers
// deliver its bytes.
func TestHeadStartThatNeverComes(t *testing.T) {
	inWorldOf(t, 9*unit, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 9 * unit, Alignment: unit, Descriptor: []byte("data"), HeadStart: unit, HeadStartAfter: make(chan struct{})})
		if err != nil {
			w.t.Fatal(err)
		}
		stream := w.accept(client, o.StreamID(), nil)
		begun := time.Now()
		w.copy(stream).wantAll()
		if took := time.Since(begun); took > 2*sched.MinStall {
			w.t.Errorf("it took %v", took)
		}
	})
}

// A head start may deliver bytes that the client has already, or does not want yet. The former
// count as wasted, the latter wait.
func TestHeadStartOfWhatIsHad(t *testing.T) {
	inWorldOf(t, 4*unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		stream, _ := w.offerWithHeadStart(client, server, 2*unit, w.prove)
		if err := stream.SetLimit(unit); err != nil {
			w.t.Fatal(err)
		}
		w.wg.Go(func() {
			time.Sleep(time.Second)
			stream.SetLimit(4 * unit)
		})
		sink := newSink(4 * unit)
		if _, err := stream.CopyTo(context.Background(), sink, &CopyOptions{Have: []Range{{0, unit}}}); err != nil {
			w.t.Fatal(err)
		}
		if sink.twice || sink.seen.Total() != 3*unit || stream.Stats().Wasted != unit {
			w.t.Errorf("%d bytes written, %d wasted", sink.seen.Total(), stream.Stats().Wasted)
		}
	})
}

// Data that overtakes its offer continues when the offer arrives, however late, and not at the
// next retry. The packet with the offer may be lost, and the network may fail for a while.
func TestHeadStartBeforeItsOffer(t *testing.T) {
	for _, late := range []time.Duration{400 * time.Millisecond, 20 * time.Second} { // retries are due after 310 and 630 ms; QUIC gives up after 30 s
		inFakePrimaryScene(t, func(w *world, client *ClientSession, primary *fakePeer) {
			id := firstAggregateStreamID
			x := primary.extent(wireOpen(id, 1, 0), wireData(w.data), wireClose(unit))
			x.Close()
			time.Sleep(late)
			primary.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(id), Size: unit, HeadStart: unit})
			stream := w.accept(client, id, nil)
			begun := time.Now()
			w.copy(stream).wantAll()
			if took := time.Since(begun); took > 0 {
				w.t.Errorf("it took %v", took)
			}
		})
	}
}

// A head start is bounded like a grant, and by the limits of head starts.
func TestHeadStartBreaksTheRules(t *testing.T) {
	for name, c := range map[string]struct {
		offer *kwikpb.StreamOffer
		data  []byte
	}{
		"pushed":            {&kwikpb.StreamOffer{Size: unit, Alignment: 4096, HeadStart: 4096, Pushed: true}, nil},
		"beyond the stream": {&kwikpb.StreamOffer{Size: unit, Alignment: 4096, HeadStart: unit + 1}, nil},
		"part of a unit":    {&kwikpb.StreamOffer{Size: unit, Alignment: 4096, HeadStart: 4097}, nil},
		"too long":          {&kwikpb.StreamOffer{Size: 4 << 20, Alignment: 4096, HeadStart: maxHeadStart + 4096}, nil},
		"a huge number":     {&kwikpb.StreamOffer{Size: unit, Alignment: 4096, HeadStart: 1 << 63}, nil},
		"more is written":   {&kwikpb.StreamOffer{Size: unit, Alignment: 4096, HeadStart: 4096}, make([]byte, 8192)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFakePrimaryScene(t, func(w *world, client *ClientSession, primary *fakePeer) {
				c.offer.KwikStreamId = uint64(firstAggregateStreamID)
				primary.offer(c.offer)
				if c.data != nil {
					stream := w.accept(client, firstAggregateStreamID, nil)
					w.copy(stream)
					primary.extent(wireOpen(firstAggregateStreamID, 1, 0), wireData(c.data))
				}
				primary.wantClosed(ErrMetadataProtocolViolation)
			})
		})
	}
}

// A slowOnce is a content whose first read takes a while: a disk that spins up, a network file
// system that reconnects.
type slowOnce struct {
	memory
	delay time.Duration
}

func (s *slowOnce) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.delay)
	s.delay = 0
	return s.memory.ReadAt(p, off)
}

// A source may be slow with the first bytes of a content, and write other streams meanwhile.
// It opens no QUIC stream before it has the bytes. A later stream would make the earlier one
// known to the client (RFC 9000, section 3.2), and the client would wait for its OPEN.
func TestSlowContentBesideQuick(t *testing.T) {
	for _, second := range []bool{false, true} {
		inWorldOf(t, unit, 0, lan, func(w *world) {
			w.primary.stop()
			w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
				c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
					if string(r.Descriptor) == "slow" {
						return &slowOnce{memory{w.data}, 9 * time.Second}, nil
					}
					return memory{w.data}, nil
				}
			}))
			client, server := w.dial(nil)
			slow, _ := w.offerNamed(client, server, "slow", unit, nil)
			c := w.copy(slow)
			if second {
				quick, _ := w.offerNamed(client, server, "quick", unit, nil)
				w.copy(quick).wantAll()
			}
			begun := time.Now()
			<-c.done
			if c.err != nil {
				w.t.Errorf("another stream at the same time: %v; error %v after %v", second, c.err, time.Since(begun))
			}
		})
	}
}
