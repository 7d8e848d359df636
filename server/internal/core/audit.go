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
	store   *accounts.Store
	log     *slog.Logger
	queue   chan accounts.AuditRecord
	writers sync.WaitGroup
}

const (
	auditQueueLen = 4096
	auditWriters  = 256 // who wait together share a transaction
	auditTimeout  = 30 * time.Second
)

func newAuditor(to *accounts.Store, log *slog.Logger) *auditor {
	a := &auditor{store: to, log: log, queue: make(chan accounts.AuditRecord, auditQueueLen)}
	for range auditWriters {
		a.writers.Go(a.writeQueued)
	}
	return a
}

// enqueueRecord has a record written soon. A kill can lose those of the last moments.
func (a *auditor) enqueueRecord(rec accounts.AuditRecord) { a.queue <- rec }

// writeNow writes a record before the answer is out.
func (a *auditor) writeNow(rec accounts.AuditRecord) { a.writeRecord(rec, a.store.RecordNow) }

func (a *auditor) writeQueued() {
	for rec := range a.queue {
		a.writeRecord(rec, a.store.Record)
	}
}

func (a *auditor) writeRecord(rec accounts.AuditRecord, put func(context.Context, accounts.AuditRecord) error) {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	if err := put(ctx, rec); err != nil {
		a.log.Error("audit: a record was not written", "error", err, "action", rec.Action, "org", rec.Org,
			"key", rec.KeyID, "volume", rec.Volume, "path", rec.Path, "status", rec.Status, "request", rec.RequestID)
	}
	cancel()
}

// flushAndClose writes what is queued. Nothing may be added any more.
func (a *auditor) flushAndClose() {
	close(a.queue)
	a.writers.Wait()
}
