package sim

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// An Outcome says how a run went.
type Outcome struct {
	Scenario Scenario
	Err      error // of the transfer
	Faults   []string
	Result   transfer.Result
	Network  simnet.Stats
	Virtual  time.Duration // of the transfer
	Again    bool          // it is that of the run after an interruption
	Wall     time.Duration // of the whole run
}

// hung is how much real time a run may take. A busy loop in a bubble never advances the
// bubble's clock, so only the real clock detects it.
const hung = 2 * time.Minute

// Run runs the scenario of a seed and fails the test for every broken promise. It logs the
// scenario and the command that repeats it.
func Run(t *testing.T, seed uint64) (o Outcome) {
	t.Helper()
	s := NewScenario(seed)
	o.Scenario = s
	again := fmt.Sprintf("again: go test ./transfer/sim -run 'TestSeeds' -first %d -seeds 1 -count 20", seed)
	start := time.Now()
	watchdog := time.AfterFunc(hung, func() { panic(fmt.Sprintf("no end within %v\n%v%s", hung, s, again)) })
	defer watchdog.Stop()
	returned := false
	defer func() {
		if !returned { // a panic, or synctest found a deadlock
			fmt.Fprintf(os.Stderr, "%v%s\n", s, again)
		}
	}()
	synctest.Test(t, func(t *testing.T) { o = run(t, s) })
	returned = true
	o.Wall = time.Since(start)
	if len(o.Faults) > 0 {
		t.Errorf("%v%s\nresult: %+v\nerror: %v\nafter %v of its time:\n  %s", s, again, o.Result, o.Err, o.Virtual,
			strings.Join(o.Faults, "\n  "))
	}
	return o
}

// Trace makes runs log what the client reports, with the time since the transfer began.
var Trace bool

// run is Run inside the bubble.
func run(t *testing.T, s Scenario) Outcome {
	w := NewWorld(t, s)
	if s.Stood {
		w.client.Put(target, stood, 0o644, mtime)
	}
	if s.Stale != StaleNone {
		w.client.Put(partName(), w.stale(), 0o600, mtime)
	}
	w.placed = w.right(w.part())
	ctx, interrupt := context.WithCancelCause(w.ctx)
	if s.Interrupted > 0 {
		w.when(max(1, int64(s.Interrupted*float64(s.Size))), func() { interrupt(errInterrupted) })
	}
	o := w.get(ctx)
	if o.Err == errInterrupted {
		o = w.get(w.ctx)
		o.Again = true
	}
	interrupt(nil)
	w.Close()
	o.Network = w.net.Stats()
	w.mu.Lock()
	defer w.mu.Unlock()
	o.Faults = w.faults
	return o
}

// stood is the content of another file at the target.
var stood = []byte("the content from before")

var (
	errTooLong     = errors.New("the transfer took longer than its bound")
	errInterrupted = errors.New("interrupted")
)

// get runs the client once and checks what it did.
func (w *World) get(ctx context.Context) Outcome {
	ctx, cancel := context.WithTimeoutCause(ctx, w.Bound(), errTooLong)
	defer cancel()
	before := w.part()
	w.mu.Lock()
	w.lastly, w.gap = time.Time{}, 0
	w.mu.Unlock()
	r := &recorder{World: w, bad: make(map[kwik.ServerID]int), start: time.Now()}
	result, err := transfer.Get(ctx, w.options(), r)
	r.trace("end: %v", err)
	o := Outcome{Scenario: w.Scenario, Err: err, Result: result, Virtual: time.Since(r.start)}
	w.checkEnd(o, r)
	if !w.Ordered {
		w.checkTarget(err)
		w.checkResume(o, r, before)
	}
	return o
}

// options are what the client asks for.
func (w *World) options() transfer.GetOptions {
	pin := trust.PinOf(identities()[0].Leaf)
	if w.Doom == DoomOtherPin {
		pin[0] ^= 1
	}
	o := transfer.GetOptions{
		URL:     transfer.URL{Host: w.servers[0].addr.String(), Path: served},
		TLS:     trust.PinnedClientConfig(nil, pin),
		OpenDir: func(string) (disk.Dir, error) { return w.client.Dir(), nil },
		// A stream ends after 10 s without a byte, as Bound expects.
		StallTimeout: 8 * time.Second,
		KWIK: &kwik.ClientConfig{
			Config:               kwik.Config{LocalAddresses: func() []netip.Addr { return nil }},
			ReorderWindow:        2 << 20, // the least
			ConnectionsPerServer: w.Connections,
			ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
				return w.net.Listen(netip.AddrPortFrom(clientIP, 0), w.Client)
			},
		},
	}
	if w.Ordered {
		o.Output = &inOrder{World: w}
	} else {
		o.Target = "somewhere/" + target
	}
	if root := integrity.Root(blake3.Sum256(w.file)); w.Pinned {
		o.URL.Root = &root
	}
	if w.Doom == DoomOtherRoot {
		o.URL.Root = &integrity.Root{1, 2, 3}
	}
	return o
}

