package core

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/volehq/vole/server/internal/accounts"
)

// auditor writes the audit log behind the requests. When the database is slower than
// they are, they wait: no change goes unrecorded.
type auditor struct {
	to    *accounts.Store
	log   *slog.Logger
	queue chan accounts.AuditRecord
	wg    sync.WaitGroup
}

const (
	auditQueue   = 4096
	auditWriters = 256 // who wait together share a transaction
	auditWait    = 30 * time.Second
)

func newAuditor(to *accounts.Store, log *slog.Logger) *auditor {
	a := &auditor{to: to, log: log, queue: make(chan accounts.AuditRecord, auditQueue)}
	for range auditWriters {
		a.wg.Go(a.write)
	}
	return a
}

// add has a record written soon. A kill can lose those of the last moments.
func (a *auditor) add(rec accounts.AuditRecord) { a.queue <- rec }

// now writes a record before the answer is out.
func (a *auditor) now(rec accounts.AuditRecord) { a.record(rec, a.to.RecordNow) }

func (a *auditor) write() {
	for rec := range a.queue {
		a.record(rec, a.to.Record)
	}
}

func (a *auditor) record(rec accounts.AuditRecord, put func(context.Context, accounts.AuditRecord) error) {
	ctx, cancel := context.WithTimeout(context.Background(), auditWait)
	if err := put(ctx, rec); err != nil {
		a.log.Error("audit: a record was not written", "error", err, "action", rec.Action, "org", rec.Org,
			"key", rec.KeyID, "volume", rec.Volume, "path", rec.Path, "status", rec.Status, "request", rec.RequestID)
	}
	cancel()
}

// close writes what is queued. Nothing may be added any more.
func (a *auditor) close() {
	close(a.queue)
	a.wg.Wait()
}
