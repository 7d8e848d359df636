package bucket

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/internal/sqldb"
)

// wakeMaintenance has this process's maintenance look for removed volumes and trees now.
func (ns *Namespace) wakeMaintenance() {
	select {
	case ns.wakeups <- struct{}{}:
	default:
	}
}

// runMaintenance does background work until ctx ends, and closes maintenanceDone then.
func (ns *Namespace) runMaintenance(ctx context.Context) {
	defer close(ns.maintenanceDone)
	if ns.opts.ReadOnly {
		return
	}
	if ns.opts.Export > 0 { // in its own goroutine, because it may take long
		var exporter sync.WaitGroup
		exporter.Go(func() { ns.runPeriodicExports(ctx) })
		defer exporter.Wait()
	}
	if ns.opts.Maintain < 0 {
		return
	}
	tick := time.NewTicker(ns.opts.Maintain)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-ns.wakeups:
			err = ns.db.Freeing(func() error { return ns.Reap(ctx) })
		case <-tick.C:
			err = ns.db.Freeing(func() error {
				return errors.Join(ns.reserves.releaseStale(ctx, false), ns.Maintain(ctx))
			})
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, driver.ErrInUse) {
			ns.log.Warn("maintenance failed", "error", err)
		}
	}
}

// Maintain does once what each process of the namespace does every Options.Maintain: it ends
// sessions whose lease has run out, deletes the rows of removed volumes and trees, and sweeps.
// ErrInUse: another process does it.
func (ns *Namespace) Maintain(ctx context.Context) error {
	return ns.runMaintenanceRounds(ctx, ns.endExpiredSessions, ns.sweepAllBlobs)
}

// Reap deletes the rows of removed volumes and trees, and the blobs that no commit used.
// ErrInUse: another process does it.
func (ns *Namespace) Reap(ctx context.Context) error {
	return ns.runMaintenanceRounds(ctx, nil, func(ctx context.Context) error {
		if err := ns.sweepStaleReservations(ctx, nil); err != nil {
			return err
		}
		return ns.deleteTombstonedObjects(ctx, nil)
	})
}

// runMaintenanceRounds deletes some rows of each removed volume and tree per round, calls
// before and after around that, and repeats until nothing is left. So a volume that takes long
// does not hold up others.
func (ns *Namespace) runMaintenanceRounds(ctx context.Context, before, after func(ctx context.Context) error) error {
	return ns.runExclusiveJob(ctx, "maintain", func(ctx context.Context) error {
		for more := true; more; {
			var errs [3]error // a step that fails must not keep others from running
			if before != nil {
				errs[0] = before(ctx)
			}
			more, errs[1] = ns.reapOneRound(ctx)
			errs[2] = after(ctx)
			if err := errors.Join(errs[:]...); err != nil {
				return err
			}
		}
		return nil
	})
}

// jobLease is how long a process that went silent keeps others from a job.
const jobLease = 30 * time.Second

// runExclusiveJob runs fn while no process runs another job of that name, and renews the job's
// lease until it returns. ErrInUse: another process has the lease; calls of this process wait for one
// another. If the lease runs out while this process lives, two may run the job: all jobs are
// harmless when done twice.
func (ns *Namespace) runExclusiveJob(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	if ns.opts.ReadOnly {
		return errReadOnly
	}
	v, _ := ns.jobs.LoadOrStore(name, make(chan struct{}, 1))
	busy := v.(chan struct{})
	select {
	case busy <- struct{}{}:
		defer func() { <-busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ns.acquireJobLease(ctx, name); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		for range periodic.Ticks(ctx, jobLease/3) {
			if err := ns.acquireJobLease(ctx, name); errors.Is(err, driver.ErrInUse) {
				cancel()
			}
		}
	})
	err := fn(ctx)
	cancel()
	renewal.Wait()
	after, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	return errors.Join(err, sqldb.Exec(after, ns.db, sqldb.TxOptions{Lazy: true},
		sqldb.Statement(`UPDATE jobs SET expires = 0 WHERE name = $1 AND session = $2`, name, ns.processID)))
}

// acquireJobLease takes or renews the lease of a job. ErrInUse: another process has it.
func (ns *Namespace) acquireJobLease(ctx context.Context, name string) error {
	var changed int64
	err := sqldb.Exec(ctx, ns.db, sqldb.TxOptions{Lazy: true},
		sqldb.Counted(&changed, `INSERT INTO jobs (name, session, expires) VALUES ($1, $2, {now} + $3)
			ON CONFLICT (name) DO UPDATE SET session = excluded.session, expires = excluded.expires
			WHERE jobs.expires < {now} OR jobs.session = excluded.session`, name, ns.processID, int64(jobLease)))
	if err == nil && changed == 0 {
		err = driver.Errorf(driver.ErrInUse, "another process is already doing this")
	}
	return err
}

