package bucket

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/internal/sqldb"
)

// Names of rows of jobs that only keep a time.
const (
	// exportedAll is when the last export began that left out nothing but damaged volumes.
	exportedAll = "exported"
	// exporter is until when a process that does not export itself, such as "vole bucket
	// sweep", must keep what the last export refers to.
	exporter = "exporter"
)

// exporterKept is how long the row of an exporter is valid. It outlives long pauses of it.
const exporterKept = 30 * 24 * time.Hour

// orgExportJob is the name of the row for when the last complete export of an organisation
// began. Its session is the organisation's id. An organisation that cannot be exported keeps
// only its own objects from being swept.
func orgExportJob(id []byte) string { return exportedAll + "/" + hex.EncodeToString(id) }

// recordExport records when an export began, of one organisation or (org is nil) of all.
func (ns *Namespace) recordExport(ctx context.Context, name string, org []byte, at int64) error {
	return sqldb.Exec(ctx, ns.db, sqldb.TxOptions{}, sqldb.Statement(`INSERT INTO jobs (name, session, expires) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET expires = excluded.expires`, name, sqldb.NullIfNil(org), at))
}

// recordExporter records that a process exports.
func (ns *Namespace) recordExporter(ctx context.Context) error {
	return sqldb.Exec(ctx, ns.db, sqldb.TxOptions{}, sqldb.Statement(`INSERT INTO jobs (name, session, expires) VALUES ($1, NULL, {now} + $2)
			ON CONFLICT (name) DO UPDATE SET expires = excluded.expires`, exporter, int64(exporterKept)))
}

// sweepAwaitsExport reports whether the sweeper must keep the blobs that were freed since the
// last complete export of their organisation.
func (ns *Namespace) sweepAwaitsExport(ctx context.Context) (yes bool, err error) {
	if ns.opts.Export > 0 {
		return true, nil
	}
	err = ns.db.RunQueries(ctx, sqldb.SelectOne(&yes, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1 AND expires > {now}`, exporter))
	return yes, err
}

// notExported is a condition on rows of blobs: the blob was freed after the last complete
// export, so a manifest may still refer to it.
const notExported = `EXISTS (SELECT 1 FROM orgs o WHERE o.id = blobs.org AND o.name NOT LIKE '` + removedOrg + `%') AND freed >= coalesce((
	SELECT e.expires FROM (SELECT session, expires FROM jobs WHERE name LIKE '` + exportedAll + `/%') e WHERE e.session = blobs.org), 0)`

const (
	// exportErrors is how many volumes may fail before the export of an organisation is
	// given up. Damaged volumes do not count, but only so many are reported.
	exportErrors = 10
	// exportTries is how often the manifest of a volume is written again because the store has
	// another one of its generation.
	exportTries = 3
)

// exportFailures collects the errors of an export.
type exportFailures struct {
	list    []error
	damaged int // volumes with damaged rows
	others  int
}

// addFailure adds an error, unless it is nil or one damaged volume too many.
func (f *exportFailures) addFailure(err error) {
	switch {
	case err == nil:
		return
	case errors.Is(err, driver.ErrCorrupt):
		if f.damaged++; f.damaged > exportErrors {
			return
		}
	default:
		f.others++
	}
	f.list = append(f.list, err)
}

// mergeFailures adds the failures of one organisation.
func (f *exportFailures) mergeFailures(other *exportFailures) {
	f.damaged += other.damaged
	f.others += other.others
	f.list = append(f.list, other.list...)
}

func (f *exportFailures) joinedErr() error { return errors.Join(f.list...) }

// runPeriodicExports exports every Options.Export until ctx ends. All processes of the
// namespace check whether an export is due, and one at a time runs it.
func (ns *Namespace) runPeriodicExports(ctx context.Context) {
	for range periodic.Ticks(ctx, min(ns.opts.Export, max(ns.opts.Export/10, time.Second), time.Minute)) {
		due, err := ns.isExportDue(ctx)
		if err == nil && due {
			err = ns.recordExporter(ctx)
		}
		if err == nil && due {
			_, err = ns.Export(ctx, ExportOptions{})
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, driver.ErrInUse) {
			ns.metrics.exportErrors.Inc()
			ns.log.Warn("exporting manifests failed", "error", err)
		}
	}
}

// isExportDue reports whether the last export of all is older than Options.Export.
func (ns *Namespace) isExportDue(ctx context.Context) (bool, error) {
	var recent bool
	err := ns.db.RunQueries(ctx, sqldb.SelectOne(&recent, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1 AND expires > {now} - $2`, exportedAll, int64(ns.opts.Export)))
	return !recent, err
}
