package sqldb

import (
	"context"
	crand "crypto/rand"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
)

// commitTime bounds a commit. Unless it is cancelable it does not end with its caller's context.
const commitTime = 30 * time.Second

func (p *postgresDB) RunTx(ctx context.Context, opts TxOptions, fn func(tx Tx) error) error {
	change := &retriedTx{db: p, opts: opts, fn: fn, id: make([]byte, 16)}
	_, _ = crand.Read(change.id) // never fails
	err := p.retryTransient(ctx, p.writePatience, func() error { return change.attempt(ctx) })
	return resultOfCall(ctx, err)
}

// retriedTx is a change that is attempted until one attempt commits.
type retriedTx struct {
	db   *postgresDB
	opts TxOptions
	fn   func(tx Tx) error
	id   []byte // of the change, in its receipt

	outcomeUnknown bool // a commit was sent, and its answer was lost
	waited         bool // for that transaction to end, because of a unique value
}

// attempt runs the transaction once.
func (r *retriedTx) attempt(ctx context.Context) error {
	conn, err := r.db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx := &postgresTx{db: r.db, ctx: ctx, conn: conn.Conn(), opts: r.opts}
	defer tx.rollback() // does nothing after the commit
	if r.outcomeUnknown && r.opts.Key != nil {
		if committed, err := r.findReceipt(tx); err != nil || committed {
			return err
		}
	}
	err = r.runAndCommit(tx)
	// The value may be of the transaction whose answer was lost: it was still under way when
	// this one began. It has ended now, so that a retry sees its effect.
	if r.outcomeUnknown && !r.waited && (r.db.IsUniqueViolation(err) || errors.Is(err, driver.ErrExists)) {
		r.waited = true
		return errOvertaken
	}
	return err
}

// findReceipt reports whether an earlier attempt committed.
func (r *retriedTx) findReceipt(tx *postgresTx) (committed bool, err error) {
	err = tx.RunQueries(Statement(r.db.receipts.Lock, r.opts.Key),
		SelectOne(&committed, []any{new(int)}, r.db.receipts.Find, r.opts.Key, r.id))
	return committed, err
}

// runAndCommit runs the program's function and commits, with a receipt if the change has a key.
func (r *retriedTx) runAndCommit(tx *postgresTx) error {
	if err := r.fn(tx); err != nil {
		return err
	}
	if r.opts.Key != nil {
		tx.QueueExec(r.db.receipts.Leave, r.opts.Key, r.id)
	}
	err := tx.commit()
	if err == nil || surelyNotCommitted(err) {
		return err
	}
	if r.opts.AtMostOnce && !pgconn.SafeToRetry(err) {
		return unreachable(err)
	}
	r.outcomeUnknown, r.waited = true, false
	return err
}

// postgresTx is a transaction that begins with its first queries and commits with its last, to
// save round trips.
type postgresTx struct {
	db      *postgresDB
	ctx     context.Context // of the one call that the transaction is for
	conn    *pgx.Conn
	opts    TxOptions
	began   bool
	aborted bool // a statement has failed
	ended   bool // it has committed
	queue   []Query
}

// prependBegin returns queries with BEGIN before them, if they are the first of the
// transaction.
func (tx *postgresTx) prependBegin(list []Query) []Query {
	if tx.began {
		return list
	}
	tx.began = true
	first := []Query{Statement(`BEGIN ISOLATION LEVEL READ COMMITTED`)}
	if tx.opts.Lazy {
		first = append(first, Statement(`SET LOCAL synchronous_commit = off`))
	}
	return append(first, list...)
}

func (tx *postgresTx) RunQueries(list ...Query) error {
	err := tx.db.sendBatch(tx.ctx, tx.conn, tx.prependBegin(list), nil)
	tx.aborted = tx.aborted || err != nil
	return err
}

func (tx *postgresTx) Queue(list ...Query) { tx.queue = append(tx.queue, list...) }

func (tx *postgresTx) QueueExec(sql string, args ...any) { tx.Queue(Statement(sql, args...)) }

// commit sends the queued statements with COMMIT, in one round trip.
func (tx *postgresTx) commit() error {
	if tx.aborted {
		return errAborted
	}
	ctx := tx.ctx
	if !tx.opts.Cancelable {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	list := tx.prependBegin(append(tx.queue, Statement(`COMMIT`)))
	err := tx.db.sendBatch(ctx, tx.conn, list, nil)
	tx.ended = err == nil
	return err
}

// rollback ends a transaction that has not committed. If that fails, closing the connection ends
// it.
func (tx *postgresTx) rollback() {
	if !tx.began || tx.ended || tx.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.ctx), 5*time.Second)
	defer cancel()
	if _, err := tx.conn.Exec(ctx, `ROLLBACK`); err != nil {
		tx.conn.Close(ctx)
	}
}
