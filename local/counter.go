package local

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/catalog"
)

// While files of a volume are being changed through the FS, its usage is not in the
// catalog but in a counter: a page of the file locks/<id>, mapped into the memory of
// every process that is at it. So each change is charged exactly, against all others,
// without a write to the database. The file's bytes are also what is locked while a
// change happens: one for changes of names, one of 64 for the contents of a file. A
// measurement takes them all, and so sees the volume at rest.
//
// A process that counts says so in the catalog, durably, before it changes anything.
// When it is done, and the last one is, the figure goes back to the catalog; a
// counting process that died may have changed a file without charging it, or the
// reverse, so its mark means: measure again.

// idleCounter is how long a counter outlives its last use: uses come in bursts.
const idleCounter = 2 * time.Second

// counter is a volume's counter in this process.
type counter struct {
	b  *Backend
	id string

	ready chan struct{} // closed once the fields below are set, or err
	err   error
	page  *page
	messy atomic.Bool // something stayed behind in the volume's tmp directory

	draft atomic.Bool   // only this process uses the volume; made false under all locks below
	moves atomic.Uint64 // how often paths of the volume may have come to lead elsewhere

	names ctxMutex
	files [stripes]ctxMutex

	mu      sync.Mutex  // guards what follows
	refs    int         // users: FSes and files that may change something
	idle    *time.Timer // retires the counter; nil while in use
	retired bool
}

// useCounter returns the counter of a volume, for a user that will call release. The
// first use in a process costs a durable commit. ErrNotFound.
func (b *Backend) useCounter(ctx context.Context, id string) (*counter, error) {
	for {
		c, first, err := b.findCounter(id)
		if err != nil {
			return nil, err
		}
		if first {
			c.err = c.begin(ctx)
			if c.err != nil {
				b.forgetCounter(c)
			}
			close(c.ready)
			return c, c.err
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			c.release()
			return nil, ctx.Err()
		}
		if c.err == nil {
			return c, nil
		}
		// The first user failed, maybe by its own context alone. Try anew.
	}
}

// findCounter returns the counter with one more reference; first says that the
// caller must begin it.
func (b *Backend) findCounter(id string) (c *counter, first bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false, driver.ErrClosed
	}
	if c = b.counters[id]; c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.retired {
			c.refs++
			if c.idle != nil {
				c.idle.Stop()
				c.idle = nil
			}
			return c, false, nil
		}
	}
	c = &counter{b: b, id: id, refs: 1, ready: make(chan struct{}), names: newCtxMutex()}
	for i := range c.files {
		c.files[i] = newCtxMutex()
	}
	c.draft.Store(b.drafts[id])
	b.counters[id] = c
	return c, true, nil
}

func (b *Backend) forgetCounter(c *counter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counters[c.id] == c {
		delete(b.counters, c.id)
	}
}

// begin marks the volume as counted by this process and sets the page up, unless
// another live process is counting already.
func (c *counter) begin(ctx context.Context) error {
	proc, err := c.b.process()
	if err != nil {
		return sysErr(err)
	}
	// Before the lock file is made: there must be none for a volume that is not.
	if err := c.b.ensureData(ctx, c.id); err != nil {
		return err
	}
	p, err := c.b.openPage(c.id)
	if err != nil {
		return sysErr(err)
	}
	unlock, err := p.lockAll(ctx, "begin counting")
	if err != nil {
		p.close()
		return err
	}
	defer unlock()
	var measure, mixed bool
	err = c.b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		var err error
		measure, mixed, err = c.b.enter(tx, p, c.id, proc)
		return err
	})
	if err == nil && measure {
		_, err = c.b.measureLocked(ctx, c.id, p)
		if err != nil {
			err = errors.Join(err, c.b.leave(bg(ctx), p, c.id, proc))
		}
	}
	if err != nil {
		if errors.Is(err, driver.ErrNotFound) {
			_ = c.b.removeLock(c.id)
		}
		p.close()
		return err
	}
	if mixed {
		p.store(offStale, 1)
	}
	c.page = p
	return nil
}

