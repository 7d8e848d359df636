package bucket

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/internal/sqldb"
)

// reserveSizes are the size classes of registrations, in bytes. A put takes the smallest class
// that holds it; once used, the blob counts with its true size.
var reserveSizes = [...]int64{128 << 10, 1 << 20, chunkSize}

// inlineClass is the class that the credit for inline blobs is taken from.
const inlineClass = 1

const (
	// maxRegister bounds how many blobs one transaction registers.
	maxRegister = 256
	// maxIdle bounds the bytes of one class that a process has in reserve.
	maxIdle = 64 << 20
	// reserveLife is how long a registration may be used, if that is less than a quarter of
	// the grace time. It is far shorter than minNeverUsedGrace, for which every sweeper keeps it.
	reserveLife = 5 * time.Minute
	// refusedLife is how long ErrNoSpace is returned again without asking the database.
	refusedLife = 500 * time.Millisecond
	// ownerLease is how long the registrations of a process that went silent are kept.
	ownerLease = 2 * time.Minute
)

// reservePool holds blobs that this process has registered and not used yet, so that a write
// need not wait for a registration to commit before it puts its bytes. They count as
// unreferenced bytes from their registration on, so a put need not check that bound again.
type reservePool struct {
	ns *Namespace

	mu           sync.Mutex // guards what follows
	orgs         map[string]*orgReserve
	ownerClaimed bool // a row of jobs says that this process is alive, and is renewed
}

// orgReserve is what one organisation has in reserve. Hold its lock to use it.
type orgReserve struct {
	busy chan struct{} // the lock: full while it is held; a channel, so that ctx ends waiting

	ready        [len(reserveSizes)][][]byte // ids of registered blobs, by class
	nextCount    [len(reserveSizes)]int      // how many to register next, by class
	oldestAt     time.Time                   // when the oldest was registered, by the wall clock, which goes on while the host sleeps
	neverPut     [][]byte                    // ids whose rows are to be deleted, as no put was begun
	inlineCredit int64                       // bytes that may still be stored inline
	inlineBlob   []byte                      // the registration that the credit is taken from
	abandoned    []abandonedBlob             // blobs that the database must still be told of
	refusal      error                       // ErrNoSpace of the last registration, valid until refusedUntil
	refusedUntil time.Time                   // see refusal
}

// abandonedBlob is a registered blob whose put has ended, and that no commit will use.
type abandonedBlob struct {
	id        []byte
	mayArrive bool // the put failed, and its object may still appear
}

// forOrg returns the reserve of an organisation.
func (pool *reservePool) forOrg(org []byte) *orgReserve {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	reserve := pool.orgs[string(org)]
	if reserve == nil {
		reserve = &orgReserve{busy: make(chan struct{}, 1)}
		pool.orgs[string(org)] = reserve
	}
	return reserve
}

