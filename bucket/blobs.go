package bucket

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"sync"
	"time"

	"github.com/volehq/vole/bucket/internal/blob"
	"github.com/volehq/vole/driver"
)

const (
	// chunkSize is the most bytes of one chunk, and so of one blob.
	chunkSize = 8 << 20
	// sumSize is how many bytes of a blob one checksum covers: the least that is read.
	sumSize = 64 << 10
)

// blobKey is the key of a blob's object.
func blobKey(org, id []byte) string {
	// UUIDv7 begins with the time; its end is random, and spreads the keys.
	h := hex.EncodeToString(id)
	return orgPrefix(org) + "b/" + h[len(h)-2:] + "/" + h
}

func orgPrefix(org []byte) string { return "o/" + hex.EncodeToString(org) + "/" }

// sumsOf returns the checksums of a blob's parts, and that of all of it.
func sumsOf(data []byte) (parts []byte, whole uint32) {
	for off := 0; off < len(data); off += sumSize {
		part := data[off:min(off+sumSize, len(data))]
		parts = binary.BigEndian.AppendUint32(parts, crc32.Checksum(part, blob.Castagnoli))
		whole = crc32.Update(whole, blob.Castagnoli, part)
	}
	return parts, whole
}

// verify checks bytes that were read from offset off of a blob; off is a multiple of
// sumSize, and so is the end unless it is that of the blob.
func verify(data []byte, off int64, sums []byte) error {
	for i := int(off / sumSize); len(data) > 0; i++ {
		part := data[:min(sumSize, len(data))]
		data = data[len(part):]
		if len(sums) < 4*(i+1) || binary.BigEndian.Uint32(sums[4*i:]) != crc32.Checksum(part, blob.Castagnoli) {
			return driver.Errorf(driver.ErrCorrupt, "an object of the blob store does not hold what was put there (checksum %d)", i)
		}
	}
	return nil
}

// newBlob is a blob that a transaction is about to use: with data it lives in its
// row, otherwise its object has been put.
type newBlob struct {
	id   []byte
	size int64
	sums []byte
	data []byte
}

// put makes a blob of data: few bytes are only wrapped, others are put into the store.
func (b *Backend) put(ctx context.Context, data []byte) (*newBlob, error) {
	n := &newBlob{size: int64(len(data))}
	if len(data) <= b.ns.opts.Inline {
		n.id, n.data = newID(), data
		return n, nil
	}
	var whole uint32
	n.sums, whole = sumsOf(data)
	var err error
	if n.id, err = b.ns.ids.take(ctx, b.org); err != nil {
		return nil, err
	}
	return n, b.ns.blobs.Put(ctx, blobKey(b.org, n.id), data, whole)
}

// use lets a transaction refer to a blob: its row is made, or no longer free.
func (b *Backend) use(t tx, n *newBlob) {
	if n.data != nil {
		t.later(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, $3, $4, {now})`, b.org, n.id, n.size, n.data)
		return
	}
	// When the row is gone (the grace time went by) the chunk's foreign key fails.
	t.later(`UPDATE blobs SET freed = NULL, size = $3, sums = $4 WHERE org = $1 AND id = $2`, b.org, n.id, n.size, n.sums)
}

// idPool has ids of blobs that are registered and not used yet, so that not every
// write waits for a commit before it may put its bytes.
type idPool struct {
	ns *Namespace

	mu  sync.Mutex // guards all below; held while ids are registered
	ids map[string]*registered
}

type registered struct {
	ids  [][]byte
	at   time.Time // by the wall clock, which goes on while the host sleeps
	next int       // how many to register when these are used up
}

const (
	// maxRegister bounds how many ids are registered at once.
	maxRegister = 256
	// poolLife is for how long ids that were registered are used, at most a quarter of
	// the grace time: far shorter than unusedKept, for which any sweeper leaves them.
	poolLife = 5 * time.Minute
)

// forget gives up the ids that an organisation has in reserve, because a sweeper with a
// shorter grace time has taken some.
func (p *idPool) forget(org []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.ids[string(org)]; r != nil {
		r.ids = nil
	}
}

// fresh reports whether the ids have not lain about for too long.
func (r *registered) fresh(grace time.Duration) bool {
	age := time.Since(r.at)
	return age >= 0 && age <= min(poolLife, grace/4)
}

// take returns the id of a registered blob.
func (p *idPool) take(ctx context.Context, org []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ids == nil {
		p.ids = map[string]*registered{}
	}
	r := p.ids[string(org)]
	if r == nil {
		r = &registered{next: 4}
		p.ids[string(org)] = r
	}
	// Ids that have lain about for long are left to the sweeper.
	if len(r.ids) == 0 || !r.fresh(p.ns.opts.Grace) {
		at := time.Now().Round(0)
		list := make([][]byte, r.next)
		err := p.ns.db.write(ctx, nil, false, func(t tx) error {
			for i := range list {
				list[i] = newID()
				t.later(`INSERT INTO blobs (org, id, size, created, freed) VALUES ($1, $2, 0, {now}, {now})`, org, list[i])
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		r.ids, r.at, r.next = list, at, min(2*r.next, maxRegister)
	}
	id := r.ids[len(r.ids)-1]
	r.ids = r.ids[:len(r.ids)-1]
	return id, nil
}
