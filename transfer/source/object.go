package source

import (
	"context"
	"io"
	"io/fs"
	"time"

	"kwikcp/transfer/disk"
)

// An object is an open object of a store.
type object struct {
	root   *remote
	info   remoteInfo
	ctx    context.Context // ends when the object is closed
	cancel context.CancelFunc
}

func (r *remote) open(ctx context.Context, name string) (Object, error) {
	info, err := r.stat(ctx, name, true)
	if err != nil {
		return nil, err
	}
	if info.isDir {
		return nil, disk.ErrNotAFile
	}
	o := &object{root: r, info: remoteInfo{disk.Base(name), info}}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o, nil
}

// Stat implements Object.
func (o *object) Stat() (fs.FileInfo, error) { return &o.info, nil }

// Close implements Object.
func (o *object) Close() error {
	o.cancel()
	return nil
}

// ReadAt implements io.ReaderAt.
func (o *object) ReadAt(p []byte, off int64) (n int, err error) {
	left := o.info.size - off
	if left <= 0 {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), left)]
	body, _, err := o.root.store.get(o.ctx, o.info.objectInfo.name, &o.info.objectInfo, off, off+int64(len(want)))
	if err != nil {
		if err == disk.ErrChanged {
			o.root.know(func(n *names, _ time.Time) { n.forget(o.info.objectInfo.name) })
		}
		return 0, err
	}
	defer body.Close()
	n, err = io.ReadFull(body, want)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
