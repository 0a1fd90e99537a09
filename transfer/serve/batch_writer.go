package serve

import (
	"context"
	"kwikcp/transfer/internal/wire"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A batchWriter collects replies and writes several at a time: those of small files are short.
type batchWriter struct {
	replyWriter
	buf []byte
}

// batchWrite is the size, in bytes, from which on collected replies are written.
const batchWrite = 32 << 10

func (w *batchWriter) put(r *transferpb.Reply) error {
	var err error
	if w.buf, err = wire.AppendMessage(w.buf, r); err != nil {
		return err
	}
	if len(w.buf) < batchWrite {
		return nil
	}
	return w.flush()
}

func (w *batchWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.stream.SetWriteDeadline(time.Now().Add(requestTimeout))
	_, err := w.stream.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		return sendError{err}
	}
	return nil
}

// describe writes the description of each file of a batch, in order, as soon as it is known, and
// then passes the file to add.
func (w *batchWriter) describe(
	ctx context.Context, b *batch, files <-chan *batchFile, add func(*batchFile) error,
) error {
	ticker := time.NewTicker(wire.HashingInterval)
	defer ticker.Stop()
	var faults faults
	defer func() { faults.report(w.log) }()
	hashing := &transferpb.Hashing{Total: uint64(b.count)}
	for f := range files {
		if err := w.await(ctx, f, ticker.C, hashing); err != nil {
			return err
		}
		faults.note(f.path, f.err)
		if err := w.file(f); err != nil {
			return err
		}
		if err := add(f); err != nil {
			return err
		}
		hashing.Bytes++
	}
	return ctx.Err()
}

// await waits until a file has been inspected. At each tick it writes hashing.
func (w *batchWriter) await(
	ctx context.Context, f *batchFile, tick <-chan time.Time, hashing *transferpb.Hashing,
) error {
	select {
	case <-f.done:
		return nil // nothing has to be written before the buffer is full
	default:
	}
	for {
		if err := w.flush(); err != nil {
			return err
		}
		select {
		case <-f.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			if err := w.put(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: hashing}}); err != nil {
				return err
			}
		}
	}
}

// file writes the description of one file: its manifest and tree, or a failure.
func (w *batchWriter) file(f *batchFile) error {
	if f.err != nil {
		return w.putFile(&transferpb.BatchFile{File: &transferpb.BatchFile_Failure{Failure: failureOf(f.err)}})
	}
	root := f.tree.Root()
	manifest := &transferpb.Manifest{
		Size: uint64(f.tree.Size()), Root: root[:], Group: uint32(f.tree.GroupSize()), Mode: f.mode,
	}
	manifest.MtimeNs, manifest.MtimeEra = wire.SplitTime(f.mtime)
	f.holes.announce(manifest)
	n := min(wire.TreePart-1024-len(f.holes.raw), w.values()) // leaves space for the manifest
	part := f.tree.AppendCVs(nil, 0, n-n%wire.HashSize)
	err := w.putFile(&transferpb.BatchFile{
		File: &transferpb.BatchFile_Manifest{Manifest: manifest}, ChainingValues: part,
	})
	if err != nil {
		return err
	}
	for off := len(part); ; off += len(part) {
		if part = f.tree.AppendCVs(part[:0], off, w.values()); len(part) == 0 {
			return nil
		}
		tree := &transferpb.Tree{ChainingValues: part}
		if err := w.put(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: tree}}); err != nil {
			return err
		}
	}
}

func (w *batchWriter) putFile(f *transferpb.BatchFile) error {
	return w.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchFile{BatchFile: f}})
}
