package checksum

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxList bounds a checksum file that is held in memory, in bytes.
const maxList = 256 << 20

// A List is a checksum file in memory.
type List struct {
	// Malformed counts the lines that could not be parsed.
	Malformed int64

	sums  map[string][]Sum    // by cleaned name, all of which a file must have
	bases map[string][]string // cleaned names by their last component
}

// ReadList reads a checksum file. It is an error if no line has a hash.
func ReadList(r io.Reader) (*List, error) {
	l := &List{sums: make(map[string][]Sum), bases: make(map[string][]string)}
	limited := &io.LimitedReader{R: r, N: maxList + 1}
	lines := NewReader(limited)
	for {
		line, err := lines.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		l.add(line)
	}
	l.Malformed = lines.Malformed
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("it is longer than %d bytes", maxList)
	case lines.Lines == 0:
		return nil, errors.New("no line has a hash and a name")
	}
	return l, nil
}

func (l *List) add(line Line) {
	name := clean(line.Name)
	if l.sums[name] == nil {
		base := path.Base(name)
		l.bases[base] = append(l.bases[base], name)
	}
	if !slices.Contains(l.sums[name], line.Sum) {
		l.sums[name] = append(l.sums[name], line.Sum)
	}
}

// clean returns a name without what does not matter, such as "./" at its start.
func clean(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

// Names returns all names, cleaned, in order.
func (l *List) Names() iter.Seq[string] {
	return slices.Values(slices.Sorted(maps.Keys(l.sums)))
}

// InTree returns the sums of a file of a tree, and the name in the list. at is the path of the file
// below the tree, and above that of the tree on its server. A name in the list is relative to the
// tree, or else to a directory above it. It returns no sums if the list does not name the file.
func (l *List) InTree(above, at string) (name string, sums []Sum) {
	full := path.Join(above, at)
	for start := len(full) - len(at); ; {
		if sums := l.sums[full[start:]]; sums != nil {
			return full[start:], sums
		}
		if start == 0 {
			return "", nil
		}
		start = strings.LastIndexByte(full[:start-1], '/') + 1
	}
}

// OfFile returns the sums of the file with a path on a server. The list names it by this path, by
// the end of it, or by its last component in some directory. It returns no sums if the list does
// not name the file, and an error if it does not do so clearly.
func (l *List) OfFile(at string) ([]Sum, error) {
	base := path.Base(at)
	for rest, isBelow := at, true; isBelow; _, rest, isBelow = strings.Cut(rest, "/") {
		if sums := l.sums[rest]; sums != nil {
			return sums, conflict(base, sums)
		}
	}
	names := l.bases[base]
	if len(names) == 0 {
		return nil, nil
	}
	sums := l.sums[names[0]]
	for _, other := range names[1:] {
		if !slices.Equal(sums, l.sums[other]) {
			return nil, fmt.Errorf("it names several files %q, such as %q and %q", base, names[0], other)
		}
	}
	return sums, conflict(base, sums)
}

// Check returns an error if a name has different hashes of the same algorithm.
func (l *List) Check() error {
	for _, name := range slices.Sorted(maps.Keys(l.sums)) {
		if err := conflict(name, l.sums[name]); err != nil {
			return err
		}
	}
	return nil
}

// conflict returns an error if a file cannot have all of sums: there are more different hashes than
// algorithms that could have made them.
func conflict(name string, sums []Sum) error {
	for _, s := range sums {
		like := 0
		for _, other := range sums {
			if s.algorithm == other.algorithm && len(s.value) == len(other.value) {
				like++
			}
		}
		if like > len(s.Algorithms()) {
			return fmt.Errorf("it has different hashes for %q", name)
		}
	}
	return nil
}
