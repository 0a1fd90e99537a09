package serve

import (
	"testing"
	"time"
)

// TestIndexBelievesNoRecentVersion changes a file twice within the granularity of its times, so
// that both contents have one version. The tree of the first must not stand for the second.
func TestIndexBelievesNoRecentVersion(t *testing.T) {
	for _, tt := range []struct {
		name     string
		fraction time.Duration // of the times' second
		hashed   []time.Duration
		opened   []int64 // how often the file was opened after each
	}{
		{"nanoseconds", 123, []time.Duration{0, 500 * time.Millisecond, time.Second, time.Hour}, []int64{1, 2, 3, 3}},
		{"whole seconds", time.Second,
			[]time.Duration{0, 1900 * time.Millisecond, 2 * time.Second, time.Hour}, []int64{1, 2, 3, 3}},
		{"FAT", 0, []time.Duration{0, 2900 * time.Millisecond, 3 * time.Second, time.Hour}, []int64{1, 2, 3, 3}},
		{"old", -time.Hour, []time.Duration{0, time.Second, 2 * time.Second}, []int64{1, 1, 1}},
	} {
		inIndex(t, func(t *testing.T, x *index) {
			d := &slowDisk{size: 1 << 20}
			start := time.Now().Truncate(2 * time.Second).Add(2 * time.Second)
			time.Sleep(time.Until(start.Add(tt.fraction)))
			start = time.Now()
			d.version.Store(start.Add(min(tt.fraction, 0)).UnixNano())
			for i, after := range tt.hashed {
				time.Sleep(time.Until(start.Add(after)))
				e := x.lookup("f", d.now(), d.open)
				<-e.done
				if e.err != nil || d.opened.Load() != tt.opened[i] {
					t.Errorf("%s: %v after the change the file has been opened %d times, want %d: %v",
						tt.name, after, d.opened.Load(), tt.opened[i], e.err)
				}
			}
		})
	}
}

// TestIndexSharesRecentHashing checks that clients share the hashing of a file that just changed. A
// client that requests the file when that time is over has it hashed again.
func TestIndexSharesRecentHashing(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 3 << 20, delay: time.Second} // three reads
		d.version.Store(time.Now().Add(123).UnixNano())
		first := x.lookup("f", d.now(), d.open)
		time.Sleep(900 * time.Millisecond)
		second := x.lookup("f", d.now(), d.open)
		time.Sleep(200 * time.Millisecond)
		third, fourth := x.lookup("f", d.now(), d.open), x.lookup("f", d.now(), d.open)
		if first != second || second == third || third != fourth {
			t.Error("hashing is not shared by the right claims")
		}
		for _, e := range []*indexEntry{first, third} {
			if <-e.done; e.err != nil {
				t.Error(e.err)
			}
		}
		if again := x.lookup("f", d.now(), d.open); again != third || d.opened.Load() != 2 {
			t.Errorf("the file was opened %d times", d.opened.Load())
		}
	})
}

// TestIndexDoubtsWhenTheClockIsSetBack checks that a version of whole seconds is not believed if
// the clock is behind its time, however it became known.
func TestIndexDoubtsWhenTheClockIsSetBack(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		ahead := &slowDisk{size: 1 << 20}
		ahead.version.Store(time.Now().Add(time.Hour).Truncate(time.Second).UnixNano())
		precise := &slowDisk{size: 1 << 20}
		precise.version.Store(ahead.version.Load() + 123)
		for range 3 {
			<-x.lookup("ahead", ahead.now(), ahead.open).done
			<-x.lookup("precise", precise.now(), precise.open).done
		}
		if ahead.opened.Load() != 3 || precise.opened.Load() != 1 {
			t.Errorf("opened %d and %d times, want 3 and 1", ahead.opened.Load(), precise.opened.Load())
		}
	})
}
