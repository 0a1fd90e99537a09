package integrity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/zeebo/blake3"
)

// pattern is the input of the official test vectors: byte i is i mod 251.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return p
}

func build(t testing.TB, p []byte, g GroupSize) *Tree {
	t.Helper()
	tree, err := Build(t.Context(), bytes.NewReader(p), int64(len(p)), g, nil)
	if err != nil {
		t.Fatalf("Build of %d bytes, group size %d: %v", len(p), g, err)
	}
	return tree
}

func equal(a, b *Tree) bool {
	return a.size == b.size && a.g == b.g && a.root == b.root && bytes.Equal(a.cvs, b.cvs)
}

var testGroupSizes = []GroupSize{0, 4, 6}

// lengths returns file sizes at which trees change shape: one byte around each power
// of two, and multiples of a few primes up to 70,000.
func lengths() []int {
	var ns []int
	top := 1 << 22
	if !testing.Short() && !raceEnabled {
		top = 1 << 26
	}
	for n := 2; n <= top; n *= 2 {
		ns = append(ns, n-1, n, n+1)
	}
	for _, step := range []int{61, 127, 257, 1021} {
		for n := 0; n <= 70_000; n += step {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return slices.Compact(ns)
}

// checkRoots compares the root of the first n bytes, for each of the group sizes,
// with the root of the other library.
func checkRoots(t *testing.T, data []byte, n int, sizes []GroupSize) {
	t.Helper()
	want := Root(blake3.Sum256(data[:n]))
	for _, g := range sizes {
		if got := build(t, data[:n], g); got.Root() != want || got.Size() != int64(n) || got.GroupSize() != g {
			t.Fatalf("%d bytes, group size %d: root %s, want %s", n, g, got.Root(), want)
		}
	}
}

func TestBuildRootIsBLAKE3(t *testing.T) {
	ns := lengths()
	data := pattern(slices.Max(ns))
	for i, n := range ns {
		sizes := testGroupSizes
		if n > 1<<22 { // one of them is enough work
			sizes = testGroupSizes[i%3:][:1]
		}
		checkRoots(t, data, n, sizes)
	}
}

// The test builds every length up to 3 chunks, which leave SIMD lanes empty, and then
// every seventh length.
func TestBuildRootOfEveryLength(t *testing.T) {
	data := pattern(70_001)
	for n := 0; n <= 70_000; n++ {
		beyondChunks := n > 3*chunkSize
		slow := testing.Short() || raceEnabled
		if (beyondChunks && n%7 != 0) || (slow && n%11 != 0) {
			continue
		}
		checkRoots(t, data, n, []GroupSize{GroupSize(n % 8)})
	}
}

func TestBuildCVsAreTheReferences(t *testing.T) {
	data := pattern(140_000)
	for g := GroupSize(0); g.Valid(); g++ {
		unit := int(g.Bytes())
		for _, n := range []int{0, 1, 1024, 1025, unit - 1, unit, unit + 1, 2*unit - 1, 2 * unit, 2*unit + 1,
			3 * unit, 4*unit + 1025, 5*unit + 700, 17*unit + 1, len(data)} {
			if n > len(data) {
				continue
			}
			if !equal(build(t, data[:n], g), refTree(data[:n], uint8(g))) {
				t.Errorf("%d bytes, group size %d: not the reference's tree", n, g)
			}
		}
	}
}

// The vectors are all of test_vectors.json of the BLAKE3 team. They catch an error
// that the package shares with the reference or with the other library.
func TestBuildOfficialVectors(t *testing.T) {
	for n, want := range map[int]string{
		0:      "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		1:      "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
		2:      "7b7015bb92cf0b318037702a6cdd81dee41224f734684c2c122cd6359cb1ee63",
		3:      "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f",
		4:      "f30f5ab28fe047904037f77b6da4fea1e27241c5d132638d8bedce9d40494f32",
		5:      "b40b44dfd97e7a84a996a91af8b85188c66c126940ba7aad2e7ae6b385402aa2",
		6:      "06c4e8ffb6872fad96f9aaca5eee1553eb62aed0ad7198cef42e87f6a616c844",
		7:      "3f8770f387faad08faa9d8414e9f449ac68e6ff0417f673f602a646a891419fe",
		8:      "2351207d04fc16ade43ccab08600939c7c1fa70a5c0aaca76063d04c3228eaeb",
		63:     "e9bc37a594daad83be9470df7f7b3798297c3d834ce80ba85d6e207627b7db7b",
		64:     "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98",
		65:     "de1e5fa0be70df6d2be8fffd0e99ceaa8eb6e8c93a63f2d8d1c30ecb6b263dee",
		127:    "d81293fda863f008c09e92fc382a81f5a0b4a1251cba1634016a0f86a6bd640d",
		128:    "f17e570564b26578c33bb7f44643f539624b05df1a76c81f30acd548c44b45ef",
		129:    "683aaae9f3c5ba37eaaf072aed0f9e30bac0865137bae68b1fde4ca2aebdcb12",
		1023:   "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
		1024:   "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
		1025:   "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
		2048:   "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
		2049:   "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
		3072:   "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2",
		3073:   "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
		4096:   "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969",
		4097:   "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995",
		5120:   "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833",
		5121:   "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff",
		6144:   "3e2e5b74e048f3add6d21faab3f83aa44d3b2278afb83b80b3c35164ebeca205",
		6145:   "f1323a8631446cc50536a9f705ee5cb619424d46887f3c376c695b70e0f0507f",
		7168:   "61da957ec2499a95d6b8023e2b0e604ec7f6b50e80a9678b89d2628e99ada77a",
		7169:   "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817",
		8192:   "aae792484c8efe4f19e2ca7d371d8c467ffb10748d8a5a1ae579948f718a2a63",
		8193:   "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b",
		16384:  "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4",
		31744:  "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
		102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
	} {
		data := pattern(n)
		if ref := Root(refHash(data, 0, refRoot)); ref.String() != want {
			t.Errorf("%d bytes: reference %s, want %s", n, ref, want)
		}
		for _, g := range testGroupSizes {
			if got := build(t, data, g).Root().String(); got != want {
				t.Errorf("%d bytes, group size %d: %s, want %s", n, g, got, want)
			}
		}
	}
}

// probe is a file that counts its reads.
type probe struct {
	*bytes.Reader
	reads, now, most atomic.Int64
	longest          atomic.Int64 // bytes
	onRead           func(nth int64) error
}

func (p *probe) ReadAt(b []byte, off int64) (int, error) {
	storeMax(&p.most, p.now.Add(1))
	defer p.now.Add(-1)
	storeMax(&p.longest, int64(len(b)))
	if n := p.reads.Add(1); p.onRead != nil {
		if err := p.onRead(n); err != nil {
			return 0, err
		}
	}
	return p.Reader.ReadAt(b, off)
}

func storeMax(a *atomic.Int64, n int64) {
	for old := a.Load(); n > old && !a.CompareAndSwap(old, n); old = a.Load() {
	}
}

func TestBuildReadsOnceInBoundedBlocks(t *testing.T) {
	data := pattern(5<<20 + 7)
	for _, size := range []int64{0, 1, 1 << 20, 1<<20 + 1, 5 << 20} { // the file may be longer
		r := probe{Reader: bytes.NewReader(data)}
		if _, err := Build(t.Context(), &r, size, 6, nil); err != nil {
			t.Fatal(err)
		}
		if want := (size + 1<<20 - 1) >> 20; r.reads.Load() != want {
			t.Errorf("size %d: %d reads, want %d", size, r.reads.Load(), want)
		}
		if r.longest.Load() > 1<<20 || r.most.Load() > int64(cores) {
			t.Errorf("size %d: reads of %d bytes, %d at once", size, r.longest.Load(), r.most.Load())
		}
	}
}

func TestBuildCancel(t *testing.T) {
	data := pattern(16 << 20)
	for _, size := range []int64{0, 1000, 16 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := probe{Reader: bytes.NewReader(data)}
		if tree, err := Build(ctx, &r, size, 6, nil); !errors.Is(err, context.Canceled) || tree != nil {
			t.Errorf("size %d, cancelled before: %v, %v", size, tree, err)
		}
		if r.reads.Load() != 0 {
			t.Errorf("size %d: read %d times after cancel", size, r.reads.Load())
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	workers := int64(cores)
	cancelled := make(chan struct{}) // closed when every worker can see it
	r := probe{Reader: bytes.NewReader(data), onRead: func(nth int64) error {
		switch {
		case nth == 2:
			cancel()
			close(cancelled)
		case nth > 2:
			<-cancelled
		}
		return nil
	}}
	if tree, err := Build(ctx, &r, int64(len(data)), 6, nil); !errors.Is(err, context.Canceled) || tree != nil {
		t.Errorf("cancelled within: %v, %v", tree, err)
	}
	// Each worker may have checked ctx already, and then finishes one block.
	if n := r.reads.Load(); n > 2+workers || r.now.Load() != 0 {
		t.Errorf("cancelled at the 2nd read: %d reads, %d still running", n, r.now.Load())
	}
}

func TestBuildShortRead(t *testing.T) {
	data := pattern(3<<20 + 5)
	for _, c := range []struct{ held, size int64 }{
		{0, 1}, {999, 1000}, {1 << 20, 1<<20 + 1}, {1<<20 - 1, 3 << 20}, {3 << 20, 3<<20 + 5},
	} {
		tree, err := Build(t.Context(), bytes.NewReader(data[:c.held]), c.size, 4, nil)
		var short *ShortReadError
		if !errors.As(err, &short) || tree != nil || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: %v, %v", c.held, c.size, tree, err)
		}
		if short.Size != c.size || short.Offset < c.held || short.Offset >= c.size {
			t.Errorf("%d of %d bytes: %+v", c.held, c.size, short)
		}
	}
}

// eager reports io.EOF along with the last bytes, as an io.ReaderAt may.
type eager struct{ *bytes.Reader }

func (e eager) ReadAt(b []byte, off int64) (int, error) {
	n, err := e.Reader.ReadAt(b, off)
	if off+int64(n) == e.Size() {
		err = io.EOF
	}
	return n, err
}

func TestBuildEOFWithTheLastBytes(t *testing.T) {
	data := pattern(1<<20 + 5)
	for _, n := range []int{1, 1 << 20, len(data)} {
		tree, err := Build(t.Context(), eager{bytes.NewReader(data[:n])}, int64(n), 6, nil)
		if err != nil || !equal(tree, build(t, data[:n], 6)) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestBuildReadError(t *testing.T) {
	broken := errors.New("disk on fire")
	r := probe{Reader: bytes.NewReader(pattern(4 << 20)), onRead: func(nth int64) error {
		if nth == 3 {
			return broken
		}
		return nil
	}}
	tree, err := Build(t.Context(), &r, 4<<20, 6, nil)
	var short *ShortReadError
	if !errors.Is(err, broken) || errors.As(err, &short) || tree != nil {
		t.Errorf("%v, %v, want %v", tree, err, broken)
	}
	if n := r.now.Load(); n != 0 {
		t.Errorf("%d reads still running", n)
	}
}

func TestBuildMisuse(t *testing.T) {
	for _, c := range []struct {
		size int64
		g    GroupSize
	}{{-1, 6}, {math.MinInt64, 6}, {1, 11}, {1, 255}, {math.MaxInt64, 10}, {math.MaxInt64, 0}, {MaxGroups<<10 + 1, 0}} {
		r := probe{Reader: bytes.NewReader(nil)}
		if tree, err := Build(t.Context(), &r, c.size, c.g, nil); err == nil || tree != nil || r.reads.Load() != 0 {
			t.Errorf("size %d, group size %d: %v, %v", c.size, c.g, tree, err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	data := pattern(64 << 20)
	for _, g := range []GroupSize{4, 6, 10} {
		b.Run(fmt.Sprintf("group=%dKiB", g.Bytes()>>10), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				build(b, data, g)
			}
		})
	}
}

// BenchmarkZeebo measures the other library on one core, for comparison.
func BenchmarkZeebo(b *testing.B) {
	data := pattern(64 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		blake3.Sum256(data)
	}
}