// partName is the name of the part file of a transfer to the target.
func partName() string {
	sum := blake3.Sum256([]byte(target))
	return ".kwikcp-" + hex.EncodeToString(sum[:10]) + ".part"
}

// An inOrder is where an ordered transfer writes to.
type inOrder struct {
	*World
	at int64
}

func (o *inOrder) Write(p []byte) (int, error) {
	time.Sleep(o.Writing * time.Duration(len(p)) / (1 << 20))
	o.check(o.at, p)
	o.at += int64(len(p))
	o.progress(int64(len(p)))
	return len(p), nil
}

// checkEnd checks what Get returned and reported.
func (w *World) checkEnd(o Outcome, r *recorder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.mu.Lock()
	placed, gap := w.placed, w.gap
	w.mu.Unlock()
	if limit := w.GapLimit(); limit > 0 && gap > limit {
		w.fault("no byte arrived for %v, more than %v", gap, limit)
	}
	switch {
	case o.Err == nil && w.Doom == DoomAllLie && o.Result.Resumed == w.Size: // the client needed no server's bytes
	case o.Err == nil && w.Doom != DoomNone && w.Doom != DoomAllSilent: // the bytes in flight may have been the last
		w.fault("the transfer succeeded")
	case o.Err == nil:
		w.checkSuccess(o, placed)
	case o.Err == errInterrupted:
	case w.Doom == DoomNone && w.lostThePrimary(o):
	case w.Doom == DoomNone:
		w.fault("the transfer failed: %v", o.Err)
	default:
		e, ok := asError(o.Err)
		if !ok || e.Kind != w.Doom.kind() {
			w.fault("error of kind %v, not %v: %v", e, w.Doom.kind(), o.Err)
		}
	}

	// The client bans liars and no other server. A restarted server may have had several names.
	for _, sv := range w.servers {
		name, bytes, banned := serverNames[sv.index], int64(0), false
		for _, s := range o.Result.Servers {
			if s.Addr != sv.addr.String() {
				continue
			}
			bytes += s.Bytes
			banned = banned || s.State == transfer.ServerBanned
			if (r.bad[s.ID] > 0) != (s.State == transfer.ServerBanned) {
				w.fault("%s (%s) sent %d bad blocks and is %s: %s", name, s.ID, r.bad[s.ID], s.State, s.Reason)
			}
		}
		if banned && !sv.Copy.lies() {
			w.fault("%s is reported as a liar and is honest", name)
		}
		if bytes > sv.right {
			w.fault("%s is reported to have delivered %d bytes, and has %d right ones", name, bytes, sv.right)
		}
	}
	if limit := w.wasteLimit(); o.Result.Wasted > limit {
		w.fault("%d bytes were wasted, more than %d", o.Result.Wasted, limit)
	}
}

// wasteLimit is how many received bytes may be wasted. Each liar may waste 1 MiB. A server that
// seemed gone or hopelessly slow may have sent bytes. Near the end there are the budget for
// duplicate requests, and one group for each path that was in flight when its request was
// cancelled.
func (w *World) wasteLimit() int64 {
	limit := int64(w.liars())<<20 + 16*group + int64(len(w.servers)*max(1, w.Connections))*group
	if w.troubled() || w.Blip > 0 || w.mayBeHopeless() {
		limit += 1 << 20
	}
	return limit
}

func (w *World) checkSuccess(o Outcome, placed int64) {
	if root := integrity.Root(blake3.Sum256(w.file)); o.Result.Root != root {
		w.fault("the root is %v, not %v", o.Result.Root, root)
	}
	var delivered int64
	for _, s := range o.Result.Servers {
		delivered += s.Bytes
	}
	if o.Result.Bytes != w.Size || delivered+o.Result.Resumed+o.Result.Holes != w.Size || placed != w.Size {
		w.fault("of %d bytes %d were had, %d delivered and %d written", w.Size, o.Result.Bytes, delivered, placed)
	}
}

// lostThePrimary reports whether a run failed because the primary was not whole again. The
// first run may survive an outage of the primary that lasts until the second run asks. The
// secondaries may also not have rejoined by then.
func (w *World) lostThePrimary(o Outcome) bool {
	e, ok := asError(o.Err)
	return w.Interrupted > 0 && w.Servers[0].Outage.Kind != OutageNone && ok &&
		(e.Kind == transfer.KindNetwork || e.Kind == transfer.KindIntegrity)
}

// checkTarget checks what is left in the client's directory.
func (w *World) checkTarget(err error) {
	if n := w.client.Opened(); n != 0 {
		w.fault("the client left %d files or directories open", n)
	}
	for _, name := range w.client.Names() {
		if name != target && (name != partName() || err == nil) {
			w.fault("the client left %q", name)
		}
	}
	data, mode, modified, durable := w.client.Durable(target)
	switch {
	case err != nil:
		if !bytes.Equal(data, stood) && (w.Stood || data != nil) {
			w.fault("the transfer failed and what stood at the target does not stand there any more")
		}
	case !durable:
		w.fault("the file would not survive a power cut")
	case !bytes.Equal(data, w.file):
		w.fault("the file in place is not the right one")
	case mode&^0o640 != 0 || mode&0o600 != 0o600 || !modified.Equal(mtime):
		w.fault("the file in place has mode %v and time %v", mode, modified)
	}
}

