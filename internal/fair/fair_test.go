package fair

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A source keeps a number of requests of its leaf waiting.
type source struct {
	leaf   *Node
	size   func() int64
	served int64
}

// serve serves n units of requests of sources that always wait, and returns what each has had.
func serve(root *Node, n int64, sources []*source) []int64 {
	bySize := make(map[*Request]*source)
	push := func(s *source) {
		r := &Request{Size: s.size()}
		bySize[r] = s
		s.leaf.Push(r)
	}
	for _, s := range sources {
		push(s)
	}
	for sum := int64(0); sum < n; {
		next := root.Next()
		r := root.Pop()
		if r != next {
			panic("Next and Pop differ")
		}
		s := bySize[r]
		s.served += r.Size
		sum += r.Size
		push(s)
	}
	for root.Pop() != nil {
	}
	served := make([]int64, len(sources))
	for i, s := range sources {
		served[i], s.served = s.served, 0
	}
	return served
}

func of(leaf *Node, size int64) *source {
	return &source{leaf: leaf, size: func() int64 { return size }}
}

// TestAttackShareOfStreams gives one client 64 streams and another one: each gets half.
func TestAttackShareOfStreams(t *testing.T) {
	for _, streams := range []int{1, 2, 64, 1000} {
		root := Root()
		greedy, honest := root.Member(), root.Member()
		var sources []*source
		for range streams {
			sources = append(sources, of(greedy.Member(), 1000))
		}
		sources = append(sources, of(honest.Member(), 100))
		served := serve(root, 4_000_000, sources)
		if share := float64(served[streams]) / 4e6; share < 0.499 || share > 0.501 {
			t.Errorf("beside %d streams of another client, one gets %.4f and not half", streams, share)
		}
		if least, most := slices.Min(served[:streams]), slices.Max(served[:streams]); most-least > 2000 {
			t.Errorf("%d streams of a client get %d to %d", streams, least, most)
		}
	}
}

// TestSizes checks that the sizes of requests make no difference.
func TestSizes(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 1))
	root := Root()
	sources := []*source{
		of(root.Member().Member(), 1), of(root.Member().Member(), 5000),
		{leaf: root.Member().Member(), size: func() int64 { return 1 + dice.Int64N(5000) }},
	}
	for i, n := range serve(root, 300_000, sources) {
		if n < 100_000-5000 || n > 100_000+5000 {
			t.Errorf("source %d got %d of 300,000", i, n)
		}
	}
}

// TestIdle checks that an idle member is owed nothing later, and pays for nothing that it had
// alone.
func TestIdle(t *testing.T) {
	root := Root()
	a, b := of(root.Member().Member(), 10), of(root.Member().Member(), 10)
	serve(root, 1_000_000, []*source{a}) // b is idle
	if served := serve(root, 1000, []*source{a, b}); served[0] < 490 || served[1] < 490 {
		t.Errorf("after one was idle they get %v", served)
	}
	serve(root, 1_000_000, []*source{b})
	if served := serve(root, 1000, []*source{a, b}); served[0] < 490 || served[1] < 490 {
		t.Errorf("after the other was idle they get %v", served)
	}
}

// TestOrder checks that requests which begin together are served in the order of arrival, and those
// of a leaf as well.
func TestOrder(t *testing.T) {
	root := Root()
	var want []*Request
	for range 10 {
		r := &Request{Size: 5}
		root.Member().Push(r)
		want = append(want, r)
	}
	for i, r := range want {
		if root.Pop() != r {
			t.Errorf("request %d is not served in turn", i)
		}
	}
	leaf := root.Member()
	first, second := &Request{Size: 1}, &Request{Size: 1}
	leaf.Push(first)
	leaf.Push(second)
	if root.Pop() != first || root.Pop() != second {
		t.Error("a leaf's requests are not served in turn")
	}
	if root.Pop() != nil || root.Next() != nil {
		t.Error("a request remains")
	}
}

// TestRemove compares the tree with a list of the requests that wait, while requests are added,
// removed and served at random.
func TestRemove(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 4))
	root := Root()
	var leaves []*Node
	for range 5 {
		group := root.Member()
		for range 4 {
			leaves = append(leaves, group.Member())
		}
	}
	waits := make(map[*Request]bool)
	for range 100_000 {
		switch dice.IntN(3) {
		case 0:
			r := &Request{Size: 1 + dice.Int64N(100)}
			leaves[dice.IntN(len(leaves))].Push(r)
			waits[r] = true
		case 1:
			for r := range waits {
				if !root.Remove(r) || root.Remove(r) {
					t.Fatal("a request that waits was not removed once")
				}
				delete(waits, r)
				break
			}
		case 2:
			if len(waits) == 0 {
				continue
			}
			r := root.Pop()
			if !waits[r] {
				t.Fatalf("%v was served of %d requests", r, len(waits))
			}
			delete(waits, r)
		}
	}
	for range waits {
		if root.Pop() == nil {
			t.Fatal("a request is lost")
		}
	}
	if root.Pop() != nil || len(root.waiting) != 0 {
		t.Error("a request remains")
	}
}

// TestIdleMembersAreForgotten checks that members that request nothing are not referenced, however
// many sessions there were.
func TestIdleMembersAreForgotten(t *testing.T) {
	root := Root()
	for range 100_000 {
		root.Member().Member().Push(&Request{Size: 1})
		root.Pop()
	}
	if len(root.waiting) != 0 || cap(root.waiting) > 16 {
		t.Errorf("%d of %d members remain", len(root.waiting), cap(root.waiting))
	}
}
