//go:build unix

package local

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/catalog"
)

// While files of a volume are being changed through the FS, its usage is not in the
// catalog but in a counter: a page of the file locks/<id>, mapped into the memory of
// every process that changes the files. So each change is charged exactly, against all others,
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

// counter is the usage counter of a volume in this process. States: being started (ready is
// open), in use (refs > 0), idle (refs is 0 and idleTimer runs), retired. A retired counter is
// never used again; the next user makes a new one. Lock order: Backend.mu before counter.mu;
// namesLock before one of fileLocks, each followed by its byte of the page.
type counter struct {
	b  *Backend
	id string

	ready         chan struct{} // closed once the fields below are set, or err
	err           error
	page          *page
	hasStrayTemps atomic.Bool // something stayed behind in the volume's tmp directory

	draft     atomic.Bool   // only this process uses the volume; made false under all locks below
	moveCount atomic.Uint64 // how often paths of the volume may have come to lead elsewhere

	namesLock ctxMutex
	fileLocks [stripes]ctxMutex

	mu        sync.Mutex  // guards what follows
	refs      int         // users: FSes and files that may change something
	idleTimer *time.Timer // retires the counter; nil while in use
	retired   bool
}

// acquireCounter returns the usage counter of a volume, for a user that will call release. The
// first use in a process costs a durable commit. ErrNotFound: the volume does not exist.
func (b *Backend) acquireCounter(ctx context.Context, id string) (*counter, error) {
	for {
		c, first, err := b.findOrAddCounter(id)
		if err != nil {
			return nil, err
		}
		if first {
			c.err = c.startCounting(ctx)
			if c.err != nil {
				b.removeCounter(c)
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
		// The first user failed, perhaps only because its own context ended. Try again.
	}
}

// findOrAddCounter returns the counter with one more reference. If first is set the caller must
// start it, and close ready.
func (b *Backend) findOrAddCounter(id string) (c *counter, first bool, err error) {
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
			if c.idleTimer != nil {
				c.idleTimer.Stop()
				c.idleTimer = nil
			}
			return c, false, nil
		}
	}
	c = &counter{b: b, id: id, refs: 1, ready: make(chan struct{}), namesLock: newCtxMutex()}
	for i := range c.fileLocks {
		c.fileLocks[i] = newCtxMutex()
	}
	c.draft.Store(b.drafts[id])
	b.counters[id] = c
	return c, true, nil
}

// removeCounter takes a counter that failed to start out of the index.
func (b *Backend) removeCounter(c *counter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counters[c.id] == c {
		delete(b.counters, c.id)
	}
}

// startCounting marks the volume as counted by this process, durably, and maps the page. It
// initialises the page unless another live process is counting already, and measures the volume
// first if its usage is stale and it has a quota.
func (c *counter) startCounting(ctx context.Context) (err error) {
	proc, err := c.b.processID()
	if err != nil {
		return translateError(err)
	}
	// Before the lock file is made: a volume that does not exist must not have one.
	if err := c.b.ensureDataDir(ctx, c.id); err != nil {
		return err
	}
	p, err := c.b.openPage(c.id)
	if err != nil {
		return translateError(err)
	}
	defer func() {
		if err != nil {
			c.b.removeOrphanedPage(ctx, c.id)
			p.close()
		}
	}()
	unlock, err := p.lockAllRanges(ctx, "begin counting")
	if err != nil {
		return err
	}
	defer unlock()
	var measure, mixed bool
	err = c.b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		var err error
		measure, mixed, err = c.b.joinCounting(tx, p, c.id, proc)
		return err
	})
	if err == nil && measure {
		_, err = c.b.measureLocked(ctx, c.id, p)
		if err != nil {
			err = errors.Join(err, c.b.leaveCounting(context.WithoutCancel(ctx), p, c.id, proc))
		}
	}
	if err != nil {
		return err
	}
	if mixed {
		p.store(offStale, 1)
	}
	c.page = p
	return nil
}

