package bucket

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/internal/proc"
	"github.com/volehq/vole/internal/sqldb"
)

// session is the row by which other processes know a Backend that holds something. It has a
// lease, which is renewed until the Backend is closed.
type session struct {
	b *Backend
	// renewedByClient: the session belongs to a client of a server, which renews it through
	// this process or another.
	renewedByClient bool
	clientLease     time.Duration // of a client's session

	mu            sync.Mutex // guards what follows; held while the row is made
	rowID         []byte     // id of the row; nil: there is none
	leaseEnd      time.Time  // the lease ends no earlier, by this host's monotonic clock
	cancelRenewal context.CancelFunc
	renewalDone   chan struct{} // closed when the renewal has ended
}

// ensureSession returns the id of the session's row. It makes a row, and starts renewing it,
// if there is none or the lease of the last one has run out.
func (s *session) ensureSession(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewedByClient {
		return s.rowID, nil // the database checks the lease
	}
	if s.rowID != nil && time.Now().Before(s.leaseEnd) {
		return s.rowID, nil
	}
	s.stopRenewal()
	row, lease := newID(), s.b.ns.opts.Lease
	asked := time.Now()
	if err := s.b.ns.insertSession(ctx, row, nil, nil, lease); err != nil {
		return nil, err
	}
	s.rowID, s.leaseEnd, s.renewalDone = row, asked.Add(lease), make(chan struct{})
	life, stop := context.WithCancel(context.Background())
	s.cancelRenewal = stop
	go s.renewUntilStopped(life, row, s.renewalDone)
	return row, nil
}

