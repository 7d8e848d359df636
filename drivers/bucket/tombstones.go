package bucket

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/sqldb"
	"golang.org/x/sync/errgroup"
)

const (
	// deletesAtOnce is how many objects are deleted at the same time.
	deletesAtOnce = 8
	// deleteFailures is how many deletions may fail before a sweep gives up: a blob store that
	// is down is not asked for every object.
	deleteFailures = 16
	// lateness is how long after its row was deleted a put that was given up may still end,
	// and its object appear.
	lateness = time.Hour
)

// tombstone is a row of the table doomed: an object whose row in blobs is gone, and that is to
// be deleted.
type tombstone struct{ org, blob []byte }

func (ts *tombstone) scanDest() []any { return []any{&ts.org, &ts.blob} }

// tombstoneSweep is one run of deleteTombstonedObjects.
type tombstoneSweep struct {
	ns       *Namespace
	failed   map[string]bool // ids of blobs whose objects could not be deleted
	failures atomic.Int64    // how many there are, while a batch is under way
	firstErr error
}

// deleteTombstonedObjects deletes the objects of tombstones, of one organisation or (org is nil)
// of all. A tombstone of a blob that was never used outlives its object by the time that a put
// may be late, and then the object is deleted once more. An object that cannot be deleted goes
// to the end of the queue.
func (ns *Namespace) deleteTombstonedObjects(ctx context.Context, org []byte) error {
	sweep := &tombstoneSweep{ns: ns, failed: map[string]bool{}}
	for len(sweep.failed) < deleteFailures {
		var list, todo []tombstone
		err := ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*tombstone).scanDest, `SELECT org, id FROM doomed
			WHERE at <= {now} AND (org = $2 OR CAST($2 AS {bytes}) IS NULL) ORDER BY at, org, id LIMIT $1`, sweepBatch, sqldb.NullIfNil(org)))
		for _, ts := range list {
			if !sweep.failed[string(ts.blob)] {
				todo = append(todo, ts)
			}
		}
		if err == nil && len(todo) > 0 {
			err = sweep.deleteBatch(ctx, todo)
		}
		if err != nil {
			return err
		}
		if len(todo) == 0 {
			break
		}
	}
	if len(sweep.failed) > 0 {
		return fmt.Errorf("%d objects could not be deleted, the first: %w", len(sweep.failed), sweep.firstErr)
	}
	return nil
}

// deleteBatch deletes objects, several at once, and then their tombstones. Tombstones of
// objects that could not be deleted are put off.
func (s *tombstoneSweep) deleteBatch(ctx context.Context, list []tombstone) error {
	var g errgroup.Group
	g.SetLimit(deletesAtOnce)
	tried, errs := make([]bool, len(list)), make([]error, len(list))
	for i, ts := range list {
		g.Go(func() error {
			if tried[i] = s.failures.Load() < deleteFailures; tried[i] {
				if errs[i] = s.ns.blobs.Delete(ctx, blob.Key(ts.org, ts.blob)); errs[i] != nil {
					s.failures.Add(1)
				}
			}
			return nil // one that fails must not end the others
		})
	}
	_ = g.Wait()
	for i, err := range errs {
		if err != nil {
			s.failed[string(list[i].blob)] = true
			s.firstErr = cmp.Or(s.firstErr, err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.ns.db.RunTx(ctx, sqldb.TxOptions{Lazy: true}, func(tx sqldb.Tx) error {
		for i, ts := range list {
			switch {
			case !tried[i]:
			case s.failed[string(ts.blob)]:
				tx.QueueExec(`UPDATE doomed SET at = {now} WHERE org = $1 AND id = $2`, ts.org, ts.blob)
			default:
				tx.QueueExec(`DELETE FROM doomed WHERE org = $1 AND id = $2 AND at <= {now} AND twice = 0`, ts.org, ts.blob)
				tx.QueueExec(`UPDATE doomed SET twice = 0, size = 0, at = {now} + $3 WHERE org = $1 AND id = $2 AND twice = 1`,
					ts.org, ts.blob, int64(min(s.ns.opts.Grace, lateness)))
			}
		}
		return nil
	})
}
