package sim

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/simnet"
	"kwikcp/transfer"
)

// A Scenario is all that a run depends on, drawn from a seed.
type Scenario struct {
	Seed    uint64
	Size    int64 // of the file, bytes
	Client  simnet.Link
	Servers [3]ServerPlan // the primary and two secondaries
	Anchor  int           // the server that is honest and stays reachable; -1 if the scenario is doomed for want of one
	Doom    Doom
	Ordered bool // the client reads in order into a writer instead of a file
	Stood   bool // another file stands at the target
	Stale   Stale
	Pinned  bool // the URL says the file's hash
	// Interrupted is the part of the file in place when the transfer is interrupted. The transfer
	// then runs again. 0 means no interruption.
	Interrupted float64
	// Writing is how long the writer of an ordered transfer takes for each MiB.
	Writing time.Duration
	// Blip is for how long the anchor is silent once, at the part BlipAt of the file.
	Blip   time.Duration
	BlipAt float64
	// Connections is how many paths the client has to each server; 0 leaves it to the client.
	Connections int
	// ResetKeys is set if clients detect at once that a server restarted.
	ResetKeys bool
}

// A ServerPlan says what a server is and what becomes of it.
type ServerPlan struct {
	Link    simnet.Link
	Copy    Copy
	Disk    time.Duration // the time of a read
	JoinsAt float64       // the part of the file that must be in place before it joins; 0 joins before the transfer
	Outage  Outage
}

// Stale is what an earlier run left as its part file.
type Stale int

const (
	StaleNone    Stale = iota
	StaleGarbage       // no byte of the file
	StaleMixed         // groups that are right, wrong, torn or empty, at random
	StaleShort         // like that, and it ends early
	StaleLong          // like that, and it is longer than the file
	StaleWhole         // all of the file
)

var staleNames = [...]string{"none", "garbage", "mixed", "mixed and short", "mixed and long", "whole"}

func (s Stale) String() string { return staleNames[s] }

// A Copy is what a server has of the file.
type Copy int

const (
	CopyRight     Copy = iota
	CopyFlipped        // one bit is wrong
	CopyInverted       // every bit is wrong
	CopyShuffled       // every chunk group has the bytes of another
	CopyStale          // some groups are of an older version of the same size
	CopyMissing        // there is no such file
	CopyTruncated      // it ends early
	CopyGrown          // there is more of it
)

var copyNames = [...]string{"right", "one bit flipped", "all inverted", "groups shuffled", "stale", "missing",
	"truncated", "grown"}

func (c Copy) String() string { return copyNames[c] }

// lies reports whether a server with such a copy sends bytes that are not the file's.
func (c Copy) lies() bool { return c >= CopyFlipped && c <= CopyStale }

// An Outage is what happens to a server when a part of the file is in place.
type Outage struct {
	Kind OutageKind
	At   float64       // part of the file in place; negative: before the transfer (secondaries only)
	Back time.Duration // until it is healed or restarted; 0 means never
}

// An OutageKind is a way to be gone.
type OutageKind int

const (
	OutageNone     OutageKind = iota
	OutageKilled              // the process is gone without a word; back means another one, same address and key
	OutageSilenced            // a black hole
	OutageClosed              // it shuts down in an orderly way; back means another process
	OutageCut                 // it and the client do not reach each other
	OutageDetached            // a secondary and the primary do not reach each other
	OutagePaused              // the process is stopped (SIGSTOP), and goes on later
	OutageNarrow              // large packets vanish on its link, small ones pass
	OutageLeft                // it drains: it says goodbye to its clients and ends; back means another process
)

var outageNames = [...]string{"none", "killed", "silenced", "closed", "cut off from the client",
	"cut off from the primary", "paused", "behind a link with a low MTU", "left"}

func (k OutageKind) String() string { return outageNames[k] }

// A Doom is a reason for which a scenario cannot end well.
type Doom int

