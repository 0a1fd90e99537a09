package kwik

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
	kwikpb "kwikcp/kwik/proto"
)

// A partial is a content with missing bytes. It reports them when it is opened, or if late,
// when they are read.
type partial struct {
	memory
	lacks rangeset.Set
	late  bool
	read  *rangeset.Set // missing bytes that were read; a test fails if there are any
}

var errNotHere = errors.New("not here")

func (p partial) Missing() (all []MissingRange) {
	if !p.late {
		for r := range p.lacks.All() {
			all = append(all, MissingRange{r.Start, r.End, errNotHere})
		}
	}
	return all
}

func (p partial) ReadAt(b []byte, off int64) (int, error) {
	if r, ok := p.lacks.NextPresent(off, off+int64(len(b))); ok {
		if !p.late {
			p.read.Add(r.Start, r.End)
		}
		return 0, &MissingRange{r.Start, r.End, errNotHere}
	}
	return p.memory.ReadAt(b, off)
}

// Sources with missing bytes serve the other ones. If no source has some bytes, the stream
// ends with the reason as soon as it has all other bytes, without a time-out.
func TestPartialSources(t *testing.T) {
	const size = 64*unit + 77
	for _, x := range []struct {
		name    string
		lacks   [3][]rangeset.Range // of the primary and two secondaries
		late    bool
		missing []rangeset.Range
	}{
		{name: "secondaries have a half each", lacks: [3][]rangeset.Range{{}, {{Start: 0, End: 32 * unit}}, {{Start: 32 * unit, End: size}}}},
		{name: "not whole units", lacks: [3][]rangeset.Range{{}, {{Start: 1, End: 2}, {Start: size - 1, End: size}}, {{Start: 5*unit - 1, End: 9*unit + 1}}}},
		{name: "the primary has nothing", lacks: [3][]rangeset.Range{{{Start: 0, End: size}}, {{Start: 0, End: 32 * unit}}, {{Start: 32 * unit, End: size}}}},
		{name: "found out while reading", late: true, lacks: [3][]rangeset.Range{{}, {{Start: 2 * unit, End: 32 * unit}}, {{Start: 40 * unit, End: size}}}},
		{name: "nobody has it", lacks: [3][]rangeset.Range{{{Start: 7, End: 8}}, {{Start: 0, End: 32 * unit}}, {{Start: 0, End: unit}}},
			missing: []rangeset.Range{{Start: 0, End: unit}}},
		{name: "nobody has it, found out while reading", late: true, lacks: [3][]rangeset.Range{{{Start: 7, End: 8}}, {{Start: 0, End: 32 * unit}}, {{Start: 0, End: unit}}},
			missing: []rangeset.Range{{Start: 0, End: unit}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			inWorldOf(t, size, 2, lan, func(w *world) {
				var asked rangeset.Set
				for i, s := range []*testServer{w.primary, w.secondaries[0], w.secondaries[1]} {
					s.config.OpenContent = func(context.Context, ContentRequest) (Content, error) {
						return partial{memory{w.data}, rangeset.Of(x.lacks[i]...), x.late, &asked}, nil
					}
				}
				client, server := w.dial(nil)
				start := time.Now()
				c := w.copy(w.offer(client, server, unit, nil))
				if x.missing == nil {
					c.wantAll()
				} else {
					<-c.done
					if !errors.Is(c.err, ErrAggregationTimeout) || !strings.Contains(c.err.Error(), errNotHere.Error()) {
						t.Errorf("%v", c.err)
					}
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("it took %v to find out", took)
					}
					want := rangeset.Of(rangeset.Range{End: size})
					for _, r := range x.missing {
						want.Sub(r.Start, r.End)
					}
					if got := c.s.Stats().Bytes; got != want.Total() {
						t.Errorf("%d bytes are there, want %d", got, want.Total())
					}
				}
				if asked.Len() > 0 {
					t.Errorf("%v was read", &asked)
				}
				for _, s := range c.s.Stats().Sources {
					if s.Gone != nil {
						t.Errorf("%s: %v", s.Server, s.Gone)
					}
				}
			})
		})
	}
}

// A malformed report of missing bytes breaks the protocol. A source that lacks too many pieces
// is removed from the stream.
func TestLackOfNonsense(t *testing.T) {
	for _, r := range []rangeset.Range{{Start: 1, End: unit}, {Start: 0, End: unit + 1}, {Start: unit, End: unit}, {Start: 2 * unit, End: unit}, {Start: 0, End: 1 << 62}} {
		inWorldOf(t, 10*unit, 0, lan, func(w *world) {
			client, server := w.dial(nil)
			c := w.copy(w.offer(client, server, unit, nil))
			server.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
				KwikStreamId: uint64(c.s.StreamID()), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
				StartOffset: uint64(r.Start), EndOffset: uint64(r.End),
			})
			<-client.Context().Done()
			wantError(t, context.Cause(client.Context()), ErrMetadataProtocolViolation)
			<-c.done
		})
	}
}

// An oddLack is a content that reports bytes as missing that were not read.
type oddLack struct {
	memory
	lack MissingRange
}

func (o oddLack) ReadAt([]byte, int64) (int, error) { return 0, &o.lack }

// A content may only report bytes as missing that were read. Otherwise the source is removed from
// the stream, and tells the client at once.
func TestLackOfSomethingElse(t *testing.T) {
	for _, lack := range []MissingRange{{0, 0, errNotHere}, {unit, 0, errNotHere}, {unit, 2 * unit, errNotHere}, {-1, 0, errNotHere}} {
		inWorldOf(t, 2*unit, 0, lan, func(w *world) {
			w.primary.stop()
			w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
				c.OpenContent = func(context.Context, ContentRequest) (Content, error) {
					return oddLack{memory{w.data}, lack}, nil
				}
			}))
			client, server := w.dial(nil)
			begun := time.Now()
			c := w.copy(w.offer(client, server, unit, nil))
			<-c.done
			if took := time.Since(begun); took > time.Second || c.err == nil || !strings.Contains(c.err.Error(), errNotHere.Error()) {
				t.Errorf("%+v: %v after %v", lack, c.err, took)
			}
		})
	}
}
