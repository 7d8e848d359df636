package core

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server/internal/accounts"
)

// auditor writes audit records in the background. Records of file changes go through a bounded
// queue: when the database is slower than the requests, requests block, so no change goes
// unrecorded. Records of AuditFirst routes are written synchronously.
type auditor struct {
	store   *accounts.Store
	log     *slog.Logger
	queue   chan accounts.AuditRecord
	writers sync.WaitGroup
}

const (
	auditQueueLen = 4096
	auditWriters  = 256 // concurrent writers share a transaction
	auditTimeout  = 30 * time.Second
)

func newAuditor(to *accounts.Store, log *slog.Logger) *auditor {
	a := &auditor{store: to, log: log, queue: make(chan accounts.AuditRecord, auditQueueLen)}
	for range auditWriters {
		a.writers.Go(a.writeQueued)
	}
	return a
}

// enqueueRecord queues a record. A crash can lose the queued records of the last moments.
func (a *auditor) enqueueRecord(rec accounts.AuditRecord) { a.queue <- rec }

// writeNow returns when the record is durable or the database failed; the answer is sent after
// that.
func (a *auditor) writeNow(rec accounts.AuditRecord) { a.writeRecord(rec, a.store.RecordNow) }

// writeQueued writes records until the queue is closed. Many goroutines run it, because
// Store.Record blocks until its shared commit.
func (a *auditor) writeQueued() {
	for rec := range a.queue {
		a.writeRecord(rec, a.store.Record)
	}
}

// writeRecord writes one record, and logs it if the database does not take it: the log is then
// the only trace.
func (a *auditor) writeRecord(rec accounts.AuditRecord, put func(context.Context, accounts.AuditRecord) error) {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	if err := put(ctx, rec); err != nil {
		a.log.Error("audit: a record was not written", "error", err, "action", rec.Action, "org", rec.Org,
			"key", rec.KeyID, "volume", rec.Volume, "path", rec.Path, "status", rec.Status, "request", rec.RequestID)
	}
	cancel()
}

// flushAndClose writes what is queued. The caller guarantees that no record is added any more.
func (a *auditor) flushAndClose() {
	close(a.queue)
	a.writers.Wait()
}

// writeAuditRecord completes the record that the handler began and writes it, before the answer
// or behind it. It also wakes the streams of events of the organisation.
func (c *Core) writeAuditRecord(rt *Route, a *pacedResponse, r *Request) {
	rec := r.Audit
	rec.At, rec.Org, rec.KeyID, rec.KeyName = time.Now(), r.Caller.Org, r.Caller.KeyID, r.Caller.KeyName
	rec.Action, rec.Addr, rec.RequestID, rec.Status = rt.Name, r.ClientAddr(), r.ID, a.status
	if rec.VolumeName == "" && !driver.IsID(rec.Volume) {
		rec.VolumeName = rec.Volume // a name of no volume, or of one that was just made
	}
	if a.aborted {
		rec.Detail = strings.TrimSpace(rec.Detail + " (broken off)")
	}
	if rt.AuditFirst {
		c.audit.writeNow(rec) // the answer is still in net/http's buffer
	} else {
		c.audit.enqueueRecord(rec)
	}
	if a.status < http.StatusBadRequest && rec.Volume != "" {
		c.Events.notifyChanged(r.Caller.Org, rec.Volume)
	}
}
