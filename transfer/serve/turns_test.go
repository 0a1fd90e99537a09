package serve

import (
	"fmt"
	"kwikcp/kwik"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// clientAt returns a new session of the n-th prefix.
func clientAt(n int) client {
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32)
	return client{prefix, &kwik.ServerSession{}}
}

// mostMemory is the memory of the largest job of the model.
const mostMemory = 10

// A turnsModel does with maps what a turns does, for the rules that always hold.
type turnsModel struct {
	t       *turns
	wanted  map[*turn]map[client]int
	running []*turn
}

// begin gives all free slots away.
func (m *turnsModel) begin(t *testing.T) {
	t.Helper()
	for j := m.t.next(); j != nil; j = m.t.next() {
		if slices.Contains(m.running, j) || len(m.wanted[j]) == 0 {
			t.Fatalf("a slot for a job that has one, or that %d clients want", len(m.wanted[j]))
		}
		m.running = append(m.running, j)
	}
}

func (m *turnsModel) check(t *testing.T) {
	t.Helper()
	if len(m.running) > m.t.slots || m.t.running != len(m.running) {
		t.Fatalf("%d jobs run, %d are counted, in %d slots", len(m.running), m.t.running, m.t.slots)
	}
	held, mayBegin := int64(0), false
	perPrefix, waits := make(map[netip.Prefix]int64), make(map[netip.Prefix]bool)
	sessions := make(map[client]bool)
	for j, clients := range m.wanted {
		prefixes := make(map[netip.Prefix]bool)
		for c := range clients {
			prefixes[c.prefix], sessions[c] = true, true
			waits[c.prefix] = waits[c.prefix] || !slices.Contains(m.running, j)
		}
		if !j.hasBegun {
			continue
		}
		if len(clients) > 0 || slices.Contains(m.running, j) {
			held += j.memory
		}
		for p := range prefixes {
			perPrefix[p] += j.memory
		}
	}
	for p, w := range waits {
		mayBegin = mayBegin || w && perPrefix[p]+mostMemory <= m.t.maxHeld/4
	}
	if held != m.t.held {
		t.Fatalf("jobs hold %d bytes, %d are counted", held, m.t.held)
	}
	if mayBegin && held+mostMemory <= m.t.maxHeld && len(m.running) < m.t.slots {
		t.Fatalf("%d jobs run in %d slots, and others wait", len(m.running), m.t.slots)
	}
	if len(sessions) != len(m.t.sessions) {
		t.Fatalf("%d sessions are known, %d want something", len(m.t.sessions), len(sessions))
	}
	for _, p := range m.t.prefixes {
		if p.held != perPrefix[p.prefix] || len(p.sessions) == 0 {
			t.Fatalf("prefix %v: jobs hold %d bytes, %d are counted", p.prefix, perPrefix[p.prefix], p.held)
		}
	}
}

// TestTurnsModel makes random claims and turns, and compares the counts of a turns with a model.
// A free slot is never left free while a job may use it.
func TestTurnsModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &turnsModel{t: newTurns(1 + r.IntN(5)), wanted: make(map[*turn]map[client]int)}
		m.t.maxHeld = 4 * mostMemory * (1 + r.Int64N(4))
		var clients []client
		for i := range 1 + r.IntN(6) {
			clients = append(clients, clientAt(i/2))
		}
		jobs := make([]*turn, 1+r.IntN(30))
		for i := range jobs {
			jobs[i] = &turn{memory: 1 + r.Int64N(mostMemory)}
		}
		for range 3000 {
			j, c := jobs[r.IntN(len(jobs))], clients[r.IntN(len(clients))]
			switch r.IntN(4) {
			case 0:
				m.t.want(j, c)
				if m.wanted[j] == nil {
					m.wanted[j] = make(map[client]int)
				}
				m.wanted[j][c]++
			case 1:
				if m.wanted[j][c] == 0 {
					continue
				}
				m.t.unwant(j, c)
				if m.wanted[j][c]--; m.wanted[j][c] == 0 {
					delete(m.wanted[j], c)
				}
				isUnwanted := len(m.wanted[j]) == 0 && slices.Contains(m.running, j)
				if isUnwanted && !m.t.mustLeave(j, 0) {
					t.Fatal("a job that no client wants stays")
				}
			case 2:
				if len(m.running) == 0 {
					continue
				}
				i := r.IntN(len(m.running))
				j := m.running[i]
				m.running = slices.Delete(m.running, i, i+1)
				m.t.ended(j)
				if isFinished := r.IntN(3) == 0; isFinished {
					m.t.remove(j)
					delete(m.wanted, j)
				}
			case 3:
				for _, j := range m.running {
					if isSmall := j.memory < mostMemory; isSmall {
						m.t.grow(j, 1)
					}
					m.t.mustLeave(j, turnBytes)
				}
				if m.t.stopping > 1 {
					t.Fatalf("%d jobs leave at once", m.t.stopping)
				}
			}
			m.begin(t)
			m.check(t)
		}
	}
}