// joinCounting adds this process to those that count the volume. measure says that the volume
// must be measured before anything is charged: its usage is stale or unknown, and it has a
// quota. mixed says that a process of another version of Vole counts too.
func (b *Backend) joinCounting(tx *catalog.Tx, p *page, id, proc string) (measure, mixed bool, err error) {
	r, err := scanOneVolume(tx.QueryRow(selectByID, id))
	if err != nil {
		return false, false, err
	}
	marks, err := b.deleteDeadMarks(tx, id, proc)
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
	p.updateWord(offLastUse, func(last int64) int64 { return max(last, info.LastUsed.UnixNano()) })
	if _, err := tx.Exec(`INSERT INTO counting (volume, process) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, proc); err != nil {
		return false, false, err
	}
	_, err = tx.Exec(`UPDATE volumes SET made = max(made, 1), counted = ?, stale = ? WHERE id = ?`, marks.others+marks.kept+1, stale, id)
	return (stale || unknown) && info.Quota != 0, mixed, err
}

// countingMarks is the result of deleteDeadMarks.
type countingMarks struct {
	others int  // live processes besides this one
	kept   int  // dead ones whose files could not be removed
	own    bool // this process is among them
	died   bool // some were dead
}

// deleteDeadMarks deletes the marks of dead processes on a volume, with their temporary files.
func (b *Backend) deleteDeadMarks(tx *catalog.Tx, id, proc string) (m countingMarks, err error) {
	marked, err := catalog.SelectTx(tx, scanID, `SELECT process FROM counting WHERE volume = ?`, id)
	if err != nil {
		return m, err
	}
	var dead []string
	live := b.newLiveness()
	for _, p := range marked {
		switch {
		case p == proc:
			m.own = true
		case live.isAlive(p):
			m.others++
		default:
			dead = append(dead, p)
		}
	}
	m.died = len(dead) > 0
	for _, p := range dead {
		if b.removeTempsOf(id, p) != nil {
			m.kept++ // for recovery, and for Check to report
			continue
		}
		if _, err := tx.Exec(`DELETE FROM counting WHERE volume = ? AND process = ?`, id, p); err != nil {
			return m, err
		}
	}
	return m, nil
}

// leaveCounting removes this process from those that count the volume and writes the usage to
// the catalog. Lazy: after a power cut the mark exists again, and belongs to a dead process.
func (b *Backend) leaveCounting(ctx context.Context, p *page, id, proc string) error {
	return b.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		n, err := tx.Exec(`DELETE FROM counting WHERE volume = ? AND process = ?`, id, proc)
		if err != nil || n == 0 {
			return err
		}
		t := p.readTally()
		if p.load(offMagic) != pageMagic {
			p.store(offStale, 1) // another version of Vole has begun to count
		}
		_, err = tx.Exec(`UPDATE volumes SET used = ?, counted = counted - 1, stale = max(stale, ?), entries = ?, names = ?, xattrs = ?,
			last_used = max(last_used, ?) WHERE id = ?`,
			max(0, p.load(offUsed)), p.load(offStale), max(0, t.entries), max(0, t.names), max(0, t.xattrs), p.load(offLastUse), id)
		return err
	})
}

// touchLastUse records a use of the volume's files, in memory only: leaveCounting writes it to
// the catalog. Callers hold a lock of the page, so a holder of all locks sees the latest use.
func (c *counter) touchLastUse() {
	now := c.b.clock().UnixNano()
	c.page.updateWord(offLastUse, func(last int64) int64 { return max(now, last+1) })
}

// markStale records that the usage may be wrong until the volume is measured.
func (c *counter) markStale() { c.page.store(offStale, 1) }

// acquire adds a reference to a counter that is in use.
func (c *counter) acquire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs++
}

// release drops a reference. The counter stays for idleCounter after the last one.
func (c *counter) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs--
	if c.refs == 0 && !c.retired {
		c.idleTimer = time.AfterFunc(idleCounter, c.retireUnlessClosed)
	}
}

// retireUnlessClosed retires a counter that was not used for a while. Close takes away what
// that needs: it waits for the retirements that have begun, and does the others itself.
func (c *counter) retireUnlessClosed() {
	c.b.mu.Lock()
	if c.b.closed {
		c.b.mu.Unlock()
		return
	}
	c.b.retirements.Add(1)
	c.b.mu.Unlock()
	defer c.b.retirements.Done()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// What cannot be settled now is settled by Close, or measured later.
	_ = c.retireIfIdle(ctx)
}

// retireIfIdle writes the usage of an unused counter to the catalog and closes its page.
func (c *counter) retireIfIdle(ctx context.Context) error {
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
	proc, err := c.b.processID()
	if err == nil {
		err = c.settleUsage(ctx, proc)
	}
	return errors.Join(err, c.page.close())
}

// settleUsage leaves the counting while it holds all locks of the page: a new counter of the
// volume joins either before that, and takes the mark over, or after it.
func (c *counter) settleUsage(ctx context.Context, proc string) error {
	unlock, err := c.page.lockAllRanges(ctx, "settling")
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
	if c.hasStrayTemps.Load() && c.page.load(offRemoved) == 0 {
		// This process writes nothing to the volume any more. If the removal fails again,
		// the mark stays, and recovery does it once this process is dead.
		if err := c.b.removeTempsOf(c.id, proc); err != nil {
			return err
		}
		c.markStale() // the deleted files were charged and not uncharged
	}
	return c.b.leaveCounting(ctx, c.page, c.id, proc)
}

// retireAllCounters retires all counters when the backend is closed.
func (b *Backend) retireAllCounters(ctx context.Context) error {
	b.retirements.Wait() // each is bounded by closeTimeout
	b.mu.Lock()
	list := slices.Collect(maps.Values(b.counters))
	b.mu.Unlock()
	var errs []error
	for _, c := range list {
		c.mu.Lock()
		if c.idleTimer != nil {
			c.idleTimer.Stop()
			c.idleTimer = nil
		}
		c.mu.Unlock()
		errs = append(errs, c.retireIfIdle(ctx))
	}
	return errors.Join(errs...)
}

// readLiveUsage replaces the recorded usage of a volume by that in its page. It takes no lock.
func (b *Backend) readLiveUsage(r *volumeRow) {
	f, err := b.openPageReadOnly(r.ID)
	if err != nil {
		r.UsedStale = true
		return
	}
	defer f.Close()
	buf := make([]byte, offLastUse+8)
	if _, err := f.ReadAt(buf, 0); err != nil || decodeWord(buf, offMagic) != pageMagic {
		r.UsedStale = true
		return
	}
	r.Used = driver.Size(max(0, decodeWord(buf, offUsed)))
	r.UsedStale = r.UsedStale || decodeWord(buf, offStale) != 0
	r.tally = tally{decodeWord(buf, offEntries), decodeWord(buf, offNames), decodeWord(buf, offXattrs)}
	r.raiseLastUse(decodeWord(buf, offLastUse))
}

// openPageReadOnly opens the page of a volume for reading. fs.ErrNotExist: there is none.
func (b *Backend) openPageReadOnly(id string) (*os.File, error) {
	if b.locks == nil {
		return nil, fs.ErrNotExist
	}
	return beneath.OpenFile(b.locks, id, os.O_RDONLY, 0)
}

// decodeWord reads a word of a page.
func decodeWord(buf []byte, off int) int64 { return int64(binary.NativeEndian.Uint64(buf[off:])) }

// markPageRemoved tells all processes that count the volume that it is removed.
func (b *Backend) markPageRemoved(id string) {
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
