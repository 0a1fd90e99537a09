package kwik

import (
	"bufio"
	"bytes"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/simnet"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// A simVillain is a secondary that has joined the primary and breaks the protocol.
type simVillain struct {
	*simHost
	fake   *fakeServer
	joined *quic.Conn    // the connection of its membership, to the primary
	member *member       // nil while it is none
	calls  atomic.Uint64 // connections so far

	mu   sync.Mutex
	conn *quic.Conn // the newest
}

func newSimVillain(h *simHost) *simVillain {
	v := &simVillain{simHost: h, fake: h.fakeServer()}
	h.ip = v.fake.addr.Addr()
	h.wg.Go(func() {
		for {
			conn, err := v.fake.listener.Accept(h.ctx)
			if err != nil {
				return
			}
			if conn.ConnectionState().TLS.NegotiatedProtocol == protocolJoin {
				continue // its own end of its membership, or the primary's, on which it never answers
			}
			v.mu.Lock()
			v.conn = conn
			v.mu.Unlock()
			h.wg.Go(func() { v.serve(conn) })
		}
	})
	socket, _ := h.listen()
	transport := &quic.Transport{Conn: socket}
	h.t.Cleanup(func() { // before the world ends
		transport.Close()
		socket.Close()
	})
	for v.joined == nil { // dials fail if too much is lost
		v.joined, _ = transport.Dial(h.ctx, net.UDPAddrFromAddrPort(v.fake.addr), clientTLS(pinned(v.fake.pin), protocolJoin), &quic.Config{MaxIdleTimeout: time.Hour})
	}
	return v
}

// join makes the primary accept it as a member.
func (v *simVillain) join() {
	if v.member == nil {
		v.member = &member{addr: v.fake.addr, pin: v.fake.pin, key: ticketKey{byte(v.index)}, conn: v.joined}
		if _, err := v.primary.admit(v.member); err != nil {
			v.fault("%v", err)
		}
	}
}

// leave makes the primary withdraw it.
func (v *simVillain) leave() {
	if v.member != nil {
		v.primary.removeMember(v.member, "for now")
		v.member = nil
	}
}

// hangUp closes the client's connection.
func (v *simVillain) hangUp() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conn != nil {
		v.conn.CloseWithError(0, "for now")
	}
}

// A simCall is a client's connection to a villain. Its reader and the goroutines of acts use
// it.
type simCall struct {
	*simVillain
	conn    *quic.Conn
	control *quic.Stream
	busy    chan struct{} // an element for each act under way

	mu     sync.Mutex
	r      simDice
	offers []*kwikpb.StreamOffer
}

// serve plays the secondary for one connection.
func (v *simVillain) serve(conn *quic.Conn) {
	control, err := conn.AcceptStream(conn.Context())
	if err != nil {
		return
	}
	c := &simCall{simVillain: v, conn: conn, control: control, busy: make(chan struct{}, 40)}
	c.r = simDice{simnet.NewDice(v.s.seed, uint64(1000*v.index)+v.calls.Add(1))}
	r := bufio.NewReader(control)
	if err := readDelimited(r, maxControlFrame, &kwikpb.ControlFrame{}); err != nil || (c.draw(simMute, simActs) == simMute && c.calls.Load()%2 == 1) {
		<-conn.Context().Done()
		return
	}
	c.say(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion, Role: kwikpb.Role_ROLE_SECONDARY, PathId: "whatever"}}})
	v.wg.Go(func() {
		for simSleep(conn.Context(), c.pause()) {
			if act := c.draw(simUnasked, simMute); act != simNothing {
				c.do(func(r simDice) { c.unasked(r, act) })
			}
			c.mu.Lock()
			offers := c.offers
			c.mu.Unlock()
			for _, o := range offers {
				if o.GetPushed() && time.Since(v.start) < v.s.faults+simTimeout { // later it would only keep readers waiting
					c.do(func(r simDice) { c.push(r, c.draw(0, simUnasked), o) })
				}
			}
		}
	})
	for {
		f := &kwikpb.ControlFrame{}
		if err := readDelimited(r, maxControlFrame, f); err != nil {
			return
		}
		if o := f.GetStreamOffer(); o != nil {
			c.mu.Lock()
			c.offers = append(c.offers, o)
			c.mu.Unlock()
		}
		g := &kwikpb.OffsetSyncResponse{}
		if m := f.GetMetadata(); m.GetType() == kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE && proto.Unmarshal(m.GetPayload(), g) == nil && g.GetGrantId() > 0 {
			if act := c.draw(0, simUnasked); act != simNothing {
				c.do(func(r simDice) { c.answer(r, act, g) })
			}
		}
	}
}