// insertSession makes the row of a session; org and owner are those of a client's, or nil.
func (ns *Namespace) insertSession(ctx context.Context, row []byte, org, owner any, lease time.Duration) error {
	host, _ := os.Hostname()
	return ns.runFreeingTx(ctx, nil, func(tx sqldb.Tx) error { // removals need a session, too
		var found bool
		// A retry after a commit whose answer was lost finds the row.
		if err := tx.RunQueries(sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1`, row)); err != nil || found {
			return err
		}
		tx.QueueExec(`INSERT INTO sessions (id, org, owner, host, pid, created, expires) VALUES ($1, $2, $3, $4, $5, {now}, {now} + $6)`,
			row, org, owner, host, os.Getpid(), int64(lease))
		return nil
	})
}

// currentID returns the id of the session's row, nil if there is none.
func (s *session) currentID() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rowID
}

// stopRenewal ends the renewal of the row, and forgets the row. The caller holds mu.
func (s *session) stopRenewal() {
	if s.rowID == nil {
		return
	}
	if s.cancelRenewal != nil {
		s.cancelRenewal()
	}
	s.rowID = nil
}

// renewUntilStopped renews the lease every third of its duration, until ctx ends or the lease
// turns out to have run out.
func (s *session) renewUntilStopped(ctx context.Context, row []byte, done chan struct{}) {
	defer close(done)
	lease := s.b.ns.opts.Lease
	for range periodic.Ticks(ctx, lease/3) {
		asked := time.Now()
		attemptCtx, cancel := context.WithTimeout(ctx, lease/3)
		alive, err := s.b.ns.renewLease(attemptCtx, row, lease)
		cancel()
		if err != nil {
			s.b.ns.log.Warn("lease: renewing failed", "error", err)
			continue
		}
		s.mu.Lock()
		if string(s.rowID) == string(row) {
			if alive {
				s.leaseEnd = asked.Add(lease)
			} else {
				s.leaseEnd = time.Time{} // maintenance has ended the session
			}
		}
		s.mu.Unlock()
		if !alive {
			s.b.ns.log.Warn("lease: the session has expired", "session", rows.FormatID(row))
			return
		}
	}
}

// renewLease renews the lease of a session. alive is false if it has run out before.
func (ns *Namespace) renewLease(ctx context.Context, row []byte, lease time.Duration) (alive bool, err error) {
	var changed int64
	renewal := sqldb.Counted(&changed, `UPDATE sessions SET expires = {now} + $2 WHERE id = $1 AND expires > {now}`, row, int64(lease))
	err = ns.db.Freeing(func() error { return sqldb.Exec(ctx, ns.db, sqldb.TxOptions{Lazy: true}, renewal) })
	return changed > 0, err
}

// endSession ends the session, and releases all that it holds.
func (s *session) endSession(ctx context.Context) error {
	s.mu.Lock()
	row, done := s.rowID, s.renewalDone
	s.stopRenewal()
	s.mu.Unlock()
	if row == nil {
		return nil
	}
	if done != nil {
		<-done
	}
	return s.b.ns.endSession(ctx, row)
}

// endSession deletes a session and its attachments. Its drafts become removed volumes, its
// orphans anyone's, and maintenance does the rest.
func (ns *Namespace) endSession(ctx context.Context, row []byte) error {
	err := ns.runFreeingTx(ctx, nil, func(tx sqldb.Tx) error {
		tx.QueueExec(`UPDATE volumes SET state = 'removing', session = NULL WHERE state = 'creating' AND session = $1`, row)
		tx.QueueExec(`UPDATE orphans SET session = NULL WHERE session = $1`, row)
		tx.QueueExec(`UPDATE volumes SET `+usedNow+` WHERE id IN (SELECT vol FROM attachments WHERE session = $1)`, row)
		tx.QueueExec(`DELETE FROM attachments WHERE session = $1`, row)
		tx.QueueExec(`DELETE FROM sessions WHERE id = $1`, row)
		return nil
	})
	ns.wakeMaintenance()
	return err
}

// attachment is one row of attachments, with its volume's name.
type attachment struct {
	id, vol, session    []byte
	name, holder, host  string
	readOnly, exclusive int64
	pid, started, since int64
}

func (a *attachment) scanDest() []any {
	return []any{&a.id, &a.vol, &a.session, &a.name, &a.holder, &a.host, &a.readOnly, &a.exclusive, &a.pid, &a.started, &a.since}
}

// selectAttachments selects the attachments of an organisation ($1) whose session is alive.
const selectAttachments = `SELECT a.id, a.vol, a.session, v.name, a.holder, a.host, a.read_only, a.exclusive, a.pid, a.started, a.since
	FROM attachments a JOIN sessions s ON s.id = a.session JOIN volumes v ON v.org = a.org AND v.id = a.vol
	WHERE a.org = $1 AND s.expires > {now}`

// liveAttachmentsQuery selects the live attachments of a volume.
func (b *Backend) liveAttachmentsQuery(list *[]attachment, vol []byte) sqldb.Query {
	return sqldb.SelectAll(list, (*attachment).scanDest, selectAttachments+` AND a.vol = $2 ORDER BY a.id`, b.org, vol)
}

// toInfo describes the attachment as drivers do.
func (a *attachment) toInfo() driver.AttachmentInfo {
	started := time.Time{}
	if a.started != 0 {
		started = time.Unix(0, a.started).UTC()
	}
	return driver.AttachmentInfo{
		ID: rows.FormatID(a.id), VolumeID: rows.FormatID(a.vol), Volume: a.name, Holder: a.holder, ReadOnly: a.readOnly != 0, Exclusive: a.exclusive != 0,
		Host: a.host, PID: int(a.pid), Started: started, Since: time.Unix(0, a.since).UTC(),
	}
}

// inUseError is the error for what the attachment excludes.
func (a *attachment) inUseError() error {
	return driver.Errorf(driver.ErrInUse, "the volume is attached by %s (pid %d on %s)", a.holder, a.pid, a.host)
}

// Attach implements driver.Backend.
func (b *Backend) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	defer b.ns.metrics.observeSince("volume_attach", time.Now())
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	if opts.HostPath {
		return nil, driver.Errorf(driver.ErrUnsupported, "the files of this volume have no path on this host; use FS, or a volume of a local home")
	}
	if err := b.checkWritable(ctx); err != nil {
		return nil, err
	}
	vol := parseID(id)
	session, err := b.session.ensureSession(ctx)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	a := attachment{id: newID(), vol: vol, session: session, holder: opts.Holder, host: host, pid: int64(os.Getpid()), since: time.Now().UnixNano()}
	if s := proc.Start(); !s.IsZero() {
		a.started = s.UnixNano()
	}
	if opts.Host != "" {
		a.host, a.pid, a.started = opts.Host, int64(opts.PID), 0
		if !opts.Started.IsZero() {
			a.started = opts.Started.UnixNano()
		}
	}
	a.readOnly, a.exclusive = boolToInt(opts.ReadOnly), boolToInt(opts.Exclusive)
	err = b.ns.db.RunTx(ctx, sqldb.TxOptions{Key: vol}, func(tx sqldb.Tx) error { return b.insertAttachment(tx, &a) })
	if err != nil {
		return nil, err
	}
	if b.isClosed() {
		return nil, driver.ErrClosed
	}
	return &heldAttachment{b: b, info: a.toInfo(), id: a.id}, nil
}

func boolToInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// insertAttachment adds an attachment if the others allow it: an exclusive writer excludes all
// others, an exclusive reader excludes writers.
func (b *Backend) insertAttachment(tx sqldb.Tx, a *attachment) error {
	var row volumeRow
	var others []attachment
	expired := driver.Errorf(driver.ErrClosed, "the session's lease has expired, as this process did not reach the database in time; attach again")
	err := tx.RunQueries(b.lockVolumeQuery(&row, a.vol), b.liveAttachmentsQuery(&others, a.vol),
		sqldb.SelectRow(expired, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1 AND expires > {now}`, a.session))
	if err != nil {
		return err
	}
	a.name = row.name
	for _, o := range others {
		if (a.exclusive|o.exclusive) != 0 && (a.readOnly&o.readOnly) == 0 {
			return o.inUseError()
		}
	}
	tx.QueueExec(`INSERT INTO attachments (id, org, vol, session, holder, read_only, exclusive, host, pid, started, since)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		a.id, b.org, a.vol, a.session, a.holder, a.readOnly, a.exclusive, a.host, a.pid, a.started, a.since)
	tx.QueueExec(`UPDATE volumes SET `+usedNow+` WHERE org = $1 AND id = $2`, b.org, a.vol)
	if a.exclusive != 0 && a.readOnly == 0 {
		// The fence: from now on, transactions under any other attachment are refused.
		tx.QueueExec(`UPDATE volumes SET writer = $3, generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, a.vol, a.id)
	}
	return nil
}

