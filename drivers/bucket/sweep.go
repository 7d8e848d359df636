package bucket

import (
	"context"
	"time"

	"github.com/volehq/vole/internal/sqldb"
)

const (
	// sweepBatch is how many blobs one transaction takes.
	sweepBatch = 500
	// opsKept is how long rows of ops are kept: longer than any retry of a transaction takes.
	opsKept = time.Hour
)

// sweepCandidate is a blob that may be garbage.
type sweepCandidate struct {
	org, id []byte
	size    int64
	inline  int64 // 1: its bytes are in the row
	unused  int64 // 1: nothing ever referred to it, so its object may still be under way
	freed   int64 // when it was freed, in nanoseconds since 1970
}

func (s *sweepCandidate) scanDest() []any {
	return []any{&s.org, &s.id, &s.size, &s.inline, &s.unused, &s.freed}
}

// selectCandidates is followed by a condition.
const selectCandidates = `SELECT org, id, size, CASE WHEN data IS NULL THEN 0 ELSE 1 END,
	CASE WHEN sums IS NULL OR expires IS NOT NULL THEN 1 ELSE 0 END, freed FROM blobs`

// sweepAllBlobs collects all garbage whose grace time is over: blobs, then reservations, then
// objects of tombstones. It also deletes what is left of removed organisations, and old rows
// of ops and jobs.
func (ns *Namespace) sweepAllBlobs(ctx context.Context) error {
	for {
		n, err := ns.sweepFreedBatch(ctx)
		if err == nil {
			err = ns.sweepStaleReservations(ctx, nil)
		}
		if err == nil {
			err = ns.deleteTombstonedObjects(ctx, nil)
		}
		if err != nil {
			return err
		}
		if n < sweepBatch {
			break
		}
	}
	err := ns.foldUnreferencedRows(ctx)
	if err == nil {
		err = ns.reapRemovedOrgs(ctx)
	}
	if err == nil {
		err = sqldb.Exec(ctx, ns.db, sqldb.TxOptions{Lazy: true},
			sqldb.Statement(`DELETE FROM ops WHERE at < {now} - $1`, int64(opsKept)),
			sqldb.Statement(`DELETE FROM jobs WHERE name LIKE '`+ownerPrefix+`%' AND expires < {now} - $1`, int64(opsKept)))
	}
	if err == nil {
		ns.metrics.sweeps.Inc()
	}
	return err
}

// sweepFreedBatch deletes the rows of a batch of freed blobs whose grace time is over, and
// returns how many it looked at. Objects become tombstones. A blob that a chunk refers to
// loses its freed mark instead.
func (ns *Namespace) sweepFreedBatch(ctx context.Context) (int, error) {
	var list []sweepCandidate
	exported, err := ns.sweepAwaitsExport(ctx)
	if err != nil {
		return 0, err
	}
	err = ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*sweepCandidate).scanDest, selectCandidates+` WHERE expires IS NULL AND freed < {now} - (CASE WHEN data IS NOT NULL THEN CAST($2 AS BIGINT)
			WHEN sums IS NULL THEN CAST($5 AS BIGINT) ELSE CAST($1 AS BIGINT) END)
		AND (NOT $4 OR data IS NOT NULL OR NOT (`+notExported+`)) ORDER BY freed LIMIT $3`,
		int64(ns.opts.Grace), int64(min(ns.opts.Grace, inlineGrace)), sweepBatch, exported, int64(neverUsedGrace(ns.opts.Grace))))
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return len(list), ns.sweepCandidates(ctx, list)
}

// sweepCandidates deletes the rows of blobs, except those that were referenced since they were
// selected.
func (ns *Namespace) sweepCandidates(ctx context.Context, list []sweepCandidate) error {
	err := ns.deleteUnreferencedRows(ctx, list)
	if !ns.db.IsForeignKeyViolation(err) {
		return err
	}
	for _, s := range list { // one by one, so that only the referenced one is left out
		if err := ns.deleteUnreferencedRows(ctx, []sweepCandidate{s}); err != nil && !ns.db.IsForeignKeyViolation(err) {
			return err
		}
	}
	return nil
}

// inlineGrace is the grace time of inline blobs: they are only read together with the chunks
// that refer to them.
const inlineGrace = time.Minute

// minNeverUsedGrace is the least time that registered blobs are kept that were never used,
// whatever this process's grace time: other processes have them in reserve, or are putting
// their objects.
const minNeverUsedGrace = time.Hour

// neverUsedGrace is the grace time of blobs that were never used. Only tests have a grace time
// of less than a second, and they put nothing while they sweep.
func neverUsedGrace(grace time.Duration) time.Duration {
	if grace < time.Second {
		return grace
	}
	return max(grace, minNeverUsedGrace)
}

// deleteUnreferencedRows deletes the rows of blobs that no chunk refers to and that were not
// freed again since they were selected; objects get tombstones. Others that a chunk refers to
// lose their freed mark.
//
// The comparison with freed is needed: if another transaction has just changed a row,
// PostgreSQL evaluates the condition on the new row, but not the subquery on chunks. Without
// it, a blob that has just lost its last chunk would count as used.
func (ns *Namespace) deleteUnreferencedRows(ctx context.Context, list []sweepCandidate) error {
	var blobs, bytes float64
	// Durable, since objects must not be deleted before their rows.
	err := ns.db.RunTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		blobs, bytes = 0, 0
		gone := make([]int64, len(list))
		dels := make([]sqldb.Query, len(list))
		for i, s := range list {
			dels[i] = sqldb.Counted(&gone[i], `DELETE FROM blobs WHERE org = $1 AND id = $2 AND freed = $3
				AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.org = $1 AND c.blob = $2)`, s.org, s.id, s.freed)
		}
		if err := tx.RunQueries(dels...); err != nil {
			return err
		}
		for i, s := range list {
			if gone[i] == 0 {
				tx.QueueExec(`UPDATE blobs SET freed = NULL WHERE org = $1 AND id = $2 AND freed = $3
					AND EXISTS (SELECT 1 FROM chunks c WHERE c.org = $1 AND c.blob = $2)`, s.org, s.id, s.freed)
				continue
			}
			blobs++
			bytes += float64(s.size)
			if s.inline == 0 {
				tx.QueueExec(`INSERT INTO doomed (org, id, at, twice, size) VALUES ($1, $2, {now}, $3, $4) ON CONFLICT DO NOTHING`, s.org, s.id, s.unused, s.size)
			}
		}
		return nil
	})
	if err == nil {
		ns.metrics.sweptBlobs.Add(blobs)
		ns.metrics.sweptBytes.Add(bytes)
	}
	return err
}

// Sweep collects garbage: it deletes the blobs that nothing has referred to for the grace
// time. ErrInUse: another process does it.
func (ns *Namespace) Sweep(ctx context.Context) error {
	return ns.runExclusiveJob(ctx, "maintain", ns.sweepAllBlobs)
}