// draw draws one of the villain's acts from [low, high). It returns simNothing if the villain
// has none there, and now and then.
func (c *simCall) draw(low, high simAct) simAct {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := slices.DeleteFunc(slices.Clone(c.plan.acts), func(act simAct) bool { return act < low || act >= high })
	if len(mine) == 0 || c.r.OneIn(8) {
		return simNothing
	}
	return mine[c.r.IntN(len(mine))]
}

// pause is the time from one unasked act to the next.
func (c *simCall) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.Duration(5*time.Millisecond, 5*time.Second)
}

// do runs act in a goroutine with separate dice, unless many acts are under way already.
func (c *simCall) do(act func(r simDice)) {
	if c.quiet.Load() {
		return
	}
	select {
	case c.busy <- struct{}{}:
	default:
		return
	}
	c.acted.Add(1)
	c.mu.Lock()
	r := simDice{simnet.NewDice(c.r.Uint64(), 0)}
	c.mu.Unlock()
	c.wg.Go(func() {
		act(r)
		<-c.busy
	})
}

// say writes control frames.
func (c *simCall) say(frames ...*kwikpb.ControlFrame) {
	var raw []byte
	for _, f := range frames {
		raw, _ = appendDelimited(raw, f)
	}
	c.control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	c.control.Write(raw)
}

func simMetadata(kind kwikpb.MetadataFrameType, m proto.Message) *kwikpb.ControlFrame {
	f, _ := wrapMetadata(kind, m)
	return &kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Metadata{Metadata: f}}
}

// write opens a secondary stream and writes frames to it. It returns nil if no more streams
// may be opened.
func (c *simCall) write(frames ...[]byte) *quic.SendStream {
	s, err := c.conn.OpenUniStream()
	if err != nil {
		return nil
	}
	s.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for _, f := range frames {
		s.Write(f)
	}
	return s
}

// simDoom bounds the life of a path whose server broke the protocol. Streams that are never read
// may hide the breach for a while. The path of a server that cannot be reached ends by its idle
// time-out.
const simDoom = 60 * time.Second

// violate records a breach that no policy forgives. s is nil if there was none.
func (c *simCall) violate(s *quic.SendStream) {
	if s == nil {
		return
	}
	c.simWorld.doomed.Add(1)
	c.wg.Go(func() {
		defer c.simWorld.doomed.Add(-1)
		if simSleep(c.conn.Context(), simDoom) && c.ctx.Err() == nil {
			c.fault("server %d broke the protocol and has its path", c.index)
		}
	})
}

// foreign returns a grant of another source, or nil if there is none. A peer cannot know it,
// but could guess right.
func (c *simCall) foreign(id StreamID) *sched.GrantState {
	a, _ := c.client.lookup(id)
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.sched.Grants() {
		if PathID(g.Source) == primaryPathID && g.Pos < g.End {
			return &g
		}
	}
	return nil
}

// some returns an offer, or nil if there is none.
func (c *simCall) some(r simDice) *kwikpb.StreamOffer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.offers) == 0 {
		return nil
	}
	return c.offers[r.IntN(len(c.offers))]
}