// lock waits for the lock, or for ctx to end.
func (reserve *orgReserve) lock(ctx context.Context) error {
	select {
	case reserve.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (reserve *orgReserve) unlock() { <-reserve.busy }

// isFresh reports whether the registrations in reserve are young enough to be used.
func (reserve *orgReserve) isFresh(grace time.Duration) bool {
	age := time.Since(reserve.oldestAt)
	return age >= 0 && age <= min(reserveLife, grace/4)
}

// retireAll takes everything out of reserve, to be given back.
func (reserve *orgReserve) retireAll() {
	for c, ids := range reserve.ready {
		reserve.neverPut = append(reserve.neverPut, ids...)
		reserve.ready[c] = nil
	}
	if reserve.inlineBlob != nil {
		reserve.neverPut = append(reserve.neverPut, reserve.inlineBlob)
		reserve.inlineBlob, reserve.inlineCredit = nil, 0
	}
}

// invalidate retires the reserve of an organisation, because a sweeper with a shorter grace
// time has taken some of it.
func (pool *reservePool) invalidate(org []byte) {
	reserve := pool.forOrg(org)
	if reserve.lock(context.Background()) == nil {
		reserve.retireAll()
		reserve.unlock()
	}
}

// takeBlobID returns the id of a blob that is registered for up to n bytes. ErrNoSpace: the
// organisation has too many bytes that nothing refers to.
func (pool *reservePool) takeBlobID(ctx context.Context, org []byte, n int64) ([]byte, error) {
	class := 0
	for reserveSizes[class] < n && class < len(reserveSizes)-1 {
		class++
	}
	reserve := pool.forOrg(org)
	if err := reserve.lock(ctx); err != nil {
		return nil, err
	}
	defer reserve.unlock()
	return pool.takeOfClass(ctx, org, reserve, class)
}

// takeOfClass returns the id of a blob of a class, registering more if none is ready. The
// caller has reserve locked.
func (pool *reservePool) takeOfClass(ctx context.Context, org []byte, reserve *orgReserve, class int) ([]byte, error) {
	if !reserve.isFresh(pool.ns.opts.Grace) {
		reserve.retireAll()
	}
	if len(reserve.ready[class]) == 0 {
		if err := pool.registerMore(ctx, org, reserve, class); err != nil {
			return nil, err
		}
	}
	ids := reserve.ready[class]
	reserve.ready[class] = ids[:len(ids)-1]
	return ids[len(ids)-1], nil
}

// takeInlineBytes takes n bytes of the credit for inline blobs, registering more if it is used
// up.
func (pool *reservePool) takeInlineBytes(ctx context.Context, org []byte, n int64) error {
	reserve := pool.forOrg(org)
	if err := reserve.lock(ctx); err != nil {
		return err
	}
	defer reserve.unlock()
	if reserve.inlineBlob != nil && !reserve.isFresh(pool.ns.opts.Grace) {
		reserve.retireAll()
	}
	if reserve.inlineCredit <= 0 {
		id, err := pool.takeOfClass(ctx, org, reserve, inlineClass)
		if err != nil {
			return err
		}
		if reserve.inlineBlob != nil {
			reserve.neverPut = append(reserve.neverPut, reserve.inlineBlob)
		}
		reserve.inlineBlob, reserve.inlineCredit = id, reserveSizes[inlineClass]
	}
	reserve.inlineCredit -= n
	return nil
}

// registerMore registers blobs of a class, twice as many as the last time. The caller has
// reserve locked.
func (pool *reservePool) registerMore(ctx context.Context, org []byte, reserve *orgReserve, class int) error {
	if reserve.refusal != nil && time.Now().Before(reserve.refusedUntil) {
		return reserve.refusal
	}
	size, idle := reserveSizes[class], int64(maxIdle)
	if bound := pool.ns.opts.Unreferenced; bound > 0 {
		idle = min(idle, bound/64)
	}
	most := int(max(1, min(maxRegister, idle/size)))
	list := make([]reservation, min(max(reserve.nextCount[class], 4), most))
	for i := range list {
		list[i] = reservation{id: newID(), size: size, owner: pool.ns.processID}
	}
	at := time.Now().Round(0)
	n, err := pool.ns.reserveBlobs(ctx, org, list, 1, reserve)
	if err != nil {
		if errors.Is(err, driver.ErrNoSpace) {
			reserve.refusal, reserve.refusedUntil = err, time.Now().Add(refusedLife)
		}
		return err
	}
	reserve.refusal = nil
	if reserve.isEmpty() {
		reserve.oldestAt = at
	}
	for _, l := range list[:n] {
		reserve.ready[class] = append(reserve.ready[class], l.id)
	}
	reserve.nextCount[class] = min(2*len(list), most)
	pool.startKeepAlive()
	return nil
}

// isEmpty reports whether nothing is in reserve.
func (reserve *orgReserve) isEmpty() bool {
	for _, ids := range reserve.ready {
		if len(ids) > 0 {
			return false
		}
	}
	return reserve.inlineBlob == nil
}

// abandonBlobs gives up blobs whose puts have ended and that no commit will use, so that the
// sweeper deletes them soon. A commit whose end is unknown may have used them: what a chunk
// refers to stays.
func (pool *reservePool) abandonBlobs(ctx context.Context, org []byte, list ...abandonedBlob) {
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	reserve := pool.forOrg(org)
	if reserve.lock(ctx) != nil {
		return // they are swept once their registration expires
	}
	defer reserve.unlock()
	reserve.abandoned = append(reserve.abandoned, list...)
	if err := pool.giveBackUnused(ctx, org, reserve); err != nil {
		pool.ns.log.Warn("cannot give up blobs of failed writes yet", "error", err) // maintenance retries
		return
	}
	pool.ns.wakeMaintenance()
}

const (
	// abandonTime bounds how long a failed write waits to give up its blobs.
	abandonTime = 5 * time.Second
	// latePut is how long after a failed put its object may appear.
	latePut = time.Minute
)

// giveBackUnused tells the database which blobs are not needed any more. The caller has
// reserve locked.
func (pool *reservePool) giveBackUnused(ctx context.Context, org []byte, reserve *orgReserve) error {
	if len(reserve.neverPut)+len(reserve.abandoned) == 0 {
		return nil
	}
	err := sqldb.Exec(ctx, pool.ns.db, sqldb.TxOptions{Lazy: true}, pool.ns.giveBackQueries(org, reserve)...)
	if err == nil {
		reserve.neverPut, reserve.abandoned = nil, nil
	}
	return err
}

// giveBackQueries are the statements of giveBackUnused: rows of blobs that were never put are
// deleted, abandoned blobs expire.
func (ns *Namespace) giveBackQueries(org []byte, reserve *orgReserve) []sqldb.Query {
	var list []sqldb.Query
	for _, id := range reserve.neverPut {
		list = append(list, sqldb.Statement(`DELETE FROM blobs WHERE org = $1 AND id = $2 AND owner = $3 AND freed IS NOT NULL`, org, id, ns.processID))
	}
	for _, g := range reserve.abandoned {
		late := int64(0)
		if g.mayArrive {
			late = int64(latePut)
		}
		list = append(list, sqldb.Statement(`UPDATE blobs SET owner = NULL, expires = {now} + $4 WHERE org = $1 AND id = $2 AND owner = $3 AND freed IS NOT NULL`,
			org, g.id, ns.processID, late))
	}
	return list
}

// releaseStale gives back what has been in reserve for too long, or everything.
func (pool *reservePool) releaseStale(ctx context.Context, all bool) error {
	pool.mu.Lock()
	orgs := maps.Clone(pool.orgs)
	pool.mu.Unlock()
	var errs []error
	for org, reserve := range orgs {
		if err := reserve.lock(ctx); err != nil {
			return err
		}
		if all || !reserve.isFresh(pool.ns.opts.Grace) {
			reserve.retireAll()
		}
		errs = append(errs, pool.giveBackUnused(ctx, []byte(org), reserve))
		reserve.unlock()
	}
	return errors.Join(errs...)
}

// startKeepAlive renews, until the namespace is closed, the row that says this process is
// alive. Without it sweepers would take its registrations.
func (pool *reservePool) startKeepAlive() {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if pool.ownerClaimed {
		return
	}
	pool.ownerClaimed = true
	pool.ns.goroutines.Go(func() {
		for range periodic.Ticks(pool.ns.lifetime, ownerLease/8) {
			err := pool.ns.db.RunTx(pool.ns.lifetime, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error { pool.ns.queueOwnerRenewal(tx); return nil })
			if err != nil && pool.ns.lifetime.Err() == nil {
				pool.ns.log.Warn("cannot renew the claim on registered blobs", "error", err)
			}
		}
	})
}

// ownerPrefix begins the names of rows of jobs that say which processes are alive.
const ownerPrefix = "owner/"

// queueOwnerRenewal queues the renewal of this process's row.
func (ns *Namespace) queueOwnerRenewal(tx sqldb.Tx) {
	tx.QueueExec(`INSERT INTO jobs (name, session, expires) VALUES ($1, $2, {now} + $3)
		ON CONFLICT (name) DO UPDATE SET expires = excluded.expires`, ownerPrefix+hex.EncodeToString(ns.processID), ns.processID, int64(ownerLease))
}

// releaseAll gives everything back, and deletes the row that says this process is alive.
func (pool *reservePool) releaseAll() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTime)
	defer cancel()
	err := pool.releaseStale(ctx, true)
	pool.mu.Lock()
	owner := pool.ownerClaimed
	pool.mu.Unlock()
	if err == nil && owner {
		err = sqldb.Exec(ctx, pool.ns.db, sqldb.TxOptions{Lazy: true},
			sqldb.Statement(`DELETE FROM jobs WHERE name = $1`, ownerPrefix+hex.EncodeToString(pool.ns.processID)))
	}
	if err != nil { // sweepers take what is left once the row expires
		pool.ns.log.Warn("cannot give back registered blobs", "error", err)
	}
}

// abandonBlobs gives up the blobs of a write that failed.
func (b *Backend) abandonBlobs(ctx context.Context, parts []newChunk) {
	var list []abandonedBlob
	var last *newBlob
	for _, p := range parts {
		if p.blob != last && p.blob.id != nil && p.blob.data == nil {
			list = append(list, abandonedBlob{id: p.blob.id})
		}
		last = p.blob
	}
	b.ns.reserves.abandonBlobs(ctx, b.org, list...)
}

// putObject puts data as the object of a registered blob. If that fails, the blob is given up.
func (b *Backend) putObject(ctx context.Context, id, data []byte, sum uint32) error {
	err := b.ns.blobs.Put(ctx, blob.Key(b.org, id), data, sum)
	if err != nil {
		b.ns.reserves.abandonBlobs(ctx, b.org, abandonedBlob{id, errors.Is(err, blob.ErrUncertain)})
	}
	return err
}
