package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"slices"
	"sync"
)

// servedBatches holds the batches whose streams are open, and counts those that the server responds
// to.
type servedBatches struct {
	mu           sync.Mutex
	byDescriptor map[string][]*servedBatch // several streams may have the same descriptor
	inProgress   map[*kwik.ServerSession]*batchLimit
}

// A batchLimit bounds the batches of a session that the server responds to.
type batchLimit struct {
	slots chan struct{} // holds an element for each of them
	users int           // batches that have a slot or wait for one; guarded by the lock of servedBatches
}

// A servedBatch holds the files of a stream, in the order of its descriptor. It does not change.
type servedBatch struct {
	versions []disk.Version
	trees    []*integrity.Tree
}

// treeMemory returns the memory of the trees that a batch holds until its stream is released, in
// bytes.
func (b *servedBatch) treeMemory() (n int64) {
	for _, tree := range b.trees {
		n += cvSize * tree.Groups()
	}
	return n
}

// size returns the size of the stream, in bytes.
func (b *servedBatch) size() (n int64) {
	for _, tree := range b.trees {
		n += tree.Size()
	}
	return n
}

func newServedBatches() *servedBatches {
	return &servedBatches{
		byDescriptor: make(map[string][]*servedBatch), inProgress: make(map[*kwik.ServerSession]*batchLimit),
	}
}

// enter waits until the server responds to fewer than maxBatches batches of a session, or ctx ends.
// The caller calls leave at the end of its batch.
func (k *servedBatches) enter(ctx context.Context, session *kwik.ServerSession) (leave func(), err error) {
	k.mu.Lock()
	limit := k.inProgress[session]
	if limit == nil {
		limit = &batchLimit{slots: make(chan struct{}, maxBatches)}
		k.inProgress[session] = limit
	}
	limit.users++
	k.mu.Unlock()
	gone := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if limit.users--; limit.users == 0 {
			delete(k.inProgress, session)
		}
	}
	select {
	case limit.slots <- struct{}{}:
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
	return func() {
		<-limit.slots
		gone()
	}, nil
}

func (k *servedBatches) add(descriptor string, b *servedBatch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byDescriptor[descriptor] = append(k.byDescriptor[descriptor], b)
}

func (k *servedBatches) remove(descriptor string, b *servedBatch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.byDescriptor[descriptor]
	if i := slices.Index(all, b); i >= 0 {
		all = slices.Delete(all, i, i+1)
	}
	if len(all) == 0 {
		delete(k.byDescriptor, descriptor)
		return
	}
	k.byDescriptor[descriptor] = all
}

// newest returns the batch of the newest open stream with a descriptor. ok is false if this
// server opened none.
func (k *servedBatches) newest(descriptor string) (b *servedBatch, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.byDescriptor[descriptor]
	if len(all) == 0 {
		return nil, false
	}
	return all[len(all)-1], true
}
