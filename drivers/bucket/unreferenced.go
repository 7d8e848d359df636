package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// reservation is a blob that is registered before it is put.
type reservation struct {
	id    []byte
	size  int64         // the most that may be put, in bytes
	owner []byte        // the process that puts it; nil: a client does, by a signed request
	life  time.Duration // how long a client may take
	sums  []byte        // that a client must put
}

const (
	// leastGrace is how long a blob that nothing refers to is kept even if the organisation
	// has no room for others.
	leastGrace = 15 * time.Minute
	// minUnreferenced is the smallest Options.Unreferenced.
	minUnreferenced = 2 * chunkSize
	// foldRows is how many rows of unreferenced an organisation may have before they are
	// merged, foldAtOnce how many a transaction merges. With PostgreSQL triggers add a row per
	// change, so that changes do not wait for one another.
	foldRows, foldAtOnce = 64, 5000
)

// noRoomError says how many unreferenced bytes an organisation has, and how many too many a
// registration would add.
type noRoomError struct{ stored, missing int64 }

func (e *noRoomError) Error() string { return "no room for blobs that nothing refers to" }

// reserveBlobs registers as many blobs of list as the bound on unreferenced bytes allows, at
// least least of them. It gives back first what reserve has to give back, and if there is no
// room, sweeps freed blobs before their grace time is over. ErrNoSpace: even then there is no
// room for least.
func (ns *Namespace) reserveBlobs(ctx context.Context, org []byte, list []reservation, least int, reserve *orgReserve) (n int, err error) {
	for try := 0; ; try++ {
		n, err = ns.registerBlobs(ctx, org, list, least, reserve)
		full := (*noRoomError)(nil)
		if !errors.As(err, &full) {
			return n, err
		}
		if try > 0 {
			return 0, ns.explainNoRoom(ctx, org, full)
		}
		if err := ns.makeRoom(ctx, org, full.missing); err != nil {
			return 0, err
		}
	}
}

// unreferencedQuery selects the unreferenced bytes of an organisation, and how many rows they
// are the sum of.
func unreferencedQuery(sum, rows *int64, org []byte) sqldb.Query {
	return sqldb.SelectAggregate([]any{sum, rows}, `SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT), count(*) FROM unreferenced WHERE org = $1`, org)
}

// registerBlobs is one attempt of reserveBlobs. It returns a noRoomError if there is no room
// for least.
func (ns *Namespace) registerBlobs(ctx context.Context, org []byte, list []reservation, least int, reserve *orgReserve) (n int, err error) {
	bound := ns.opts.Unreferenced
	err = ns.db.RunTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		var sum, rowCount int64
		asks := []sqldb.Query{rows.LockOrgQuery(org)}
		if reserve != nil {
			asks = append(asks, ns.giveBackQueries(org, reserve)...)
		}
		if err := tx.RunQueries(append(asks, unreferencedQuery(&sum, &rowCount, org))...); err != nil {
			return err
		}
		total := sum
		for n = 0; n < len(list) && (bound < 0 || list[n].size <= bound-total); n++ {
			total += list[n].size
		}
		if n < least {
			missing := sum - bound
			for _, l := range list[:least] {
				missing += l.size
			}
			return &noRoomError{sum, missing}
		}
		for _, l := range list[:n] {
			life := l.life
			if l.owner != nil {
				life = neverUsedGrace(ns.opts.Grace)
			}
			tx.QueueExec(`INSERT INTO blobs (org, id, size, sums, created, freed, owner, expires) VALUES ($1, $2, $3, $4, {now}, {now}, $5, {now} + $6)
				ON CONFLICT DO NOTHING`, org, l.id, l.size, sqldb.NullIfNil(l.sums), sqldb.NullIfNil(l.owner), int64(life))
		}
		if least > 0 && list[0].owner != nil {
			ns.queueOwnerRenewal(tx)
		}
		if rowCount > foldRows {
			tx.QueueExec(`{fold}`, org, foldAtOnce)
		}
		return nil
	})
	if err == nil && reserve != nil {
		reserve.neverPut, reserve.abandoned = nil, nil
	}
	return n, err
}

// foldUnreferencedRows merges the rows of organisations that have many.
func (ns *Namespace) foldUnreferencedRows(ctx context.Context) error {
	for {
		var orgs [][]byte
		err := ns.db.RunQueries(ctx, sqldb.SelectAll(&orgs, idDest, `SELECT org FROM unreferenced GROUP BY org HAVING count(*) > $1 LIMIT 100`, foldRows))
		if err != nil || len(orgs) == 0 {
			return err
		}
		for _, org := range orgs {
			fold := sqldb.Statement(`{fold}`, org, foldAtOnce)
			if err := sqldb.Exec(ctx, ns.db, sqldb.TxOptions{Lazy: true}, rows.LockOrgQuery(org), fold); err != nil {
				return err
			}
		}
	}
}