// endExpiredSessions ends the sessions whose lease has run out.
func (ns *Namespace) endExpiredSessions(ctx context.Context) error {
	var list [][]byte
	err := ns.db.RunQueries(ctx, sqldb.SelectAll(&list, func(id *[]byte) []any { return []any{id} }, `SELECT id FROM sessions WHERE expires <= {now}`))
	for _, id := range list {
		if err == nil {
			err = ns.endSession(ctx, id)
			ns.metrics.endedHeld.Inc()
		}
	}
	if err != nil {
		return err
	}
	return ns.releaseLateCommits(ctx)
}

// releaseLateCommits gives up the drafts and orphans that a process committed for a session
// after that session's end, which it had not noticed.
func (ns *Namespace) releaseLateCommits(ctx context.Context) error {
	const ended = `session IS NOT NULL AND session NOT IN (SELECT id FROM sessions)`
	var drafts, orphans bool
	err := ns.db.RunQueries(ctx,
		sqldb.SelectOne(&drafts, []any{new(int)}, `SELECT 1 FROM volumes WHERE state = 'creating' AND `+ended+` LIMIT 1`),
		sqldb.SelectOne(&orphans, []any{new(int)}, `SELECT 1 FROM orphans WHERE `+ended+` LIMIT 1`))
	if err != nil || !drafts && !orphans {
		return err
	}
	return sqldb.Exec(ctx, ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET state = 'removing', session = NULL WHERE state = 'creating' AND `+ended),
		sqldb.Statement(`UPDATE orphans SET session = NULL WHERE `+ended))
}

// volumeID names a volume by its organisation and its id.
type volumeID struct{ org, vol []byte }

func (o *volumeID) scanDest() []any { return []any{&o.org, &o.vol} }

// reapOneRound deletes some rows of each removed volume, and of removed trees in each other
// volume. more reports whether any are left.
func (ns *Namespace) reapOneRound(ctx context.Context) (more bool, err error) {
	var gone, trees []volumeID
	err = ns.db.RunQueries(ctx,
		sqldb.SelectAll(&gone, (*volumeID).scanDest, `SELECT org, id FROM volumes WHERE state = 'removing'`),
		sqldb.SelectAll(&trees, (*volumeID).scanDest, `SELECT v.org, v.id FROM volumes v WHERE v.state <> 'removing'
			AND v.id IN (SELECT o.vol FROM orphans o WHERE o.session IS NULL)`))
	for _, volume := range gone {
		if err != nil {
			return false, err
		}
		var rest bool
		rest, err = ns.purgeVolumeRows(ctx, volume)
		more = more || rest
	}
	for _, volume := range trees {
		if err != nil {
			return false, err
		}
		b := newBackend(ns, volume.org)
		var rest bool
		rest, err = b.reapTreeSteps(ctx, b.maintenanceFS(volume.vol), reapSteps)
		more = more || rest
	}
	return more, err
}

// purgeRows bounds the rows of a removed volume that one transaction deletes.
const purgeRows = 1000

// volumeTables are the tables of the files of volumes, with their keys beside the volume's id.
var volumeTables = []struct{ name, key string }{
	{"chunks", "ino, pos"}, {"dirents", "parent, name"}, {"xattrs", "ino, name"}, {"inodes", "ino"}, {"orphans", "ino"},
}

// deleteFileRows deletes the rows of a volume's files, in at most steps transactions (negative: as
// many as it takes), and reports whether more are left. Blobs stay: others may share them.
func (ns *Namespace) deleteFileRows(ctx context.Context, vol []byte, steps int) (more bool, err error) {
	for _, t := range volumeTables {
		for n := int64(purgeRows); n == purgeRows; steps-- {
			if steps == 0 {
				return true, nil
			}
			n, err = ns.execBatch(ctx, `DELETE FROM `+t.name+` WHERE vol = $2 AND (`+t.key+`) IN
				(SELECT `+t.key+` FROM `+t.name+` WHERE vol = $2 ORDER BY `+t.key+` LIMIT $1)`, vol)
			if err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// execBatch runs a statement that changes up to $1 rows, which is purgeRows, and returns how many
// it has changed. args are $2 and so on.
func (ns *Namespace) execBatch(ctx context.Context, sql string, args ...any) (n int64, err error) {
	err = sqldb.Exec(ctx, ns.db, sqldb.TxOptions{Lazy: true}, sqldb.Counted(&n, sql, append([]any{purgeRows}, args...)...))
	return n, err
}

// purgeVolumeRows deletes up to reapSteps times purgeRows rows of a removed volume, its own
// row last, and reports whether more are left.
func (ns *Namespace) purgeVolumeRows(ctx context.Context, volume volumeID) (more bool, err error) {
	if more, err := ns.deleteFileRows(ctx, volume.vol, reapSteps); err != nil || more {
		return more, err
	}
	err = sqldb.Exec(ctx, ns.db, sqldb.TxOptions{},
		sqldb.Statement(`DELETE FROM ops WHERE vol = $1`, volume.vol),
		sqldb.Statement(`DELETE FROM attachments WHERE org = $1 AND vol = $2`, volume.org, volume.vol),
		sqldb.Statement(`DELETE FROM volumes WHERE org = $1 AND id = $2 AND state = 'removing'`, volume.org, volume.vol))
	if err == nil {
		ns.metrics.reapedVolumes.Inc()
	}
	return false, err
}