// run hashes n pieces of turnBytes: the running jobs one after the other, which leave as they
// must. It returns how many pieces each of the jobs got.
func (m *turnsModel) run(t *testing.T, n int) map[*turn]int {
	got := make(map[*turn]int)
	for i := 0; i < n; {
		for _, j := range slices.Clone(m.running) {
			i++
			got[j]++
			if m.t.mustLeave(j, turnBytes) {
				m.running = remove(m.running, j)
				m.t.ended(j)
				m.begin(t)
			}
		}
	}
	return got
}

func (m *turnsModel) add(c client, n int) (jobs []*turn) {
	for range n {
		j := &turn{}
		m.t.want(j, c)
		m.wanted[j] = map[client]int{c: 1}
		jobs = append(jobs, j)
	}
	return jobs
}

// TestAttackHashingSlotsAreShared lets sessions and prefixes with many jobs take all slots. A
// client that wants one job then waits for one turn of one job, and gets its share.
func TestAttackHashingSlotsAreShared(t *testing.T) {
	for _, x := range []struct {
		sessions, prefixes, jobs int // of the attackers
		least                    int // pieces of the honest job, of 4,000
	}{
		{1, 1, 100, 990},   // one of four slots
		{100, 1, 100, 990}, // sessions of one prefix
		{7, 7, 100, 490},   // each an eighth
		{31, 31, 3, 120},
	} {
		t.Run(fmt.Sprintf("%d sessions of %d prefixes", x.sessions, x.prefixes), func(t *testing.T) {
			m := &turnsModel{t: newTurns(hashedAtOnce), wanted: make(map[*turn]map[client]int)}
			for i := range x.sessions {
				m.add(clientAt(1+i%x.prefixes), x.jobs)
			}
			m.begin(t)
			m.run(t, 100)
			honest := m.add(clientAt(0), 1)[0]
			m.begin(t)
			turns := 0
			for ; !honest.isRunning; turns++ {
				m.run(t, 1)
			}
			if most := 1 + x.prefixes; turns > most {
				t.Errorf("the honest job waited for %d rounds, want at most %d", turns, most)
			}
			if got := m.run(t, 4000)[honest]; got < x.least {
				t.Errorf("the honest job got %d of 4,000 pieces, want %d", got, x.least)
			}
		})
	}
}

// TestTurnsOfOneClient checks that the jobs of a session are done in order, without a change
// between them.
func TestTurnsOfOneClient(t *testing.T) {
	m := &turnsModel{t: newTurns(2), wanted: make(map[*turn]map[client]int)}
	jobs := m.add(clientAt(0), 5)
	m.begin(t)
	got := m.run(t, 1000)
	if got[jobs[0]] != 500 || got[jobs[1]] != 500 {
		t.Errorf("of 1,000 pieces the first two jobs got %d and %d", got[jobs[0]], got[jobs[1]])
	}
}

// TestTurnsOfASharedJob checks that a job has the turns of every client that wants it. A client
// with many jobs does not delay the one that both want.
func TestTurnsOfASharedJob(t *testing.T) {
	m := &turnsModel{t: newTurns(1), wanted: make(map[*turn]map[client]int)}
	busy, third := clientAt(0), clientAt(1)
	jobs := m.add(busy, 50)
	shared := jobs[49]
	m.add(third, 1)
	m.begin(t)
	c := clientAt(2)
	m.t.want(shared, c)
	m.wanted[shared][c]++
	if got := m.run(t, 300)[shared]; got < 95 {
		t.Errorf("the shared job got %d of 300 pieces", got)
	}
	m.t.unwant(shared, c)
	delete(m.wanted[shared], c)
	if got := m.run(t, 300)[shared]; got > 1 {
		t.Errorf("it got %d of 300 pieces after its client left", got)
	}
}

// TestTurnsBoundMemory checks that jobs begin only while there is memory for them. A prefix uses a
// quarter of it.
func TestTurnsBoundMemory(t *testing.T) {
	m := &turnsModel{t: newTurns(100), wanted: make(map[*turn]map[client]int)}
	for i := range 6 {
		for _, j := range m.add(clientAt(i), 10) {
			j.memory = maxHeld / 16
		}
	}
	m.begin(t)
	if m.t.held != maxHeld || len(m.running) != 16 {
		t.Errorf("%d jobs hold %d bytes", len(m.running), m.t.held)
	}
	for _, p := range m.t.prefixes {
		if p.held > maxHeld/4 {
			t.Errorf("a prefix holds %d bytes", p.held)
		}
	}
	m.t.grow(m.running[0], maxHeld) // a job that has begun continues
	m.t.ended(m.running[0])
	if j := m.t.next(); j != m.running[0] {
		t.Error("a job that has begun has no further turn")
	}
}
