package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"

	"github.com/minio/minio-go/v7"
	"github.com/zeebo/blake3"
)

const (
	// hiddenDir is below the prefix of a bucket. It is not served. treesDir has the files of hash
	// trees.
	hiddenDir = ".kwikcp"
	treesDir  = hiddenDir + "/trees/"
	// treeNameBytes is the length of their names, in bytes before they are written in hex.
	treeNameBytes = 20
	// maxTreeFile bounds such a file, in bytes: the tree of a file of about 500 GiB.
	maxTreeFile = 256 << 20
)

// TreeFiles are files beside the objects of a bucket, in which servers share hash trees. Each has a
// key and a content, which their user encodes and checks: all that may write to the bucket may
// write them.
type TreeFiles struct{ store *s3Store }

// treeFile returns the name of the file of a key.
func treeFile(key []byte) string {
	sum := blake3.Sum256(key)
	return treesDir + hex.EncodeToString(sum[:treeNameBytes])
}

// Get returns the file of a key. The error matches fs.ErrNotExist if there is none.
func (t *TreeFiles) Get(ctx context.Context, key []byte) ([]byte, error) {
	name := treeFile(key)
	at, ok := t.store.at.key(name)
	if !ok {
		return nil, fs.ErrNotExist
	}
	body, info, err := t.store.getKey(ctx, name, at, nil, 0, maxTreeFile)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if info.size > maxTreeFile {
		return nil, errors.New("the file of a hash tree is too large")
	}
	content := bytes.NewBuffer(make([]byte, 0, min(info.size, 1<<20)))
	if _, err := io.Copy(content, body); err != nil {
		return nil, t.store.unavailable(err)
	}
	return content.Bytes(), nil
}

// Put writes the file of a key. The error matches fs.ErrPermission if the bucket may not be written
// to.
func (t *TreeFiles) Put(ctx context.Context, key, content []byte) error {
	name, ok := t.store.at.key(treeFile(key))
	if !ok || len(content) > maxTreeFile {
		return fs.ErrInvalid
	}
	err := t.store.retry(ctx, func() error {
		_, err := t.store.core.PutObject(ctx, t.store.at.Bucket, name, bytes.NewReader(content), int64(len(content)),
			"", "", minio.PutObjectOptions{ContentType: "application/octet-stream"})
		return err
	})
	return t.store.failed(err, false)
}
