package catalog

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// Durability says what a committed write survives.
type Durability int

const (
	Lazy    Durability = iota // the death of the process
	Durable                   // a power cut
)

// maxBatch bounds how many writes share one transaction, and so how long the first
// of them waits for the last.
const maxBatch = 128

// writer runs all writes of this process, one transaction at a time, in one goroutine, which
// newWriter starts and closeWriter ends.
type writer struct {
	db     *sql.DB
	conn   *sql.Conn
	faults *fault.Injector // nil outside tests
	queue  chan *writeRequest
	done   chan struct{} // closed when the loop has ended

	mu     sync.RWMutex // guards closed, and queue against being closed under a send
	closed bool

	// Of the loop alone:
	stmts map[string]*sql.Stmt
	sync  Durability // what the connection is set to
}

// writeRequest is one call of Write. The loop sets err and answers on result, once.
type writeRequest struct {
	ctx    context.Context
	d      Durability
	fn     func(*Tx) error
	err    error
	result chan error
}

// newWriter opens the writing connection and starts the commit loop.
func newWriter(ctx context.Context, at location, faults *fault.Injector) (*writer, error) {
	// The time-out is zero because beginTransaction waits by itself: SQLite's own waiting
	// backs off to a tenth of a second and lets late comers overtake.
	db, err := sql.Open("sqlite", at.dataSourceName("", hardenedPragmas("busy_timeout(0)", "foreign_keys(1)", "synchronous(FULL)")...))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, err
	}
	w := &writer{
		db: db, conn: conn, faults: faults,
		queue: make(chan *writeRequest, maxBatch),
		done:  make(chan struct{}),
		stmts: map[string]*sql.Stmt{},
		sync:  Durable,
	}
	go w.runCommitLoop()
	return w, nil
}

// submitWrite hands fn to the commit loop and waits for the outcome of its commit.
func (w *writer) submitWrite(ctx context.Context, d Durability, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &writeRequest{ctx: ctx, d: d, fn: fn, result: make(chan error, 1)}
	if err := w.enqueueRequest(r); err != nil {
		return err
	}
	// Not on ctx.Done: once fn ran its outcome must be known, and before that the
	// loop itself drops requests whose context ended.
	return <-r.result
}

// enqueueRequest adds a request to the queue. ErrClosed: the writer is closed.
func (w *writer) enqueueRequest(r *writeRequest) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return driver.ErrClosed
	}
	select {
	case w.queue <- r:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// closeWriter commits the requests in the queue, ends the loop and closes the connection.
func (w *writer) closeWriter() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	<-w.done
	for _, s := range w.stmts {
		s.Close()
	}
	return errors.Join(w.conn.Close(), w.db.Close())
}

// runCommitLoop collects the requests that wait and commits them together, until the queue is
// closed and empty.
func (w *writer) runCommitLoop() {
	defer close(w.done)
	batch := make([]*writeRequest, 0, maxBatch)
	for r := range w.queue {
		batch = append(batch[:0], r)
		// Let goroutines that are about to write join the batch. Without this the one free
		// processor would begin a commit for each of them.
		for range 4 {
			runtime.Gosched()
		}
	more:
		for len(batch) < maxBatch {
			select {
			case r, ok := <-w.queue:
				if !ok {
					break more
				}
				batch = append(batch, r)
			default:
				break more
			}
		}
		w.runBatch(batch)
	}
}

// runBatch executes a batch in one transaction and answers each request once.
func (w *writer) runBatch(batch []*writeRequest) {
	d := Lazy
	for _, r := range batch {
		d = max(d, r.d)
	}
	err := w.setDurability(d)
	if err == nil {
		batch, err = w.beginTransaction(batch)
	}
	if err == nil && len(batch) > 0 {
		batch, err = w.commitBatch(batch)
	}
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
		r.result <- r.err
	}
}

// setDurability makes the next commit sync the log, or not.
// https://www.sqlite.org/pragma.html#pragma_synchronous
func (w *writer) setDurability(d Durability) error {
	if w.sync == d {
		return nil
	}
	q := `PRAGMA synchronous = FULL`
	if d == Lazy {
		q = `PRAGMA synchronous = NORMAL`
	}
	if _, err := w.execCached(q); err != nil {
		return err
	}
	w.sync = d
	return nil
}

