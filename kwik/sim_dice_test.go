package kwik

import (
	"time"

	"kwikcp/internal/simnet"
)

// simDice draws the parts of a scenario.
type simDice struct{ simnet.Dice }

// at draws a moment before most. Half of the moments are early, when most happens.
func (r simDice) at(most time.Duration) time.Duration {
	if r.Half() {
		return r.Duration(time.Millisecond, most)
	}
	return time.Duration(r.Float64() * float64(most))
}

// simMaxSize bounds a stream, in bytes: beyond the least reorder window.
const simMaxSize = 3 << 20

// simMaxShare is how much longer a stream for several sources may be, in bytes.
const simMaxShare = 16 * unit

func (r simDice) size() int64 {
	if r.OneIn(4) {
		edge := []int64{1, 1000, 4 << 10, unit, 2 * unit, 256 << 10, 8 * unit}[r.IntN(7)]
		return max(1, edge+int64(r.IntN(3))-1)
	}
	if r.OneIn(12) {
		return int64(r.Log(1<<20, simMaxSize))
	}
	return int64(r.Log(1, 600<<10))
}

// A simAct is an act of a hostile secondary. The first ones are answers to a grant, or pushes.
type simAct int

const (
	simServes       simAct = iota // as it should
	simLies                       // with wrong bytes where there is a proof, or the stream is poisoned
	simPastGrant                  // and more than it was granted, or across the end
	simForeignGrant               // under a grant that it does not have
	simWrongOffset                // from another offset than the grant's, or where no unit begins
	simHalfUnit                   // half a unit
	simForeignOpen                // names a stream that is not there, has ended or is plain
	simTwice                      // with two streams for one grant, or two OPENs
	simReset                      // and resets it
	simStops                      // and ends without CLOSE
	simClosesEarly                // after a unit
	simClosesWrong                // CLOSE is at another offset
	simGarbage                    // no frames at all
	simLateGarbage                // after OPEN
	simHugeFrame                  // a length that the bytes never reach
	simStalls                     // in the midst of a frame
	simNothing                    // not at all

	// Unasked acts.
	simOpensPublic  // bidirectional streams
	simFloods       // as many streams as it may, with and without OPEN
	simAsks         // questions by the thousand, without reading the answers
	simSaysGarbage  // on the control stream
	simSaysHuge     // a frame beyond the limit
	simSaysForeign  // frames of a primary or a client only
	simRefuses      // a stream that it was given
	simRefusesOther // one that it was not
	simLeaves       // the connection is closed
	simMute         // no Welcome
	simActs
)

// simUnasked is the first unasked act.
const simUnasked = simOpensPublic

// acts draws the acts of a hostile secondary. One that never serves is as rare as one that
// does everything.
func (r simDice) acts() (acts []simAct) {
	n := 1 + r.IntN(6)
	if r.OneIn(6) {
		n = 20
	}
	for range n {
		acts = append(acts, simAct(r.IntN(int(simUnasked))), simAct(r.IntN(int(simActs))))
	}
	return acts
}