// makeRoom collects garbage of an organisation until missing bytes more fit: reservations that
// were given up, then freed blobs, the oldest first, before their grace time is over.
func (ns *Namespace) makeRoom(ctx context.Context, org []byte, missing int64) error {
	if err := ns.sweepStaleReservations(ctx, org); err != nil {
		return err
	}
	var sum, rowCount int64
	if err := ns.db.RunQueries(ctx, unreferencedQuery(&sum, &rowCount, org)); err != nil {
		return err
	}
	// A little more than is needed, so that not every write has to do this.
	for want := missing + ns.opts.Unreferenced/64; want > 0; {
		freed, err := ns.sweepBeforeGrace(ctx, org, want)
		if err != nil {
			return err
		}
		if freed == 0 {
			break
		}
		want -= freed
	}
	return ns.deleteTombstonedObjects(ctx, org)
}

// minimumGrace is how long freed blobs are always kept.
func (ns *Namespace) minimumGrace() time.Duration { return min(ns.opts.Grace, leastGrace) }

// sweepBeforeGrace deletes the rows of freed blobs of about so many bytes, the oldest first,
// though their grace time is not over. It returns how many bytes that was.
func (ns *Namespace) sweepBeforeGrace(ctx context.Context, org []byte, bytes int64) (freed int64, err error) {
	exported, err := ns.sweepAwaitsExport(ctx)
	if err != nil {
		return 0, err
	}
	var list []sweepCandidate
	err = ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*sweepCandidate).scanDest, selectCandidates+` WHERE org = $1 AND freed < {now} - $2 AND expires IS NULL AND size > 0
		AND (NOT $4 OR data IS NOT NULL OR NOT (`+notExported+`)) ORDER BY freed LIMIT $3`,
		org, int64(ns.minimumGrace()), sweepBatch, exported))
	for i, s := range list {
		if freed += s.size; freed >= bytes {
			list = list[:i+1]
			break
		}
	}
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return freed, ns.sweepCandidates(ctx, list)
}

// sweepStaleReservations deletes the rows of registered blobs that will not be put any more:
// they have expired, were given up, or belong to a process that is dead. org nil: of all
// organisations.
func (ns *Namespace) sweepStaleReservations(ctx context.Context, org []byte) error {
	for {
		var list []sweepCandidate
		err := ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*sweepCandidate).scanDest, selectCandidates+` WHERE expires IS NOT NULL AND (org = $1 OR CAST($1 AS {bytes}) IS NULL)
			AND (expires < {now} OR freed < {now} - $2 OR owner IS NOT NULL AND NOT EXISTS (
				SELECT 1 FROM jobs j WHERE j.session = blobs.owner AND j.name LIKE '`+ownerPrefix+`%' AND j.expires > {now}))
			ORDER BY freed LIMIT $3`, sqldb.NullIfNil(org), int64(neverUsedGrace(ns.opts.Grace)), sweepBatch))
		if err != nil || len(list) == 0 {
			return err
		}
		if err := ns.sweepCandidates(ctx, list); err != nil {
			return err
		}
		if len(list) < sweepBatch {
			return nil
		}
	}
}

// checkPuttable returns ErrNoSpace for a file that is larger than the bound on unreferenced
// bytes: it could never be put as a whole.
func (ns *Namespace) checkPuttable(opts driver.WriteOptions) error {
	bound, size := ns.opts.Unreferenced, opts.Size
	if bound >= 0 && size > bound && opts.NextData == nil {
		return driver.Errorf(driver.ErrNoSpace, "a file of %v is too large for one upload: an organisation may have %v stored that no file refers to; write it through a handle, or in parts",
			driver.Size(size), driver.Size(bound))
	}
	return nil
}

// explainNoRoom returns the error of a write that found no room: it says when there will be
// some.
func (ns *Namespace) explainNoRoom(ctx context.Context, org []byte, full *noRoomError) error {
	var freed, reserved bool
	var at, expires, now int64
	err := ns.db.RunQueries(ctx,
		sqldb.SelectOne(&freed, []any{&at, &now}, `SELECT freed, {now} FROM blobs WHERE org = $1 AND freed IS NOT NULL AND expires IS NULL AND size > 0 ORDER BY freed LIMIT 1`, org),
		sqldb.SelectOne(&reserved, []any{&expires, &now}, `SELECT expires, {now} FROM blobs WHERE org = $1 AND expires IS NOT NULL ORDER BY expires LIMIT 1`, org))
	if err != nil {
		return err
	}
	wait := time.Duration(0)
	when := "there will be room when writes under way end"
	if freed {
		if wait = time.Duration(at - now + int64(ns.minimumGrace())); wait <= 0 {
			when = "there will be room after the next export of manifests, as the last one refers to some of these bytes"
		}
	}
	if reserved && (!freed || expires-now < int64(wait)) && wait >= 0 {
		wait = time.Duration(max(expires-now, int64(time.Second)))
	}
	if wait > 0 {
		when = "there will be room in " + max(wait.Round(time.Second), time.Second).String() + " at the latest"
	}
	return driver.Errorf(driver.ErrNoSpace, "the organisation has %v stored that no file refers to (uploads under way, and bytes that were overwritten or removed recently), and may have %v; %s",
		driver.Size(full.stored), driver.Size(ns.opts.Unreferenced), when)
}