// beginTransaction starts the transaction, and waits while another process has one. It answers
// requests whose context ends before that, and leaves them out of its result.
func (w *writer) beginTransaction(batch []*writeRequest) ([]*writeRequest, error) {
	pause := 100 * time.Microsecond
	for {
		live := batch[:0]
		for _, r := range batch {
			if err := r.ctx.Err(); err != nil {
				r.result <- err
				continue
			}
			live = append(live, r)
		}
		batch = live
		if len(batch) == 0 {
			return nil, nil
		}
		err := w.faults.Do("sql.begin", "", func() error { _, err := w.execCached(`BEGIN IMMEDIATE`); return err })
		if !isBusy(err) {
			return batch, err
		}
		// Random, so that no process waits in step with another.
		time.Sleep(pause/2 + rand.N(pause))
		pause = min(2*pause, 4*time.Millisecond)
	}
}

// commitBatch runs the functions of a batch and commits. Only the changes of a function that
// fails are undone; an error of the commit itself is that of all functions that did not fail. It
// returns the requests that must still be answered.
func (w *writer) commitBatch(batch []*writeRequest) ([]*writeRequest, error) {
	failed, again := w.tryBatch(batch)
	if again {
		// One failed that had changed something. That is rare, so only now is each
		// run within a savepoint. Another process may take its turn in between.
		w.rollback()
		var err error
		if batch, err = w.beginTransaction(batch); err != nil || len(batch) == 0 {
			return batch, err
		}
		if failed, err = w.runInSavepoints(batch); err != nil {
			w.rollback()
			return batch, err
		}
	}
	if failed == len(batch) {
		w.rollback()
		return batch, nil
	}
	err := w.faults.Do("sql.commit", "", func() error { _, err := w.execCached(`COMMIT`); return err })
	if err != nil {
		w.rollback()
	}
	return batch, err
}

// tryBatch runs the functions of a batch. again says that one of several failed after it had
// changed something, so that all must be undone and run again.
func (w *writer) tryBatch(batch []*writeRequest) (failed int, again bool) {
	for _, r := range batch {
		tx := &Tx{w: w}
		if r.err = r.fn(tx); r.err == nil {
			continue
		}
		failed++
		if tx.changed && len(batch) > 1 {
			return 0, true
		}
	}
	return failed, false
}

// runInSavepoints runs the functions of a batch, each within a savepoint.
func (w *writer) runInSavepoints(batch []*writeRequest) (failed int, err error) {
	for _, r := range batch {
		if _, err := w.execCached(`SAVEPOINT one`); err != nil {
			return failed, err
		}
		if r.err = r.fn(&Tx{w: w}); r.err != nil {
			failed++
			if _, err := w.execCached(`ROLLBACK TO one`); err != nil {
				return failed, err
			}
		}
		if _, err := w.execCached(`RELEASE one`); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// rollback ends the transaction. Its error is ignored: SQLite rolls back by itself after some
// errors, and then there is nothing left to roll back.
func (w *writer) rollback() { _, _ = w.execCached(`ROLLBACK`) }

// execCached runs a statement on the writer's connection, prepared once.
func (w *writer) execCached(query string, args ...any) (sql.Result, error) {
	s, err := w.prepareCached(query)
	if err != nil {
		return nil, err
	}
	return s.Exec(args...)
}

// prepareCached returns the prepared statement of a query, which is kept until the writer is
// closed.
func (w *writer) prepareCached(query string) (*sql.Stmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	w.stmts[query] = s
	return s, nil
}

// Tx is a write transaction, valid while the function it was given to runs. Its statements are
// prepared once and kept, so queries must not be built from values.
type Tx struct {
	w       *writer
	changed bool // a statement changed rows
}

// Exec runs a statement and returns how many rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	var n int64
	err := tx.w.faults.Do("sql.exec", query, func() error {
		res, err := tx.w.execCached(query, args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		tx.changed = tx.changed || n > 0
		return err
	})
	return n, err
}

// QueryRow returns the row of a query, which runs when the row is scanned.
func (tx *Tx) QueryRow(query string, args ...any) Row { return Row{tx.w, query, args} }

// Query runs a query; the caller closes the rows before its function returns.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	var rows *sql.Rows
	err := tx.w.faults.Do("sql.query", query, func() error {
		s, err := tx.w.prepareCached(query)
		if err == nil {
			rows, err = s.Query(args...)
		}
		return err
	})
	return rows, err
}

// Row is the row of a QueryRow.
type Row struct {
	w     *writer
	query string
	args  []any
}

// Scan runs the query and copies the row's columns; sql.ErrNoRows: there is none.
func (r Row) Scan(dest ...any) error {
	return r.w.faults.Do("sql.query", r.query, func() error {
		s, err := r.w.prepareCached(r.query)
		if err != nil {
			return err
		}
		return s.QueryRow(r.args...).Scan(dest...)
	})
}
