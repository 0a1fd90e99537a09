package kwik

import "testing"

func TestDefaultMemoryLimit(t *testing.T) {
	for machine, want := range map[int64]int64{
		0: 64 << 20, 128 << 20: 64 << 20, 256 << 20: 64 << 20, 1 << 30: 256 << 20, 8 << 30: 2 << 30,
		16 << 30: 4 << 30, 1 << 40: 4 << 30, 1<<63 - 1: 4 << 30,
	} {
		if got := defaultMemoryLimit(machine); got != want {
			t.Errorf("memory of %d bytes: %d, want %d", machine, got, want)
		}
	}
	for limit, want := range map[int64]int64{1: 16 << 20, 16<<20 + 1: 16<<20 + 1, 1 << 40: 1 << 40} {
		c, err := (&ServerConfig{MemoryLimit: limit}).effective()
		if err != nil || c.MemoryLimit != want {
			t.Errorf("MemoryLimit %d: %v, %v", limit, c, err)
		}
	}
	if c, err := (&ServerConfig{}).effective(); err != nil || c.MemoryLimit < 64<<20 {
		t.Errorf("default: %v, %v", c, err)
	}
}

// A session may reserve an eighth of the memory, and each of all sessions its floor.
func TestReserve(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		s := w.serve(ServerRolePrimary, configured(func(c *ServerConfig) { c.MemoryLimit, c.MaxSessions = 64<<20, 4 }))
		w.t.Cleanup(s.stop)
		session := func() *ServerSession {
			w.fakeGuest(s, newSessionID(), "", nil)
			return <-s.sessions
		}
		a := session()
		before := s.memory.Used()
		wantError(t, a.Reserve(8<<20+1), ErrServerBusy)
		if err := a.Reserve(4 << 20); err != nil {
			t.Error(err)
		}
		wantError(t, a.Reserve(4<<20+1), ErrServerBusy)
		wantError(t, a.Reserve(-1), ErrServerBusy)
		for range 2 {
			b := session()
			if err := b.Reserve(memoryFloor); err != nil {
				t.Error(err)
			}
			defer b.Release(memoryFloor)
		}
		if used := s.memory.Used() - before; used != 4<<20+2*memoryFloor {
			t.Errorf("%d bytes are used", used)
		}
		a.CloseWithError(0, "")
		<-a.Context().Done()
		a.Release(4 << 20)
		if used := s.memory.Used() - before; used != 2*memoryFloor {
			t.Errorf("%d bytes are used in the end", used)
		}
	})
}
