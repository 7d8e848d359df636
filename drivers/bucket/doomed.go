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

// deletion deletes objects whose rows are gone.
type deletion struct {
	ns *Namespace

	mu     sync.Mutex // guards what follows
	failed map[string]bool
	first  error
}

// deleteDoomed deletes objects whose rows are gone, of one organisation or, when org is
// nil, of all. Its notes outlive it by the time that a put may be late. An object that
// cannot be deleted comes after the others next time.
func (ns *Namespace) deleteDoomed(ctx context.Context, org []byte) error {
	d := &deletion{ns: ns, failed: map[string]bool{}}
	for len(d.failed) < deleteFailures {
		var list, todo []orgVol
		err := ns.db.read(ctx, all(&list, (*orgVol).dest, `SELECT org, id FROM doomed
			WHERE at <= {now} AND (org = $2 OR CAST($2 AS {bytes}) IS NULL) ORDER BY at, org, id LIMIT $1`, sweepBatch, null(org)))
		for _, o := range list {
			if !d.failed[string(o.vol)] {
				todo = append(todo, o)
			}
		}
		if err == nil && len(todo) > 0 {
			err = d.some(ctx, todo)
		}
		if err != nil {
			return err
		}
		if len(todo) == 0 {
			break
		}
	}
	if len(d.failed) > 0 {
		return fmt.Errorf("%d objects could not be deleted, the first: %w", len(d.failed), d.first)
	}
	return nil
}

// some deletes objects, and their notes or puts these off.
func (d *deletion) some(ctx context.Context, list []orgVol) error {
	var g errgroup.Group
	g.SetLimit(deletesAtOnce)
	tried := make([]bool, len(list))
	for i, o := range list {
		g.Go(func() error {
			if tried[i] = d.goesOn(); tried[i] {
				d.note(o, d.ns.blobs.Delete(ctx, blobKey(o.org, o.vol)))
			}
			return nil
		})
	}
	_ = g.Wait() // one that fails does not end the others
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.ns.db.write(ctx, nil, true, func(t tx) error {
		for i, o := range list {
			switch {
			case !tried[i]:
			case d.failed[string(o.vol)]:
				t.later(`UPDATE doomed SET at = {now} WHERE org = $1 AND id = $2`, o.org, o.vol)
			default:
				t.later(`DELETE FROM doomed WHERE org = $1 AND id = $2 AND at <= {now} AND twice = 0`, o.org, o.vol)
				t.later(`UPDATE doomed SET twice = 0, size = 0, at = {now} + $3 WHERE org = $1 AND id = $2 AND twice = 1`,
					o.org, o.vol, int64(min(d.ns.opts.Grace, lateness)))
			}
		}
		return nil
	})
}

func (d *deletion) goesOn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.failed) < deleteFailures
}

func (d *deletion) note(o orgVol, err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed[string(o.vol)] = true
	if d.first == nil {
		d.first = err
	}
}