// heldAttachment is an attachment of this process. It implements driver.Attachment. Its Backend
// need not close it: the end of the session ends the attachment.
type heldAttachment struct {
	b    *Backend
	info driver.AttachmentInfo
	id   []byte

	detachMu sync.Mutex // held while it is detached; guards detached
	detached bool
}

func (h *heldAttachment) Info() driver.AttachmentInfo { return h.info }
func (h *heldAttachment) Path() string                { return "" }
func (h *heldAttachment) Hold() *os.File              { return nil }

// Detach implements driver.Attachment.
func (h *heldAttachment) Detach(ctx context.Context) error {
	defer h.b.ns.metrics.observeSince("volume_detach", time.Now())
	h.detachMu.Lock()
	defer h.detachMu.Unlock()
	if h.detached {
		return nil
	}
	if h.b.isClosed() {
		return nil // closing the Backend ends the session
	}
	// What was written under the attachment can only be committed before it ends.
	if err := h.b.flushVolumeBestEffort(ctx, parseID(h.info.VolumeID)); err != nil {
		return err
	}
	// The fence goes with the row, if it is the exclusive writer.
	err := sqldb.Exec(ctx, h.b.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET writer = CASE WHEN writer = $3 THEN NULL ELSE writer END, `+usedNow+` WHERE org = $1 AND id = $2`,
			h.b.org, parseID(h.info.VolumeID), h.id),
		sqldb.Statement(`DELETE FROM attachments WHERE id = $1`, h.id))
	h.detached = err == nil
	return err
}

// Attachments implements driver.Backend.
func (b *Backend) Attachments(ctx context.Context, id string) ([]driver.AttachmentInfo, error) {
	defer b.ns.metrics.observeSince("attachments", time.Now())
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	var list []attachment
	ask := sqldb.SelectAll(&list, (*attachment).scanDest, selectAttachments+` ORDER BY a.id`, b.org)
	if id != "" {
		if _, err := b.getVolume(ctx, driver.ByID(id)); err != nil {
			return nil, err
		}
		ask = b.liveAttachmentsQuery(&list, parseID(id))
	}
	if err := b.ns.db.RunQueries(ctx, ask); err != nil {
		return nil, err
	}
	infos := make([]driver.AttachmentInfo, len(list))
	for i := range list {
		infos[i] = list[i].toInfo()
	}
	return infos, nil
}