const (
	DoomNone       Doom = iota
	DoomNoFile          // the primary has no such file
	DoomOtherRoot       // the URL says another hash
	DoomOtherPin        // the primary's key is not the one of the URL
	DoomAllLie          // no server has a right byte
	DoomAllSilent       // every server falls silent at the first byte, for good
	DoomNoListener      // no process listens at the primary's address
)

var doomNames = [...]string{"none", "primary without the file", "another hash expected", "another key expected",
	"all servers lie", "all servers fall silent", "no listener at the primary's address"}

func (d Doom) String() string { return doomNames[d] }

// kind returns the kind of error that a doomed transfer ends with.
func (d Doom) kind() transfer.Kind {
	switch d {
	case DoomNoFile:
		return transfer.KindNotFound
	case DoomOtherRoot, DoomAllLie:
		return transfer.KindIntegrity
	case DoomOtherPin:
		return transfer.KindRefused
	}
	return transfer.KindNetwork
}

// group is the size of a chunk group of every file here, which are all small.
var group = integrity.DefaultGroupSize.Bytes()

const (
	maxSize = 2 << 20 // of the file in most seeds
	bigSize = 8 << 20 // in some: beyond the reorder window and what is granted at once
)

// NewScenario draws a scenario.
func NewScenario(seed uint64) Scenario {
	r := dice{simnet.NewDice(seed, 0x6b77696b)}
	s := Scenario{Seed: seed, Size: r.size()}

	link := r.Links()
	s.Client = link()
	for i := range s.Servers {
		s.Servers[i].Link = link()
	}
	// The discarded draw keeps older seeds valid.
	s.Ordered, s.Stood, _, s.Pinned, s.ResetKeys = r.OneIn(4), r.Half(), r.OneIn(8), r.Half(), r.Half()
	s.resume()
	if s.Ordered && r.Half() {
		s.Writing = time.Duration(r.Log(1, 500) * float64(time.Millisecond))
	}

	if r.Half() {
		s.Connections = 1 + r.IntN(3)
	}

	if r.OneIn(12) {
		s.Anchor, s.Doom = -1, Doom(1+r.IntN(len(doomNames)-1))
		if s.Size < 4*group {
			s.Size = 4 * group // so that there is something to lie about
		}
		s.doom()
		return s
	}
	if r.Half() {
		s.Anchor = 1 + r.IntN(2)
	}
	if r.OneIn(8) {
		s.Blip, s.BlipAt = time.Duration(r.Log(50, 3000)*float64(time.Millisecond)), r.Float64()
	}
	lies, outages, poor, late, slow := r.Half(), r.Half(), r.OneIn(4), r.OneIn(4), r.OneIn(4)
	for i := range s.Servers {
		p := &s.Servers[i]
		if slow && r.Half() {
			p.Disk = time.Duration(r.Log(1, 200) * float64(time.Millisecond))
		}
		if i == s.Anchor {
			continue
		}
		if lies && r.Half() {
			p.Copy = CopyFlipped + Copy(r.IntN(int(CopyStale)))
		} else if poor && i > 0 && r.Half() {
			p.Copy = CopyMissing + Copy(r.IntN(3))
		}
		if outages && r.Half() {
			p.Outage = r.outage(i > 0)
		}
		if late && i > 0 && p.Outage.At >= 0 {
			p.JoinsAt = r.Float64()
		}
	}
	if s.Size < 2*group { // nothing to shuffle
		for i := range s.Servers {
			if s.Servers[i].Copy == CopyShuffled {
				s.Servers[i].Copy = CopyInverted
			}
		}
	}
	return s
}

// resume draws the state that an earlier run left, and whether this run is interrupted. It uses
// separate dice, so that older seeds keep the rest of their scenario.
func (s *Scenario) resume() {
	r := dice{simnet.NewDice(s.Seed, 0x70617274)}
	if s.Ordered {
		return
	}
	if r.OneIn(4) {
		s.Stale = 1 + Stale(r.IntN(len(staleNames)-1))
	}
	if r.OneIn(4) {
		s.Interrupted = r.Float64()
	}
}

