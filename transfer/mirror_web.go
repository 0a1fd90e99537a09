package transfer

import (
	"context"
	"fmt"
	"io"
	"kwikcp/internal/webfile"
	"kwikcp/kwik"
	"path"
	"slices"
)

// minWebFile is the size in bytes from which on a file of a batch is taken from web mirrors. There
// each file takes a request.
const minWebFile = 256 << 10

// addWebMirrors adds the web mirrors to the stream of a batch.
func (r *round) addWebMirrors(b *batch, stream *kwik.AggregateReader) {
	sources := r.web.choose(b.webMirrors, true)
	missing, isAll := b.notOnWeb()
	if isAll {
		return
	}
	for _, source := range sources {
		w := &webBatch{batch: b, dir: r.url.Path, source: source, files: make([]*webfile.File, len(b.stream))}
		for i, f := range b.stream {
			var err error
			if w.files[i], err = source.file(path.Join(w.dir, f.entry.Path), f.tree.Size()); err != nil {
				w = nil
				break
			}
		}
		if w != nil {
			stream.AddExternal(source.ExternalSource, w.fetch, missing...)
		}
	}
}

// notOnWeb returns the ranges of the stream that are small files. isAll is true if all are.
func (b *batch) notOnWeb() (missing []kwik.Range, isAll bool) {
	isAll = true
	for _, f := range b.stream {
		if f.tree.Size() >= minWebFile {
			isAll = false
			continue
		}
		end := f.start + f.tree.Size()
		if last := len(missing) - 1; last >= 0 && missing[last].End == f.start {
			missing[last].End = end
		} else {
			missing = append(missing, kwik.Range{Start: f.start, End: end})
		}
	}
	return missing, isAll
}

// A webBatch fetches bytes of a batch's stream from a web mirror.
type webBatch struct {
	*batch
	dir    string
	source *webSource
	files  []*webfile.File // those of the stream
}

// fetch is a kwik.FetchFunc.
func (w *webBatch) fetch(ctx context.Context, start, end int64) (io.ReadCloser, error) {
	i, found := slices.BinarySearchFunc(w.stream, start, func(f *mirrorFile, off int64) int {
		return int(min(max(f.start-off, -1), 1))
	})
	if !found {
		i--
	}
	r := &webBatchReader{w: w, ctx: ctx, next: i, off: start, end: end}
	return r, r.open()
}

// A webBatchReader reads a range of a batch's stream, with one request for each file in it.
type webBatchReader struct {
	w        *webBatch
	ctx      context.Context
	next     int // index of the file that follows
	off, end int64
	body     io.ReadCloser
	left     int64 // bytes of body
}

// open requests the part of the range that is in the next file.
func (r *webBatchReader) open() error {
	f := r.w.stream[r.next]
	end := min(r.end, f.start+f.tree.Size())
	body, err := r.w.files[r.next].Fetch(r.ctx, r.off-f.start, end-f.start)
	if err != nil {
		return fetchError(fmt.Errorf("%s: %w", r.w.source.host, err))
	}
	r.body, r.left = body, end-r.off
	r.next++
	return nil
}

func (r *webBatchReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		if r.off == r.end {
			return 0, io.EOF
		}
		r.body.Close()
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.off, r.left = r.off+int64(n), r.left-int64(n)
	if err == io.EOF {
		err = nil
		if n == 0 && r.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (r *webBatchReader) Close() error {
	if r.body != nil {
		return r.body.Close()
	}
	return nil
}
