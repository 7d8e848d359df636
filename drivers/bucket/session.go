package bucket

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/proc"
)

// session is how a Backend is known to others, while it holds something.
type session struct {
	b *Backend
	// client: it is that of a client, who renews it, through this process or another.
	client bool
	lease  time.Duration // of a client's

	mu    sync.Mutex // guards what follows; held while the row is made
	row   []byte     // its id; nil: there is none
	until time.Time  // by then the lease has run out, by this host's monotonic clock
	stop  context.CancelFunc
	done  chan struct{}
}

// id returns the id of the session's row, which is made when there is none, or when
// the lease of the last one has run out.
func (s *session) id(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client {
		return s.row, nil // whether its lease has run out, the database knows
	}
	if s.row != nil && time.Now().Before(s.until) {
		return s.row, nil
	}
	s.halt()
	row, lease := newID(), s.b.ns.opts.Lease
	host, _ := os.Hostname()
	asked := time.Now()
	// Who removes something has a session, too.
	err := s.b.ns.freeing(ctx, nil, func(t tx) error {
		var found bool
		if err := t.run(one(&found, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1`, row)); err != nil || found {
			return err
		}
		t.later(`INSERT INTO sessions (id, host, pid, created, expires) VALUES ($1, $2, $3, {now}, {now} + $4)`,
			row, host, os.Getpid(), int64(lease))
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.row, s.until, s.done = row, asked.Add(lease), make(chan struct{})
	life, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.renew(life, row, s.done)
	return row, nil
}

// present returns the id of the session's row, nil when there is none.
func (s *session) present() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.row
}

// halt ends the renewal of the present row. The caller holds mu.
func (s *session) halt() {
	if s.row == nil {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	s.row = nil
}

// renew puts the end of the lease off, three times as often as needed.
func (s *session) renew(ctx context.Context, row []byte, done chan struct{}) {
	defer close(done)
	lease := s.b.ns.opts.Lease
	tick := time.NewTicker(lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		once, cancel := context.WithTimeout(ctx, lease/3)
		alive, err := s.b.ns.renew(once, row, lease)
		cancel()
		if err != nil {
			s.b.ns.log.Warn("lease: renewing failed", "error", err)
			continue
		}
		s.mu.Lock()
		if string(s.row) == string(row) {
			if alive {
				s.until = asked.Add(lease)
			} else {
				s.until = time.Time{} // it ran out, and was swept
			}
		}
		s.mu.Unlock()
		if !alive {
			s.b.ns.log.Warn("lease: it ran out", "session", idText(row))
			return
		}
	}
}

func (ns *Namespace) renew(ctx context.Context, row []byte, lease time.Duration) (alive bool, err error) {
	renewal := func(t tx) error {
		var n int64
		ask := q(`UPDATE sessions SET expires = {now} + $2 WHERE id = $1 AND expires > {now}`, row, int64(lease))
		ask.n = &n
		err := t.run(ask)
		alive = n > 0
		return err
	}
	err = ns.ballast.Freeing(func() error { return ns.db.write(ctx, nil, true, renewal) })
	return alive, err
}

// end gives everything back that the session holds.
func (s *session) end(ctx context.Context) error {
	s.mu.Lock()
	row, done := s.row, s.done
	s.halt()
	s.mu.Unlock()
	if row == nil {
		return nil
	}
	if done != nil {
		<-done
	}
	return s.b.ns.endSession(ctx, row)
}

// endSession removes a session and what it holds: attachments by a foreign key, drafts
// and files without a name by the same work that maintenance does.
func (ns *Namespace) endSession(ctx context.Context, row []byte) error {
	err := ns.freeing(ctx, nil, func(t tx) error {
		t.later(`UPDATE volumes SET state = 'removing', session = NULL WHERE state = 'creating' AND session = $1`, row)
		t.later(`UPDATE orphans SET session = NULL WHERE session = $1`, row)
		t.later(`UPDATE volumes SET `+usedNow+` WHERE id IN (SELECT vol FROM attachments WHERE session = $1)`, row)
		t.later(`DELETE FROM attachments WHERE session = $1`, row)
		t.later(`DELETE FROM sessions WHERE id = $1`, row)
		return nil
	})
	ns.wake()
	return err
}

// attachment is one row of attachments, with its volume's name.
type attachment struct {
	id, vol, session    []byte
	name, holder, host  string
	readOnly, exclusive int64
	pid, started, since int64
}

func (a *attachment) dest() []any {
	return []any{&a.id, &a.vol, &a.session, &a.name, &a.holder, &a.host, &a.readOnly, &a.exclusive, &a.pid, &a.started, &a.since}
}

// selectAttachments has only those whose session's lease has not run out.
const selectAttachments = `SELECT a.id, a.vol, a.session, v.name, a.holder, a.host, a.read_only, a.exclusive, a.pid, a.started, a.since
	FROM attachments a JOIN sessions s ON s.id = a.session JOIN volumes v ON v.org = a.org AND v.id = a.vol
	WHERE a.org = $1 AND s.expires > {now}`

func (b *Backend) liveAttachments(list *[]attachment, vol []byte) query {
	return all(list, (*attachment).dest, selectAttachments+` AND a.vol = $2 ORDER BY a.id`, b.org, vol)
}

func (a *attachment) info() driver.AttachmentInfo {
	started := time.Time{}
	if a.started != 0 {
		started = time.Unix(0, a.started).UTC()
	}
	return driver.AttachmentInfo{
		ID: idText(a.id), VolumeID: idText(a.vol), Volume: a.name, Holder: a.holder, ReadOnly: a.readOnly != 0, Exclusive: a.exclusive != 0,
		Host: a.host, PID: int(a.pid), Started: started, Since: time.Unix(0, a.since).UTC(),
	}
}

// inUse is the error of what the attachment forbids.
func (a *attachment) inUse() error {
	return driver.Errorf(driver.ErrInUse, "the volume is attached by %s (pid %d on %s)", a.holder, a.pid, a.host)
}

// Attach implements driver.Backend.
func (b *Backend) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	defer b.ns.metrics.since("volume_attach", time.Now())
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	if opts.HostPath {
		return nil, driver.Errorf(driver.ErrUnsupported, "the files of this volume have no path on this host; mount it, or use a local home")
	}
	if err := b.writable(ctx); err != nil {
		return nil, err
	}
	vol := idBytes(id)
	session, err := b.session.id(ctx)
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
	a.readOnly, a.exclusive = asInt(opts.ReadOnly), asInt(opts.Exclusive)
	err = b.ns.db.write(ctx, vol, false, func(t tx) error { return b.attach(t, &a) })
	if err != nil {
		return nil, err
	}
	held := &held{b: b, info: a.info(), id: a.id}
	if err := b.keep(held); err != nil {
		return nil, err
	}
	return held, nil
}

func asInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// attach adds an attachment where the others allow it: an exclusive writer is alone, an
// exclusive reader has no writers beside it.
func (b *Backend) attach(t tx, a *attachment) error {
	var v volume
	var found, alive bool
	var others []attachment
	err := t.run(b.lockVolume(&found, &v, a.vol), b.liveAttachments(&others, a.vol),
		one(&alive, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1 AND expires > {now}`, a.session))
	if err != nil {
		return err
	}
	if !found {
		return driver.ErrNotFound
	}
	if !alive {
		return driver.Errorf(driver.ErrClosed, "this process was out of touch for longer than its lease; attach again")
	}
	a.name = v.name
	for _, o := range others {
		if (a.exclusive|o.exclusive) != 0 && (a.readOnly&o.readOnly) == 0 {
			return o.inUse()
		}
	}
	t.later(`INSERT INTO attachments (id, org, vol, session, holder, read_only, exclusive, host, pid, started, since)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		a.id, b.org, a.vol, a.session, a.holder, a.readOnly, a.exclusive, a.host, a.pid, a.started, a.since)
	t.later(`UPDATE volumes SET `+usedNow+` WHERE org = $1 AND id = $2`, b.org, a.vol)
	if a.exclusive != 0 && a.readOnly == 0 {
		// From here on, whoever is not this attachment is a late writer.
		t.later(`UPDATE volumes SET writer = $3, generation = generation + 1 WHERE org = $1 AND id = $2`, b.org, a.vol, a.id)
	}
	return nil
}

// held is an attachment of this process.
type held struct {
	b    *Backend
	info driver.AttachmentInfo
	id   []byte

	once sync.Mutex // held while it is given back
	gone bool
}

func (h *held) Info() driver.AttachmentInfo { return h.info }
func (h *held) Path() string                { return "" }
func (h *held) Hold() *os.File              { return nil }

// Detach implements driver.Attachment.
func (h *held) Detach(ctx context.Context) error {
	defer h.b.ns.metrics.since("volume_detach", time.Now())
	h.once.Lock()
	defer h.once.Unlock()
	if h.gone {
		return nil
	}
	h.b.mu.Lock()
	closed := h.b.closed
	h.b.mu.Unlock()
	if closed {
		return nil // its session has ended, or is about to
	}
	// What was written under the attachment still may be committed.
	if err := h.b.flushVolume(ctx, idBytes(h.info.VolumeID)); err != nil {
		return err
	}
	return h.give(ctx)
}

func (h *held) give(ctx context.Context) error {
	err := h.b.ns.db.write(ctx, nil, false, func(t tx) error {
		t.later(`UPDATE volumes SET writer = CASE WHEN writer = $3 THEN NULL ELSE writer END, `+usedNow+` WHERE org = $1 AND id = $2`,
			h.b.org, idBytes(h.info.VolumeID), h.id)
		t.later(`DELETE FROM attachments WHERE id = $1`, h.id)
		return nil
	})
	if err == nil {
		h.gone = true
		h.b.forget(h)
	}
	return err
}

func (h *held) closeWith(context.Context) error { return nil } // the session's end is its end

// Attachments implements driver.Backend.
func (b *Backend) Attachments(ctx context.Context, id string) ([]driver.AttachmentInfo, error) {
	defer b.ns.metrics.since("attachments", time.Now())
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	var list []attachment
	ask := all(&list, (*attachment).dest, selectAttachments+` ORDER BY a.id`, b.org)
	if id != "" {
		if _, err := b.get(ctx, driver.ByID(id)); err != nil {
			return nil, err
		}
		ask = b.liveAttachments(&list, idBytes(id))
	}
	if err := b.ns.db.read(ctx, ask); err != nil {
		return nil, err
	}
	infos := make([]driver.AttachmentInfo, len(list))
	for i := range list {
		infos[i] = list[i].info()
	}
	return infos, nil
}