// checkResume checks the part file of the earlier run. The client fetched none of its right
// bytes again, and kept it if some are right.
func (w *World) checkResume(o Outcome, r *recorder, before []byte) {
	after := w.part()
	if o.Result.Kept != (after != nil) {
		w.fault("the result reports a part file: %t, there are %d bytes", o.Result.Kept, len(after))
	}
	if !r.told {
		if !bytes.Equal(before, after) && len(before) > 0 {
			w.fault("the part file was touched before it was known what the file is")
		}
		return
	}
	if had := w.right(before); o.Result.Resumed != had || r.resumed != had {
		w.fault("%d bytes were resumed, %d reported, %d were right", o.Result.Resumed, r.resumed, had)
	}
	if o.Err == nil {
		return
	}
	if had := w.right(after); (had == 0) != (after == nil) || had < o.Result.Bytes || int64(len(after)) > w.Size {
		w.fault("a part file of %d bytes is left, of which %d are right, %d in place; %d were right before", len(after),
			had, o.Result.Bytes, w.right(before))
	}
}

// part returns the content of the part file, nil if there is none.
func (w *World) part() []byte { return w.client.Content(partName()) }

// right returns how many bytes of whole groups are right in a part file.
func (w *World) right(part []byte) (n int64) {
	for off := int64(0); off < w.Size; off += group {
		end := min(off+group, w.Size)
		if end <= int64(len(part)) && bytes.Equal(part[off:end], w.file[off:end]) {
			n += end - off
		}
	}
	return n
}

// stale makes the part file of an earlier run.
func (w *World) stale() []byte {
	r := dice{simnet.NewDice(w.Seed, 0x7374616c65)}
	part := bytes.Clone(w.file)
	switch w.Stale {
	case StaleWhole:
		return part
	case StaleGarbage:
		return bytes.Repeat([]byte("of another file "), 1+r.IntN(1<<16))
	}
	for off := int64(0); off < w.Size; off += group {
		b := part[off:min(off+group, w.Size)]
		switch at := r.IntN(len(b)); r.IntN(6) {
		case 0:
			clear(b)
		case 1:
			b[at] ^= 1 << r.IntN(8)
		case 2:
			clear(b[at:])
		}
	}
	switch w.Stale {
	case StaleShort:
		part = part[:r.Int64N(w.Size+1)]
	case StaleLong:
		part = append(part, make([]byte, 1+r.IntN(1<<18))...)
	}
	return part
}

// fault notes that something went wrong.
func (w *World) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// A recorder hears what the transfer reports.
type recorder struct {
	*World
	start time.Time

	mu      sync.Mutex
	bad     map[kwik.ServerID]int // bad blocks
	told    bool                  // the manifest was reported
	resumed int64
	last    transfer.Progress
}

func (r *recorder) trace(format string, args ...any) {
	if Trace {
		r.t.Logf("%10.3f s  %s", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (r *recorder) Hashing(bytes, total int64) { r.trace("hashing: %d of %d", bytes, total) }

func (r *recorder) Checking(bytes, total int64) { r.trace("checking: %d of %d", bytes, total) }

func (r *recorder) Waiting(x transfer.Waiting) { r.trace("waiting %+v", x) }

func (r *recorder) Retry(x transfer.Retry) { r.fault("it was tried again: %+v", x) }

func (r *recorder) Manifest(m transfer.Manifest) {
	r.trace("manifest: %d bytes", m.Size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = true
}

func (r *recorder) Resume(bytes int64) {
	r.trace("resume: %d bytes", bytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumed = bytes
	if !r.told || bytes == 0 {
		r.fault("resume of %d bytes out of place", bytes)
	}
}

func (r *recorder) Server(s transfer.ServerStatus) {
	r.trace("%s at %s is %s: %s", s.ID, s.Addr, s.State, s.Reason)
}

func (r *recorder) BadBlock(id kwik.ServerID, off, length int64) {
	r.trace("bad block of %s: %d bytes at %d", id, length, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[id]++
}

func (r *recorder) Progress(p transfer.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Bytes != r.last.Bytes {
		var each []string
		for _, s := range p.Servers {
			each = append(each, fmt.Sprintf("%s %d", s.ID, s.Bytes))
		}
		r.trace("%d of %d: %s", p.Bytes, p.Total, strings.Join(each, ", "))
	}
	if p.Bytes < r.last.Bytes || p.Bytes > r.Size || p.Total != r.Size {
		r.fault("progress from %d to %d of %d", r.last.Bytes, p.Bytes, p.Total)
	}
	r.last = p
}

// asError returns the transfer's own error in err.
func asError(err error) (*transfer.Error, bool) { return errors.AsType[*transfer.Error](err) }
