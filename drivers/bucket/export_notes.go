package bucket

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
)

// Rows of jobs that nobody runs.
const (
	// exportedAll tells when the last export began that left out nothing but volumes
	// that are damaged.
	exportedAll = "exported"
	// exporter tells until when a process that does not export by itself, such as
	// "vole bucket sweep", is to keep to what one that does has exported.
	exporter = "exporter"
)

// exporterKept is how long the note of an exporter is good: it outlives long rests.
const exporterKept = 30 * 24 * time.Hour

// orgExportJob is the row that tells when the last complete export of an organisation
// began. Its session is the organisation. One that cannot be exported holds back the
// sweeper of its own objects, and of nobody else's.
func orgExportJob(id []byte) string { return exportedAll + "/" + hex.EncodeToString(id) }

func (ns *Namespace) recordExport(ctx context.Context, name string, org []byte, at int64) error {
	return ns.db.runTx(ctx, nil, false, func(t sqlTx) error {
		t.queueExec(`INSERT INTO jobs (name, session, expires) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET expires = excluded.expires`, name, nullIfNil(org), at)
		return nil
	})
}

func (ns *Namespace) recordExporter(ctx context.Context) error {
	return ns.db.runTx(ctx, nil, false, func(t sqlTx) error {
		t.queueExec(`INSERT INTO jobs (name, session, expires) VALUES ($1, NULL, {now} + $2)
			ON CONFLICT (name) DO UPDATE SET expires = excluded.expires`, exporter, int64(exporterKept))
		return nil
	})
}

// sweepAwaitsExport reports whether only what was freed before the last complete export of
// its organisation may be swept.
func (ns *Namespace) sweepAwaitsExport(ctx context.Context) (yes bool, err error) {
	if ns.opts.Export > 0 {
		return true, nil
	}
	err = ns.db.runQueries(ctx, selectOne(&yes, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1 AND expires > {now}`, exporter))
	return yes, err
}

// notExported is a condition that holds for blobs that a manifest may still refer to.
const notExported = `EXISTS (SELECT 1 FROM orgs o WHERE o.id = blobs.org AND o.name NOT LIKE '` + removedOrg + `%') AND freed >= coalesce((
	SELECT e.expires FROM (SELECT session, expires FROM jobs WHERE name LIKE '` + exportedAll + `/%') e WHERE e.session = blobs.org), 0)`

const (
	// exportErrors is how many volumes may fail before the export of an organisation is
	// given up, and how many that are damaged are told. Those do not count.
	exportErrors = 10
	// exportTries is how often one volume's manifest may meet one of another past.
	exportTries = 3
)

// exportFailures are what failed of an export.
type exportFailures struct {
	list    []error
	damaged int // volumes whose rows cannot be
	others  int
}

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

// mergeFailures takes over the failures of one organisation.
func (f *exportFailures) mergeFailures(of *exportFailures) {
	f.damaged += of.damaged
	f.others += of.others
	f.list = append(f.list, of.list...)
}

func (f *exportFailures) joinedErr() error { return errors.Join(f.list...) }

// runPeriodicExports exports from time to time until ctx ends. All processes of the namespace
// look whether it is time; one at a time does it.
func (ns *Namespace) runPeriodicExports(ctx context.Context) {
	tick := time.NewTicker(min(ns.opts.Export, max(ns.opts.Export/10, time.Second), time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due, err := ns.isExportDue(ctx)
		if err == nil && due {
			err = ns.recordExporter(ctx)
		}
		if err == nil && due {
			_, err = ns.Export(ctx, ExportOptions{})
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, driver.ErrInUse) {
			ns.metrics.exportErrors.Inc()
			ns.log.Warn("the export of manifests failed", "error", err)
		}
	}
}

func (ns *Namespace) isExportDue(ctx context.Context) (bool, error) {
	var fresh bool
	err := ns.db.runQueries(ctx, selectOne(&fresh, []any{new(int)}, `SELECT 1 FROM jobs WHERE name = $1 AND expires > {now} - $2`, exportedAll, int64(ns.opts.Export)))
	return !fresh, err
}
