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
	"slices"
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
)

// An Outcome says how a run went.
type Outcome struct {
	Scenario Scenario
	Err      error // of the transfer
	Faults   []string
	Result   transfer.Result
	Network  simnet.Stats
	Virtual  time.Duration // of the transfer
	Wall     time.Duration // of the whole run
}

// hung is how much real time a run may take: a bubble in which something spins never advances its clock, and only the real one
// can tell.
const hung = 2 * time.Minute

// Run runs the scenario of a seed and fails the test for every promise that was broken. The log says what the scenario was
// and how to run it again.
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
		if !returned { // a panic, or synctest found goroutines that nobody will wake
			fmt.Fprintf(os.Stderr, "%v%s\n", s, again)
		}
	}()
	synctest.Test(t, func(t *testing.T) { o = run(t, s) })
	returned = true
	o.Wall = time.Since(start)
	if len(o.Faults) > 0 {
		t.Errorf("%v%s\nresult: %+v\nerror: %v\nafter %v of its time:\n  %s", s, again, o.Result, o.Err, o.Virtual, strings.Join(o.Faults, "\n  "))
	}
	return o
}

// Trace makes runs log what the client reports, with the time since the transfer began.
var Trace bool

// run is Run inside the bubble.
func run(t *testing.T, s Scenario) Outcome {
	w := NewWorld(t, s)
	r := &recorder{World: w, bad: make(map[kwik.PathID]int)}
	before := []byte("what stood there before")
	var want []string // names in the client's directory afterwards, if the transfer fails
	if s.Stood {
		w.client.Put(target, before, 0o644, mtime)
		want = append(want, target)
	}
	if s.Stale && !s.Ordered {
		w.client.Put(partName(), []byte("of a killed run"), 0o600, mtime)
	}

	ctx, cancel := context.WithTimeoutCause(w.ctx, s.Bound(), errTooLong)
	defer cancel()
	start := time.Now()
	r.start = start
	result, err := transfer.Get(ctx, w.options(), r)
	r.trace("end: %v", err)
	o := Outcome{Scenario: s, Err: err, Result: result, Virtual: time.Since(start)}

	w.checkEnd(o, r)
	if !s.Ordered {
		w.checkTarget(err, before, want)
	}
	w.Close()
	o.Network = w.net.Stats()
	w.mu.Lock()
	defer w.mu.Unlock()
	o.Faults = w.faults
	return o
}

var errTooLong = errors.New("the transfer took longer than its bound")

// options are what the client asks for.
func (w *World) options() transfer.GetOptions {
	pin := trust.PinOf(identities()[0].Leaf)
	if w.Doom == DoomOtherPin {
		pin[0] ^= 1
	}
	o := transfer.GetOptions{
		URL:     transfer.URL{Host: w.servers[0].addr.String(), Path: served},
		TLS:     trust.PinnedClientConfig(nil, pin),
		OpenDir: func(string) (transfer.Dir, error) { return w.client.Dir(), nil },
		KWIK: &kwik.Config{
			LocalAddresses: func() []netip.Addr { return nil },
			ReorderWindow:  2 << 20, // the least
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
	placed := w.placed
	w.mu.Unlock()
	switch {
	case o.Err == nil && w.Doom != DoomNone && w.Doom != DoomAllSilent: // what was under way may have been all
		w.fault("the transfer succeeded")
	case o.Err == nil:
		w.checkSuccess(o, placed)
	case w.Doom == DoomNone:
		w.fault("the transfer failed: %v", o.Err)
	default:
		e, ok := asError(o.Err)
		if !ok || e.Kind != w.Doom.kind() {
			w.fault("error of kind %v, not %v: %v", e, w.Doom.kind(), o.Err)
		}
	}

	// Who lies is found out, and nobody else is. A server that came back may have had several names.
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
			w.fault("%s is said to lie and does not", name)
		}
		if bytes > sv.right {
			w.fault("%s is said to have delivered %d bytes, and has %d right ones", name, bytes, sv.right)
		}
	}
	if limit := w.wasteLimit(); o.Result.Wasted > limit {
		w.fault("%d bytes came in vain, more than %d", o.Result.Wasted, limit)
	}
}

// wasteLimit is how many bytes may come in vain: 1 MiB for each liar; what a server sent that was thought gone; and near the end
// the budget for fetching twice.
func (w *World) wasteLimit() int64 {
	limit := int64(w.liars())<<20 + 16*group
	if w.troubled() || w.Blip > 0 {
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
	if o.Result.Bytes != w.Size || delivered != w.Size || placed != w.Size {
		w.fault("of %d bytes %d were had, %d delivered and %d written", w.Size, o.Result.Bytes, delivered, placed)
	}
}

// checkTarget checks what is left in the client's directory.
func (w *World) checkTarget(err error, before []byte, want []string) {
	if n := w.client.Opened(); n != 0 {
		w.fault("the client left %d files or directories open", n)
	}
	if err == nil {
		want = []string{target}
	}
	names := w.client.Names()
	if !slices.Equal(names, want) {
		w.fault("the directory has %q, not %q", names, want)
	}
	data, mode, modified, durable := w.client.Durable(target)
	switch {
	case err != nil:
		if w.Stood && !bytes.Equal(data, before) {
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

	mu   sync.Mutex
	bad  map[kwik.PathID]int // bad blocks
	last transfer.Progress
}

func (r *recorder) trace(format string, args ...any) {
	if Trace {
		r.t.Logf("%10.3f s  %s", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (r *recorder) Hashing(bytes, total int64) { r.trace("hashing: %d of %d", bytes, total) }

func (r *recorder) Manifest(m transfer.Manifest) { r.trace("manifest: %d bytes", m.Size) }

func (r *recorder) Server(s transfer.ServerStatus) {
	r.trace("%s at %s is %s: %s", s.ID, s.Addr, s.State, s.Reason)
}

func (r *recorder) BadBlock(id kwik.PathID, off, length int64) {
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