// unasked performs an unasked act.
func (c *simCall) unasked(r simDice, act simAct) {
	o := c.some(r)
	id := o.GetKwikStreamId()
	switch act {
	case simOpensPublic:
		for range 1 + r.IntN(2*maxStraySecondaryStream) {
			s, err := c.conn.OpenStream()
			if err != nil {
				return
			}
			s.SetDeadline(time.Now().Add(10 * time.Second))
			s.Write([]byte("let me in, I am no secondary"))
			s.Read(make([]byte, 1))
			s.CancelRead(0)
			s.CancelWrite(0)
		}
	case simFloods:
		for range defaultSecondaryStreams + 8 {
			open := [][]byte{nil, {0x80}, wireOpen(StreamID(id), 0, 0), wireOpen(StreamID(id), uint64(r.IntN(1000)), 0)}[r.IntN(4)]
			if c.write(open) == nil {
				return
			}
		}
	case simAsks:
		var frames []*kwikpb.ControlFrame
		for i := range 2000 {
			frames = append(frames, simMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
				KwikStreamId: id, CurrentOffset: r.Uint64(), Room: r.Uint32(), Timestamp: uint64(i),
			}))
		}
		c.say(frames...)
	case simSaysGarbage:
		c.control.Write(bytes.Repeat([]byte{0xff}, 1+r.IntN(100)))
	case simSaysHuge:
		c.control.Write(protowire.AppendVarint(nil, uint64(maxControlFrame+r.IntN(2)))) // or the largest, whose bytes do not follow
	case simSaysForeign:
		c.say([]*kwikpb.ControlFrame{
			{Frame: &kwikpb.ControlFrame_AddPath{AddPath: &kwikpb.AddPath{PathId: "mine", Addresses: []string{c.fake.addr.String()}, KeyHash: c.fake.pin[:]}}},
			{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{PathId: "s1"}}},
			{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: &kwikpb.StreamOffer{KwikStreamId: id + 1, Size: 1}}},
			simMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, &kwikpb.OffsetSyncResponse{KwikStreamId: id, GrantId: 1, Length: 1}),
			simMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{KwikStreamId: id, GrantId: 1, Operation: kwikpb.MappingOperation_MAPPING_DELETE}),
		}[r.IntN(5)])
	case simRefuses, simRefusesOther:
		if act == simRefusesOther {
			id = []uint64{id + 99, 4, 1 << 63}[r.IntN(3)]
		}
		if o != nil || act == simRefusesOther {
			c.say(simMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
				KwikStreamId: id, Operation: kwikpb.MappingOperation_MAPPING_DELETE, Code: r.Uint64(), Reason: "\x1b[31mno",
			}))
		}
	case simLeaves:
		c.conn.CloseWithError(quic.ApplicationErrorCode(r.Uint64N(1<<62)), "\x00")
	}
}

// answer answers a grant of a pulled stream.
func (c *simCall) answer(r simDice, act simAct, g *kwikpb.OffsetSyncResponse) {
	c.mu.Lock()
	var o *kwikpb.StreamOffer
	for _, x := range c.offers {
		if x.GetKwikStreamId() == g.GetKwikStreamId() {
			o = x
		}
	}
	c.mu.Unlock()
	if o != nil {
		c.extent(r, act, o, g.GetGrantId(), int64(g.GetExpectedOffset()), int64(g.GetExpectedOffset()+g.GetLength()))
	}
}

// push writes to a pushed stream.
func (c *simCall) push(r simDice, act simAct, o *kwikpb.StreamOffer) {
	f := c.flow(o.GetDescriptor_())
	if f == nil || act == simNothing {
		return
	}
	start := f.units.Floor(r.Int64N(f.size))
	end := f.units.Ceil(start + 1 + r.Int64N(f.size-start))
	version := 0
	if act == simLies {
		version = simWrong
	}
	if version == 0 || f.proof || f.poisoned {
		f.push(simPiece{c.index, start, end, version})
		c.extent(r, act, o, 0, start, end)
	}
}

