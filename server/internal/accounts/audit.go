package accounts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/sqldb"
)

// AuditRecord is one line of the audit log: who did what, and how it ended.
type AuditRecord struct {
	ID int64 // set by the database; grows
	At time.Time

	// Org is "" when a request had no key that was accepted.
	Org, KeyID, KeyName          string
	Action, Volume, Path, Detail string
	VolumeName                   string // at the time of the change; "": unknown
	Addr, RequestID              string
	Status                       int // of HTTP
}

// columnValues returns the values of auditColumns. Texts that are too long are clipped: a
// clipped record is better than none.
func (r *AuditRecord) columnValues() []any {
	return []any{
		catalog.Nanos(r.At), clipText(r.Org, maxField), clipText(r.KeyID, maxField), clipText(r.KeyName, maxField),
		clipText(r.Action, maxField), clipText(r.Volume, maxField), clipText(r.Path, driver.MaxPathLen), clipText(r.Detail, maxDetail),
		clipText(r.Addr, maxField), clipText(r.RequestID, maxField), int64(r.Status), clipText(r.VolumeName, maxField),
	}
}

const (
	auditColumns = `at, org, key_id, key_name, action, volume, path, detail, addr, request_id, status, volume_name`
	// maxRecordBatch bounds how many records share a commit.
	maxRecordBatch = 256
	// commitDelay is how long the first record of a commit waits for others. A commit for each
	// record would cost as much as the change that it reports.
	commitDelay = 50 * time.Millisecond
	// recordTimeout bounds the writing of records.
	recordTimeout = 30 * time.Second
	// maxAuditPage is the most records that Audit returns.
	maxAuditPage = 1000
)

// pendingRecord is an audit record on its way to writeRecordsLoop.
type pendingRecord struct {
	urgent bool // a client waits for it
	row    []any
	done   chan error // gets one
}

// Record adds to the audit log and returns when the record is durable; concurrent records share
// a commit. If ctx ends earlier, the record may still be written. r.ID is ignored; a zero At
// means now. Texts that are too long are clipped, most after 255 bytes.
func (s *Store) Record(ctx context.Context, r AuditRecord) error {
	return s.enqueueRecord(ctx, r, false)
}

// RecordNow is Record for a record that a client waits for: it does not delay the commit to
// gather others.
func (s *Store) RecordNow(ctx context.Context, r AuditRecord) error {
	return s.enqueueRecord(ctx, r, true)
}

// enqueueRecord hands a record to writeRecordsLoop and waits for its commit.
func (s *Store) enqueueRecord(ctx context.Context, r AuditRecord, now bool) error {
	if r.At.IsZero() {
		r.At = s.clock()
	}
	w := &pendingRecord{row: r.columnValues(), urgent: now, done: make(chan error, 1)}
	if s.closed.Load() {
		return driver.ErrClosed
	}
	select {
	case s.records <- w:
	case <-s.stopped:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeRecordsLoop is the only writer of audit records (group commit): it takes a first record,
// gathers others for commitDelay unless one is urgent, and inserts them together. It runs until
// the Store is closed.
func (s *Store) writeRecordsLoop() {
	for {
		var batch []*pendingRecord
		select {
		case r := <-s.records:
			batch = append(batch, r)
		case <-s.stopped:
			return
		}
		full := time.After(commitDelay)
	more:
		for len(batch) < maxRecordBatch && !batch[len(batch)-1].urgent {
			select {
			case r := <-s.records:
				batch = append(batch, r)
			case <-full:
				break more
			case <-s.stopped:
				break more
			}
		}
		err := s.insertRecords(batch)
		for _, r := range batch {
			r.done <- err
		}
	}
}

// insertRecords inserts records in one transaction. No record appears twice, so it is not repeated
// if it may have succeeded.
func (s *Store) insertRecords(batch []*pendingRecord) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	err := s.runTx(ctx, sqldb.TxOptions{AtMostOnce: true}, func(tx sqldb.Tx) error {
		for _, r := range batch {
			tx.QueueExec(`INSERT INTO server_audit (`+auditColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, r.row...)
		}
		return nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return err
}

// Audit returns records of an organisation, newest first: at most limit (capped at 1000; 100 if
// it is 0 or less), and only those with an id below before if that is positive. Organisation ""
// has the records of requests without a valid key.
func (s *Store) Audit(ctx context.Context, org string, before int64, limit int) ([]AuditRecord, error) {
	if org != "" {
		if err := validateOrg(org); err != nil {
			return nil, err
		}
	}
	if before <= 0 {
		before = 1<<63 - 1
	}
	return queryAll(ctx, s, func(scan sqldb.Scanner) (r AuditRecord, err error) {
		var at int64
		err = scan(&r.ID, &at, &r.Org, &r.KeyID, &r.KeyName, &r.Action, &r.Volume, &r.Path, &r.Detail, &r.Addr, &r.RequestID, &r.Status, &r.VolumeName)
		r.At = catalog.Time(at)
		return r, err
	}, `SELECT id, `+auditColumns+` FROM server_audit WHERE org = $1 AND id < $2 ORDER BY id DESC LIMIT $3`, org, before, clampLimit(limit, maxAuditPage))
}

// clampLimit returns limit, at most most, or a default if it is not positive.
func clampLimit(limit, most int) int {
	if limit <= 0 {
		return min(100, most)
	}
	return min(limit, most)
}

// PruneAudit removes the records from before olderThan.
func (s *Store) PruneAudit(ctx context.Context, olderThan time.Time) error {
	return s.deleteInBatches(ctx, `DELETE FROM server_audit WHERE id IN (SELECT id FROM server_audit WHERE at < $1 ORDER BY at LIMIT $2)`, olderThan)
}
