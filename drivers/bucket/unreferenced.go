package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
)

// reservation is a blob that is about to be put.
type reservation struct {
	id    []byte
	size  int64         // the most that may be put
	owner []byte        // the process that puts it; nil: a client
	life  time.Duration // of a client's
	sums  []byte        // of a client's
}

const (
	// leastGrace is how long a blob is kept at least that nothing refers to, even when the
	// organisation has no room for others.
	leastGrace = 15 * time.Minute
	// minUnreferenced is the least that Options.Unreferenced may be.
	minUnreferenced = 2 * chunkSize
	// foldRows is how many rows of unreferenced an organisation may have before some are
	// added up, foldAtOnce how many are at a time.
	foldRows, foldAtOnce = 64, 5000
)

// noRoomError tells how much an organisation has that nothing refers to, when that is too much.
type noRoomError struct{ stored, missing int64 }

func (e *noRoomError) Error() string { return "no room for blobs that nothing refers to" }

// reserveBlobs registers as many blobs of list as there is room for, which must be least of
// them. What r has to give back goes first. ErrNoSpace: not even what may go before its
// grace time is over makes room for least.
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

// unreferencedQuery asks for what an organisation has that nothing refers to, and of how
// many rows that is the sum.
func unreferencedQuery(found *bool, sum, rows *int64, org []byte) query {
	return selectOne(found, []any{sum, rows}, `SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT), count(*) FROM unreferenced WHERE org = $1`, org)
}

// lockOrgQuery keeps others from registering blobs of the organisation until the commit.
func lockOrgQuery(org []byte) query {
	return selectOne(new(bool), []any{new(int)}, `SELECT 1 FROM orgs WHERE id = $1 {guard}`, org)
}

func (ns *Namespace) registerBlobs(ctx context.Context, org []byte, list []reservation, least int, reserve *orgReserve) (n int, err error) {
	bound := ns.opts.Unreferenced
	err = ns.db.runTx(ctx, nil, false, func(t sqlTx) error {
		var sum, rows int64
		var found bool
		asks := []query{lockOrgQuery(org)}
		if reserve != nil {
			asks = append(asks, ns.giveBackQueries(org, reserve)...)
		}
		if err := t.runQueries(append(asks, unreferencedQuery(&found, &sum, &rows, org))...); err != nil {
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
			t.queueExec(`INSERT INTO blobs (org, id, size, sums, created, freed, owner, expires) VALUES ($1, $2, $3, $4, {now}, {now}, $5, {now} + $6)
				ON CONFLICT DO NOTHING`, org, l.id, l.size, nullIfNil(l.sums), nullIfNil(l.owner), int64(life))
		}
		if least > 0 && list[0].owner != nil {
			ns.queueOwnerRenewal(t)
		}
		if rows > foldRows {
			t.queueExec(`{fold}`, org, foldAtOnce)
		}
		return nil
	})
	if err == nil && reserve != nil {
		reserve.neverPut, reserve.abandoned = nil, nil
	}
	return n, err
}

// foldUnreferencedRows adds up the rows of organisations that have many.
func (ns *Namespace) foldUnreferencedRows(ctx context.Context) error {
	for {
		var orgs [][]byte
		err := ns.db.runQueries(ctx, selectAll(&orgs, idDest, `SELECT org FROM unreferenced GROUP BY org HAVING count(*) > $1 LIMIT 100`, foldRows))
		if err != nil || len(orgs) == 0 {
			return err
		}
		for _, org := range orgs {
			err := ns.db.runTx(ctx, nil, true, func(t sqlTx) error {
				return t.runQueries(lockOrgQuery(org), statement(`{fold}`, org, foldAtOnce))
			})
			if err != nil {
				return err
			}
		}
	}
}

