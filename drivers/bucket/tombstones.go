package bucket

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// deletesAtOnce is how many objects are deleted at the same time.
	deletesAtOnce = 8
	// deleteFailures is how many deletions may fail before a sweep gives up, so that it
	// does not ask a broken blob store for all of them.
	deleteFailures = 16
	// lateness is how much later than its row a put may end that was given up.
	lateness = time.Hour
)

// tombstoneSweep deletes objects whose rows are gone.
type tombstoneSweep struct {
	ns *Namespace

	mu       sync.Mutex // guards what follows
	failed   map[string]bool
	firstErr error
}

// deleteTombstonedObjects deletes objects whose rows are gone, of one organisation or, when org is
// nil, of all. Its notes outlive it by the time that a put may be late. An object that
// cannot be deleted comes after the others next time.
func (ns *Namespace) deleteTombstonedObjects(ctx context.Context, org []byte) error {
	d := &tombstoneSweep{ns: ns, failed: map[string]bool{}}
	for len(d.failed) < deleteFailures {
		var list, todo []volumeID
		err := ns.db.runQueries(ctx, selectAll(&list, (*volumeID).scanDest, `SELECT org, id FROM doomed
			WHERE at <= {now} AND (org = $2 OR CAST($2 AS {bytes}) IS NULL) ORDER BY at, org, id LIMIT $1`, sweepBatch, nullIfNil(org)))
		for _, o := range list {
			if !d.failed[string(o.vol)] {
				todo = append(todo, o)
			}
		}
		if err == nil && len(todo) > 0 {
			err = d.deleteBatch(ctx, todo)
		}
		if err != nil {
			return err
		}
		if len(todo) == 0 {
			break
		}
	}
	if len(d.failed) > 0 {
		return fmt.Errorf("%d objects could not be deleted, the first: %w", len(d.failed), d.firstErr)
	}
	return nil
}

// deleteBatch deletes objects, and their notes or puts these off.
func (d *tombstoneSweep) deleteBatch(ctx context.Context, list []volumeID) error {
	var g errgroup.Group
	g.SetLimit(deletesAtOnce)
	tried := make([]bool, len(list))
	for i, o := range list {
		g.Go(func() error {
			if tried[i] = d.belowFailureLimit(); tried[i] {
				d.recordResult(o, d.ns.blobs.Delete(ctx, blobKey(o.org, o.vol)))
			}
			return nil
		})
	}
	_ = g.Wait() // one that fails does not end the others
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.ns.db.runTx(ctx, nil, true, func(t sqlTx) error {
		for i, o := range list {
			switch {
			case !tried[i]:
			case d.failed[string(o.vol)]:
				t.queueExec(`UPDATE doomed SET at = {now} WHERE org = $1 AND id = $2`, o.org, o.vol)
			default:
				t.queueExec(`DELETE FROM doomed WHERE org = $1 AND id = $2 AND at <= {now} AND twice = 0`, o.org, o.vol)
				t.queueExec(`UPDATE doomed SET twice = 0, size = 0, at = {now} + $3 WHERE org = $1 AND id = $2 AND twice = 1`,
					o.org, o.vol, int64(min(d.ns.opts.Grace, lateness)))
			}
		}
		return nil
	})
}

func (d *tombstoneSweep) belowFailureLimit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.failed) < deleteFailures
}

func (d *tombstoneSweep) recordResult(o volumeID, err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed[string(o.vol)] = true
	if d.firstErr == nil {
		d.firstErr = err
	}
}