// doom arranges the servers so that the scenario meets its doom.
func (s *Scenario) doom() {
	for i := range s.Servers {
		switch p := &s.Servers[i]; s.Doom {
		case DoomNoFile:
			if i == 0 {
				p.Copy = CopyMissing
			}
		case DoomAllLie:
			p.Copy = CopyInverted
		case DoomAllSilent:
			p.Outage = Outage{Kind: OutageSilenced}
		}
	}
}

// Bound returns the virtual time that the transfer may take. It is ten seconds plus four times
// the time that the anchor alone needs for the file. That time includes CUBIC's reaction to the
// rates and losses of the anchor's links. It also includes ten round trips of handshakes and
// the time to detect each outage. No failed server may cost more.
func (s Scenario) Bound() time.Duration {
	rtt, rate := s.pathOf(s.Servers[max(0, s.Anchor)])
	need := 10*rtt + time.Duration(float64(8*s.Size)/rate*float64(time.Second)) + 2*s.Blip +
		time.Duration(s.Size>>20+1)*s.Writing
	for _, p := range s.Servers {
		need += time.Duration(4+s.Size/group) * p.Disk
		if p.Outage.Kind != OutageNone {
			need += max(time.Second, 4*rtt)
		}
	}
	if s.Doom == DoomAllSilent {
		need += 10 * time.Second // the stream's time-out
	}
	return 10*time.Second + 4*need
}

// pathOf returns the round-trip time of the path to a server, and the rate in bits a second that
// one connection has there.
func (s Scenario) pathOf(sv ServerPlan) (rtt time.Duration, rate float64) {
	from := sv.Link
	rtt = 2 * (s.Client.Latency + s.Client.Jitter + from.Latency + from.Jitter + 10*time.Millisecond)
	rate = min(s.Client.Rate, from.Rate)
	if p := s.Client.Loss + s.Client.Flip + s.Client.Reorder + from.Loss + from.Flip + from.Reorder; p > 0 {
		rate = min(rate, 1.22*1200*8/rtt.Seconds()/math.Sqrt(p)) // Mathis et al. 1997
	}
	return rtt, rate
}

// mayBeHopeless reports whether a server may be so slow for a while that others repeat its work
// whatever that costs. The scheduler does so if a group takes two seconds. A path that needs half
// of that on average needs it at times.
func (s Scenario) mayBeHopeless() bool {
	return slices.ContainsFunc(s.Servers[:], func(sv ServerPlan) bool {
		_, rate := s.pathOf(sv)
		return float64(8*group)/rate > 1
	})
}

// GapLimit returns the longest time without a byte after the first bytes, while the anchor
// lives. It allows a second for each server that falls silent, because the client may pass a
// request from one silent server to the next. It adds three of the anchor's round trips and the
// time to send two groups. GapLimit returns 0 if there is no such limit. That is so if the
// anchor loses packets, or waits for its disk, the client or a blip.
func (s Scenario) GapLimit() time.Duration {
	if s.Doom != DoomNone || s.Blip > 0 || s.Writing > 0 {
		return 0
	}
	from := s.Servers[s.Anchor]
	for _, l := range []simnet.Link{s.Client, from.Link} {
		if l.Loss+l.Reorder+l.Flip+l.Duplicate > 0 {
			return 0
		}
	}
	if from.Disk > 0 {
		return 0
	}
	rtt := 2 * (s.Client.Latency + s.Client.Jitter + from.Link.Latency + from.Link.Jitter)
	silences := time.Duration(0)
	for _, p := range s.Servers {
		if p.Outage.Kind != OutageNone && p.Outage.Kind != OutageLeft {
			silences++
		}
	}
	return max(1, silences)*time.Second + 3*rtt + time.Duration(float64(2*8*group)/min(s.Client.Rate,
		from.Link.Rate)*float64(time.Second))
}

// liars returns how many servers lie.
func (s Scenario) liars() (n int) {
	for _, p := range s.Servers {
		if p.Copy.lies() {
			n++
		}
	}
	return n
}