// makeRoom deletes blobs of an organisation until some bytes more fit: first those that
// nobody is at work on any more, then those that were freed, the oldest first, though
// their grace time is not over.
func (ns *Namespace) makeRoom(ctx context.Context, org []byte, missing int64) error {
	if err := ns.sweepStaleReservations(ctx, org); err != nil {
		return err
	}
	var found bool
	var sum, rows int64
	if err := ns.db.runQueries(ctx, unreferencedQuery(&found, &sum, &rows, org)); err != nil {
		return err
	}
	// Some more than is needed, so that not each write has to do this.
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

// minimumGrace is how long blobs are kept at least that nothing refers to.
func (ns *Namespace) minimumGrace() time.Duration { return min(ns.opts.Grace, leastGrace) }

// sweepBeforeGrace takes blobs that were freed out of the database, of up to about so many bytes.
func (ns *Namespace) sweepBeforeGrace(ctx context.Context, org []byte, bytes int64) (freed int64, err error) {
	exported, err := ns.sweepAwaitsExport(ctx)
	if err != nil {
		return 0, err
	}
	var list []sweepCandidate
	err = ns.db.runQueries(ctx, selectAll(&list, (*sweepCandidate).scanDest, selectCandidates+` WHERE org = $1 AND freed < {now} - $2 AND expires IS NULL AND size > 0
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

// sweepStaleReservations takes reservations out of the database that nobody is at work on: those
// that have expired, were given up, or belong to a process that is dead. org is nil for
// those of all.
func (ns *Namespace) sweepStaleReservations(ctx context.Context, org []byte) error {
	for {
		var list []sweepCandidate
		err := ns.db.runQueries(ctx, selectAll(&list, (*sweepCandidate).scanDest, selectCandidates+` WHERE expires IS NOT NULL AND (org = $1 OR CAST($1 AS {bytes}) IS NULL)
			AND (expires < {now} OR freed < {now} - $2 OR owner IS NOT NULL AND NOT EXISTS (
				SELECT 1 FROM jobs j WHERE j.session = blobs.owner AND j.name LIKE '`+ownerPrefix+`%' AND j.expires > {now}))
			ORDER BY freed LIMIT $3`, nullIfNil(org), int64(neverUsedGrace(ns.opts.Grace)), sweepBatch))
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

// checkPuttable refuses a file that could never be put as a whole.
func (ns *Namespace) checkPuttable(opts driver.WriteOptions) error {
	bound, size := ns.opts.Unreferenced, opts.Size
	if bound >= 0 && size > bound && opts.NextData == nil {
		return driver.Errorf(driver.ErrNoSpace, "a file of %v cannot be put in one piece: an organisation may have %v stored that no file refers to yet; write it by handle, or in parts",
			driver.Size(size), driver.Size(bound))
	}
	return nil
}

// explainNoRoom is the error of a write that found no room.
func (ns *Namespace) explainNoRoom(ctx context.Context, org []byte, full *noRoomError) error {
	var freed, reserved bool
	var at, expires, now int64
	err := ns.db.runQueries(ctx,
		selectOne(&freed, []any{&at, &now}, `SELECT freed, {now} FROM blobs WHERE org = $1 AND freed IS NOT NULL AND expires IS NULL AND size > 0 ORDER BY freed LIMIT 1`, org),
		selectOne(&reserved, []any{&expires, &now}, `SELECT expires, {now} FROM blobs WHERE org = $1 AND expires IS NOT NULL ORDER BY expires LIMIT 1`, org))
	if err != nil {
		return err
	}
	wait := time.Duration(0)
	when := "room comes when writes that are under way end"
	if freed {
		if wait = time.Duration(at - now + int64(ns.minimumGrace())); wait <= 0 {
			when = "room comes with the next export of manifests, which refer to some of them"
		}
	}
	if reserved && (!freed || expires-now < int64(wait)) && wait >= 0 {
		wait = time.Duration(max(expires-now, int64(time.Second)))
	}
	if wait > 0 {
		when = "room comes in " + max(wait.Round(time.Second), time.Second).String() + " at the latest"
	}
	return driver.Errorf(driver.ErrNoSpace, "the organisation has %v stored that no file refers to (puts under way, and what was overwritten or removed lately), of at most %v; %s",
		driver.Size(full.stored), driver.Size(ns.opts.Unreferenced), when)
}