// enter adds this process to those that count. It reports whether the volume must be
// measured before anything is charged: its figure is stale, and it has a quota. mixed: other
// processes count as another version of Vole does.
func (b *Backend) enter(tx *catalog.Tx, p *page, id, proc string) (measure, mixed bool, err error) {
	r, err := scanOne(tx.QueryRow(selectByID, id))
	if err != nil {
		return false, false, err
	}
	marks, err := b.dropDeadCounting(tx, id, proc)
	if err != nil {
		return false, false, err
	}
	info := r.Info
	stale := info.UsedStale || marks.died
	unknown := r.tally.entries < 0
	// Another version of Vole is counting, which charges less, or elsewhere in the page:
	// the figures are measured now, and once more when both are done.
	mixed = marks.others > 0 && p.load(offMagic) != pageMagic
	stale = stale || mixed
	// A mark of this process means that an earlier counter of it has not left.
	if marks.others == 0 && !marks.own || p.load(offMagic) != pageMagic {
		p.store(offUsed, int64(info.Used))
		p.store(offQuota, int64(info.Quota))
		p.store(offRemoved, 0)
		p.setTally(tally{max(0, r.tally.entries), max(0, r.tally.names), max(0, r.tally.xattrs)})
		p.store(offMagic, pageMagic)
	}
	p.raise(offLastUse, func(last int64) int64 { return max(last, info.LastUsed.UnixNano()) })
	if _, err := tx.Exec(`INSERT INTO counting (volume, process) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, proc); err != nil {
		return false, false, err
	}
	_, err = tx.Exec(`UPDATE volumes SET made = max(made, 1), counted = ?, stale = ? WHERE id = ?`, marks.others+marks.kept+1, stale, id)
	return (stale || unknown) && info.Quota != 0, mixed, err
}

// countingMarks is what dropDeadCounting found.
type countingMarks struct {
	others int  // live processes besides this one
	kept   int  // dead ones whose files could not be removed
	own    bool // this process is among them
	died   bool // some were dead
}

// dropDeadCounting removes the marks of dead processes, with what they were writing.
func (b *Backend) dropDeadCounting(tx *catalog.Tx, id, proc string) (m countingMarks, err error) {
	rows, err := tx.Query(`SELECT process FROM counting WHERE volume = ?`, id)
	if err != nil {
		return m, err
	}
	var dead []string
	l := b.liveness()
	for rows.Next() {
		var p string
		if err := errors.Join(rows.Scan(&p), checkIDs(p)); err != nil {
			rows.Close()
			return m, err
		}
		switch {
		case p == proc:
			m.own = true
		case l.alive(p):
			m.others++
		default:
			dead = append(dead, p)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return m, err
	}
	m.died = len(dead) > 0
	for _, p := range dead {
		if b.removeTemps(id, p) != nil {
			m.kept++ // for recovery, and for Check to report
			continue
		}
		if _, err := tx.Exec(`DELETE FROM counting WHERE volume = ? AND process = ?`, id, p); err != nil {
			return m, err
		}
	}
	return m, nil
}

// leave takes this process from those that count and puts the figure into the
// catalog. Lazy: after a power cut the mark is there again, of a dead process.
func (b *Backend) leave(ctx context.Context, p *page, id, proc string) error {
	return b.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		n, err := tx.Exec(`DELETE FROM counting WHERE volume = ? AND process = ?`, id, proc)
		if err != nil || n == 0 {
			return err
		}
		t := p.tally()
		if p.load(offMagic) != pageMagic {
			p.store(offStale, 1) // another version of Vole has begun to count meanwhile
		}
		_, err = tx.Exec(`UPDATE volumes SET used = ?, counted = counted - 1, stale = max(stale, ?), entries = ?, names = ?, xattrs = ?,
			last_used = max(last_used, ?) WHERE id = ?`,
			max(0, p.load(offUsed)), p.load(offStale), max(0, t.entries), max(0, t.names), max(0, t.xattrs), p.load(offLastUse), id)
		return err
	})
}

// used notes a change of the volume's files, in memory alone: leave puts the time into the
// catalog. Changes call it under a lock of the page, so that whoever holds all locks knows
// the last one.
func (c *counter) used() {
	now := c.b.clock().UnixNano()
	c.page.raise(offLastUse, func(last int64) int64 { return max(now, last+1) })
}

// retain adds a use to a counter that is in use.
func (c *counter) retain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs++
}

// release ends one use. The counter itself stays for a while.
func (c *counter) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs--
	if c.refs == 0 && !c.retired {
		c.idle = time.AfterFunc(idleCounter, c.retireIdle)
	}
}

// retireIdle retires a counter that was not used for a while. Close takes away what that
// needs: it waits for those that have begun, and retires the others itself.
func (c *counter) retireIdle() {
	c.b.mu.Lock()
	if c.b.closed {
		c.b.mu.Unlock()
		return
	}
	c.b.retiring.Add(1)
	c.b.mu.Unlock()
	defer c.b.retiring.Done()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// What cannot be settled now is settled by Close, or measured later.
	_ = c.retire(ctx)
}

// retire settles a counter that nobody uses.
func (c *counter) retire(ctx context.Context) error {
	c.mu.Lock()
	if c.refs > 0 || c.retired {
		c.mu.Unlock()
		return nil
	}
	c.retired = true
	c.mu.Unlock()
	<-c.ready
	if c.err != nil {
		return nil
	}
	proc, err := c.b.process()
	if err == nil {
		err = c.settle(ctx, proc)
	}
	return errors.Join(err, c.page.close())
}

// settle leaves, holding all locks of the page, so that a new counter of the volume
// enters either before it, and takes the mark over, or after it.
func (c *counter) settle(ctx context.Context, proc string) error {
	unlock, err := c.page.lockAll(ctx, "settling")
	if err != nil {
		return err
	}
	defer unlock()
	c.b.mu.Lock()
	current := c.b.counters[c.id] == c
	if current {
		delete(c.b.counters, c.id)
	}
	c.b.mu.Unlock()
	if !current {
		return nil // a new counter of this process has taken the mark over
	}
	if c.messy.Load() && c.page.load(offRemoved) == 0 {
		// Nobody of this process is writing to the volume. If this fails too, the
		// mark stays, and makes whoever finds it once this process is dead do it.
		if err := c.b.removeTemps(c.id, proc); err != nil {
			return err
		}
		c.page.store(offStale, 1) // what went was not taken off the charge
	}
	return c.b.leave(ctx, c.page, c.id, proc)
}

// settleAll retires all counters, at the end.
func (b *Backend) settleAll(ctx context.Context) error {
	b.retiring.Wait() // each is bounded by closeTimeout
	b.mu.Lock()
	var list []*counter
	for _, c := range b.counters {
		list = append(list, c)
	}
	b.mu.Unlock()
	var errs []error
	for _, c := range list {
		c.mu.Lock()
		if c.idle != nil {
			c.idle.Stop()
			c.idle = nil
		}
		c.mu.Unlock()
		errs = append(errs, c.retire(ctx))
	}
	return errors.Join(errs...)
}

// liveUsage replaces the usage of a volume that is being counted by what its counter
// says now.
func (b *Backend) liveUsage(r *row) {
	f, err := b.openLock(r.ID)
	if err != nil {
		r.UsedStale = true
		return
	}
	defer f.Close()
	buf := make([]byte, offLastUse+8)
	if _, err := f.ReadAt(buf, 0); err != nil || word(buf, offMagic) != pageMagic {
		r.UsedStale = true
		return
	}
	r.Used = driver.Size(max(0, word(buf, offUsed)))
	r.UsedStale = r.UsedStale || word(buf, offStale) != 0
	r.tally = tally{word(buf, offEntries), word(buf, offNames), word(buf, offXattrs)}
	r.usedAt(word(buf, offLastUse))
}

// openLock opens the page of a volume for reading, if it is there.
func (b *Backend) openLock(id string) (*os.File, error) {
	if b.locks == nil {
		return nil, fs.ErrNotExist
	}
	return beneath.OpenFile(b.locks, id, os.O_RDONLY, 0)
}

func word(buf []byte, off int) int64 { return int64(binary.NativeEndian.Uint64(buf[off:])) }

// markRemoved tells every process that counts a volume that it is gone.
func (b *Backend) markRemoved(id string) {
	if _, err := beneath.Lstat(b.locks, id); err != nil {
		return
	}
	p, err := b.openPage(id)
	if err != nil {
		return // they will find out by the directory that is gone
	}
	p.store(offRemoved, 1)
	p.close()
}