// troubled reports whether a server may be silent so long that the client requests its bytes
// from others too.
func (s Scenario) troubled() bool {
	for _, p := range s.Servers {
		if p.Outage.Kind != OutageNone && p.Outage.Kind != OutageLeft {
			return true
		}
	}
	return false
}

// String returns the schedule.
func (s Scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d bytes (%d groups of %d, last %d), doom %v, bound %v\n", s.Seed, s.Size,
		(s.Size+group-1)/group, group, s.Size%group, s.Doom, s.Bound().Round(time.Second))
	fmt.Fprintf(&b, "  client: %v; in order %t, target stood %t, stale part: %v, "+
		"hash known %t, reset keys %t, connections %d\n",
		describe(s.Client), s.Ordered, s.Stood, s.Stale, s.Pinned, s.ResetKeys, s.Connections)
	if s.Interrupted > 0 {
		fmt.Fprintf(&b, "  the transfer is interrupted at %.0f %% and run again\n", 100*s.Interrupted)
	}
	if s.Writing > 0 {
		fmt.Fprintf(&b, "  the client takes %v for a MiB\n", s.Writing.Round(time.Microsecond))
	}
	if s.Blip > 0 {
		fmt.Fprintf(&b, "  the anchor is silent for %v at %.0f %%\n", s.Blip.Round(time.Millisecond), 100*s.BlipAt)
	}
	for i, p := range s.Servers {
		fmt.Fprintf(&b, "  %s: %v; copy %v", serverNames[i], describe(p.Link), p.Copy)
		if i == s.Anchor {
			b.WriteString("; anchor")
		}
		if p.Disk > 0 {
			fmt.Fprintf(&b, "; reads take %v", p.Disk.Round(time.Microsecond))
		}
		if p.JoinsAt > 0 {
			fmt.Fprintf(&b, "; joins at %.0f %%", 100*p.JoinsAt)
		}
		if o := p.Outage; o.Kind != OutageNone {
			fmt.Fprintf(&b, "; %v at %.0f %%", o.Kind, 100*o.At)
			if o.Back > 0 {
				fmt.Fprintf(&b, ", back after %v", o.Back.Round(time.Millisecond))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

var serverNames = [...]string{"primary", "secondary 1", "secondary 2"}

func describe(l simnet.Link) string {
	text := fmt.Sprintf("%.1f ms, %.0f Mbit/s", l.Latency.Seconds()*1000, l.Rate/1e6)
	if l.Jitter > 0 {
		text += fmt.Sprintf(", jitter %.1f ms", l.Jitter.Seconds()*1000)
	}
	for _, x := range []struct {
		name string
		p    float64
	}{{"loss", l.Loss}, {"reorder", l.Reorder}, {"duplicate", l.Duplicate}, {"flip", l.Flip}} {
		if x.p > 0 {
			text += fmt.Sprintf(", %s %.2f %%", x.name, 100*x.p)
		}
	}
	return text
}

// dice draws what scenarios are made of.
type dice struct{ simnet.Dice }

// size draws a size: one around a boundary in half of the cases.
func (r dice) size() int64 {
	if r.OneIn(10) {
		return int64(r.Log(maxSize, bigSize))
	}
	if r.Half() {
		return int64(r.Log(1, maxSize))
	}
	if r.Half() {
		return maxSize - int64(r.IntN(int(2*group)))
	}
	edge := []int64{0, 1, 1024, group, 2 * group, 3 * group, 4 * group, 8 * group, 16 * group}[r.IntN(9)]
	return max(0, edge+int64(r.IntN(3))-1)
}

func (r dice) outage(secondary bool) Outage {
	o := Outage{Kind: OutageKind(1 + r.IntN(len(outageNames)-1)), At: r.Float64()}
	if o.Kind == OutageDetached && !secondary {
		o.Kind = OutageCut
	}
	if secondary && r.OneIn(6) {
		o.At = -1
	}
	if r.OneIn(5) {
		o.At = 0 // with the first byte
	}
	if r.Half() {
		o.Back = time.Duration(r.Log(20, 20000) * float64(time.Millisecond))
	}
	return o
}