// extent writes [start, end), right or wrong.
func (c *simCall) extent(r simDice, act simAct, o *kwikpb.StreamOffer, grant uint64, start, end int64) {
	f, id := c.flow(o.GetDescriptor_()), StreamID(o.GetKwikStreamId())
	u, err := newUnits(o.GetSize(), o.GetAlignment(), o.GetSegments())
	if f == nil || err != nil || u.Total() != f.size {
		c.fault("server %d is attached to %v", c.index, o)
		return
	}
	version := 0
	if act == simLies && (f.proof || f.poisoned) {
		version = simWrong
	}
	data := func(off, end int64) []byte {
		p := make([]byte, end-off)
		f.version(p[:max(0, min(end, f.size)-off)], off, version)
		return wireData(p)
	}
	first := u.Cut(start, unit, end)
	open := wireOpen(id, grant, uint64(start))
	var s *quic.SendStream
	switch act {
	case simForeignGrant:
		if g := c.foreign(id); g != nil {
			wrong := bytes.Repeat([]byte{0xa5}, int(u.Cut(g.Start, unit, g.Granted)-g.Start))
			c.write(wireOpen(id, g.ID, uint64(g.Start)), wireData(wrong))
		} else {
			c.write(wireOpen(id, 1<<40+grant, uint64(start)), data(start, first))
		}
	case simWrongOffset:
		off := []int64{first, first, u.Floor(f.size / 2), start + 1, -1, f.size}[r.IntN(6)]
		if off == 0 || off == start { // that would be right
			return
		}
		if open = wireOpen(id, grant, uint64(off)); grant > 0 {
			c.write(open, wireData(bytes.Repeat([]byte{0xa5}, int(first-start))))
		} else {
			c.write(open) // without bytes, because it may be right
		}
	case simHalfUnit:
		if n := first - start; u.Size() > 1 && n > 1 {
			c.write(open, wireData(f.content[start:start+1]))
		}
	case simForeignOpen:
		if r.Half() {
			c.write(wireOpen(id-1, grant, uint64(start))) // without bytes, because it may be right
		} else {
			c.violate(c.write(wireOpen([]StreamID{id + 99, 0, 4, 1<<63 - 1}[r.IntN(4)], grant, uint64(start)), data(start, first)))
		}
	case simTwice:
		if c.write(open, data(start, first)); r.Half() {
			c.write(open, data(start, first))
		} else {
			c.write(open, open)
		}
	case simReset:
		if s = c.write(open, data(start, first)); s != nil {
			s.CancelWrite(quic.StreamErrorCode(r.Uint64N(1 << 62)))
		}
	case simGarbage:
		if r.Half() {
			c.write(randomBytes(byte(r.IntN(256)), 1+r.IntN(1000)))
		} else {
			c.violate(c.write(bytes.Repeat([]byte{0xff}, 64)))
		}
	case simLateGarbage:
		c.write(open, randomBytes(byte(r.IntN(256)), 1+r.IntN(1000)))
	case simHugeFrame:
		c.write(open, protowire.AppendVarint(nil, 1<<r.IntN(63)))
	case simStalls:
		whole := data(start, first)
		c.write(open, whole[:1+r.IntN(len(whole)-1)])
	case simStops, simClosesEarly, simClosesWrong:
		if s = c.write(open, data(start, first)); s != nil {
			if act != simStops {
				s.Write(wireClose(uint64(first + int64(act-simClosesEarly))))
			}
			s.Close()
		}
	case simServes, simLies, simPastGrant:
		if s = c.write(open); s == nil {
			return
		}
		for off := start; off < end; {
			next := u.Cut(off, 1<<(6+r.IntN(11)), end)
			if _, err := s.Write(data(off, next)); err != nil {
				return
			}
			off = next
		}
		if act == simPastGrant && (grant > 0 || end == f.size) { // elsewhere a source may push
			s.Write(wireData(make([]byte, max(u.Size(), 1))))
		}
		s.Write(wireClose(uint64(end)))
		s.Close()
	}
}
