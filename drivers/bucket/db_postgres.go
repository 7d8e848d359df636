package bucket

import (
	"context"
	crand "crypto/rand"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pgerr"
)

const (
	// How long calls are retried while the server is unreachable: long enough for a restart,
	// and shorter than the timeouts of callers.
	openPatience  = 30 * time.Second
	readPatience  = 8 * time.Second
	writePatience = 15 * time.Second
	// commitTime bounds a commit. It is not cancelled with its caller, because a cancelled
	// commit may have happened or not.
	commitTime = 30 * time.Second
)

// postgresDB is a PostgreSQL database, for any number of hosts.
type postgresDB struct {
	pool     *pgxpool.Pool
	dialect  dialect
	logRetry func(err error) // called with each failure that is retried
}

// retryTransient calls fn until it succeeds, fails for a reason that is not transient, or
// patience has passed. Pauses double up to a second, with jitter.
func (p *postgresDB) retryTransient(ctx context.Context, patience time.Duration, fn func() error) error {
	deadline := time.Now().Add(patience)
	pause := 2 * time.Millisecond
	for {
		err := fn()
		if err == nil || !isTransient(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		p.logRetry(err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, time.Second)
	}
}

// isTransient reports whether what failed may succeed when it is tried again.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
func isTransient(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch pe.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"57P01", "57P02", "57P03", // shutdown, crash, starting up
			"53300", // too many connections
			"25P03": // idle in transaction for too long
			return true
		}
		return pe.Code[:2] == "08"
	}
	return isConnectionLost(err) || errors.Is(err, errOvertaken)
}

// isConnectionLost reports whether err comes from the connection and not from the server.
func isConnectionLost(err error) bool {
	var ne net.Error
	var ce *pgconn.ConnectError
	return errors.As(err, &ne) || errors.As(err, &ce) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		pgconn.SafeToRetry(err) || err != nil && err.Error() == "conn closed"
}

// translatePostgresError maps an error of pgx to one of package driver.
func translatePostgresError(err error) error {
	var pe *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case err.Error() == "closed pool":
		return driver.ErrClosed
	case errors.As(err, new(*driver.Fault)):
		return err // of the blob store, within a transaction
	case errors.As(err, new(*pgconn.ConnectError)), errors.Is(err, errAborted), errors.Is(err, errOvertaken), errors.Is(err, errInRows):
		return pgerr.Unreachable(err)
	case !errors.As(err, &pe) && isConnectionLost(err):
		return pgerr.Unreachable(err)
	case !errors.As(err, &pe):
		return err // of the caller's own function
	}
	return pgerr.Translate(err, pe)
}

func (p *postgresDB) runQueries(ctx context.Context, list ...query) error {
	// Rows must not be handed out twice: after the first one there is no retry.
	began := false
	err := p.retryTransient(ctx, readPatience, func() error {
		if began {
			return errInRows
		}
		return p.sendBatch(list, func(b *pgx.Batch) pgx.BatchResults { return p.pool.SendBatch(ctx, b) }, &began)
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePostgresError(err)
}

// runOnSnapshot retries until fn has begun, and not after that.
func (p *postgresDB) runOnSnapshot(ctx context.Context, fn func(run queryRunner) error) error {
	var tx pgx.Tx
	err := p.retryTransient(ctx, readPatience, func() (err error) {
		if tx, err = p.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
			return err
		}
		// fn may wait for the blob store between rows. The transaction holds no locks, so it
		// may idle for longer than others.
		if _, err = tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '10min'`); err != nil {
			p.endSnapshot(ctx, tx)
		}
		return err
	})
	if err == nil {
		defer p.endSnapshot(ctx, tx)
		err = fn(func(list ...query) error {
			return p.sendBatch(list, func(b *pgx.Batch) pgx.BatchResults { return tx.SendBatch(ctx, b) }, nil)
		})
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePostgresError(err)
}

// endSnapshot ends the transaction of a snapshot. If that fails, pgx closes the connection,
// which ends it too.
func (p *postgresDB) endSnapshot(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// sendBatch sends queries in one round trip and reads their results in order. began, if not
// nil, is set when a row is handed out that cannot be taken back.
func (p *postgresDB) sendBatch(list []query, send func(*pgx.Batch) pgx.BatchResults, began *bool) error {
	b := &pgx.Batch{}
	list = withSetwisePlanning(list)
	for _, q := range list {
		if q.resetRows != nil {
			q.resetRows()
		}
		b.Queue(p.dialect.expandSQL(q.sql), q.args...)
	}
	res := send(b)
	for _, q := range list {
		if err := p.readResult(res, q, began); err != nil {
			res.Close()
			return err
		}
	}
	return res.Close()
}

// withSetwisePlanning puts settings of the planner around the queries that are setwise. The
// settings end with the transaction, and a batch is one. Where no other plan exists, a nested
// loop with its added cost would have the plan compiled, for seconds: so jit is off, too.
func withSetwisePlanning(list []query) []query {
	if !slices.ContainsFunc(list, func(q query) bool { return q.setwise }) {
		return list
	}
	var with []query
	for _, ask := range list {
		if !ask.setwise {
			with = append(with, ask)
			continue
		}
		with = append(with, statement(`SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)`), ask, statement(`SELECT set_config('enable_nestloop', 'on', true)`))
	}
	return with
}

// readResult reads the result of one query of a batch.
func (p *postgresDB) readResult(res pgx.BatchResults, q query, began *bool) error {
	if q.scanRow == nil {
		tag, err := res.Exec()
		if err == nil && q.affected != nil {
			*q.affected = tag.RowsAffected()
		}
		return err
	}
	r, err := res.Query()
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if began != nil && q.resetRows == nil {
			*began = true
		}
		if err := q.scanRow(r.Scan); err != nil {
			return err
		}
	}
	return r.Err()
}

func (p *postgresDB) runTx(ctx context.Context, vol []byte, lazy bool, fn func(tx sqlTx) error) error {
	op := make([]byte, 16) // identifies the change in ops
	_, _ = crand.Read(op)  // never fails
	unknown := false       // a commit was sent, and its answer was lost
	waited := false        // for that transaction to end, because of a unique value
	err := p.retryTransient(ctx, writePatience, func() (err error) {
		conn, err := p.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		defer func() {
			// The value may be of the transaction whose answer was lost: it was still under
			// way when this one began. It has ended now, so that a retry sees its effect.
			if unknown && !waited && (p.isUniqueViolation(err) || errors.Is(err, driver.ErrExists)) {
				waited, err = true, errOvertaken
			}
		}()
		tx := &postgresTx{db: p, ctx: ctx, conn: conn.Conn(), lazy: lazy}
		if unknown && vol != nil {
			made := false
			// The lock waits for the transaction whose answer was lost to end.
			if err := tx.runQueries(statement(`SELECT 1 FROM volumes WHERE id = $1 FOR UPDATE`, vol),
				selectOne(&made, []any{new(int)}, `SELECT 1 FROM ops WHERE vol = $1 AND op = $2`, vol, op)); err != nil || made {
				tx.rollback()
				return err
			}
		}
		if err := fn(tx); err != nil {
			tx.rollback()
			return err
		}
		if vol != nil {
			tx.queueExec(`INSERT INTO ops (vol, op, at) VALUES ($1, $2, {now})`, vol, op)
		}
		err = tx.commit()
		if err != nil {
			if !surelyNotCommitted(err) {
				unknown, waited = true, false
			}
			tx.rollback()
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePostgresError(err)
}

// surelyNotCommitted reports whether err proves that a transaction did not commit. Classes 57,
// 08 and XX do not: a server that shuts down may report one after the commit.
func surelyNotCommitted(err error) bool {
	var pe *pgconn.PgError
	return errors.Is(err, errAborted) || errors.As(err, &pe) && pe.Code[:2] != "57" && pe.Code[:2] != "08" && pe.Code[:2] != "XX"
}

// errAborted: a statement of the transaction failed before, so COMMIT would roll back without
// an error.
var errAborted = errors.New("the transaction was aborted")

// errInRows: the connection was lost after rows were handed out that cannot be read again.
var errInRows = errors.New("the connection was lost while rows were read")

// errOvertaken: what a transaction was to make exists already, maybe by its own first try.
var errOvertaken = errors.New("a transaction whose answer was lost may have committed")

func (p *postgresDB) isUniqueViolation(err error) bool     { return hasSQLState(err, "23505") }
func (p *postgresDB) isForeignKeyViolation(err error) bool { return hasSQLState(err, "23503") }

// hasSQLState reports whether err is an error of the server with that code.
func hasSQLState(err error, code string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == code
}

func (p *postgresDB) close() error {
	p.pool.Close()
	return nil
}

// postgresTx is a transaction that begins with its first queries and commits with its last, to
// save round trips.
type postgresTx struct {
	db      *postgresDB
	ctx     context.Context // of the one call that the transaction is for
	conn    *pgx.Conn
	lazy    bool
	began   bool
	aborted bool // a statement has failed
	queue   []query
}

// prependBegin returns queries with BEGIN before them, if they are the first of the
// transaction.
func (tx *postgresTx) prependBegin(list []query) []query {
	if tx.began {
		return list
	}
	tx.began = true
	first := []query{statement(`BEGIN ISOLATION LEVEL READ COMMITTED`)}
	if tx.lazy {
		first = append(first, statement(`SET LOCAL synchronous_commit = off`))
	}
	return append(first, list...)
}

func (tx *postgresTx) runQueries(list ...query) error {
	err := tx.db.sendBatch(tx.prependBegin(list), func(b *pgx.Batch) pgx.BatchResults { return tx.conn.SendBatch(tx.ctx, b) }, nil)
	tx.aborted = tx.aborted || err != nil
	return err
}

func (tx *postgresTx) queueExec(sql string, args ...any) {
	tx.queue = append(tx.queue, statement(sql, args...))
}

// commit sends the queued statements with COMMIT, in one round trip.
func (tx *postgresTx) commit() error {
	if tx.aborted {
		return errAborted
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.ctx), commitTime)
	defer cancel()
	list := tx.prependBegin(append(tx.queue, statement(`COMMIT`)))
	return tx.db.sendBatch(list, func(b *pgx.Batch) pgx.BatchResults { return tx.conn.SendBatch(ctx, b) }, nil)
}

// rollback ends a transaction that failed. If that fails too, closing the connection ends it.
func (tx *postgresTx) rollback() {
	if !tx.began || tx.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.ctx), 5*time.Second)
	defer cancel()
	if _, err := tx.conn.Exec(ctx, `ROLLBACK`); err != nil {
		tx.conn.Close(ctx)
	}
}

// lookupPath looks all inodes of a path up in one query.
func (p *postgresDB) lookupPath(run queryRunner, vol []byte, from int64, names []string) ([]inode, error) {
	var list []inode
	err := run(pathChainQuery(vol, from, names, &list))
	return list, err
}

// lookupPathQuery is a chain query that starts from the row of the volume.
func (p *postgresDB) lookupPathQuery(org, vol []byte, path string, list *[]inode) (query, bool) {
	var names []string
	for _, elem := range splitPath(path, false) {
		names = append(names, elem.name)
	}
	c := pathChainQuery(vol, rootIno, names, list)
	c.sql = strings.Replace(c.sql, pathChainStart, pathChainStart+` FROM volumes v WHERE v.org = $4 AND v.id = $1 AND v.state <> 'removing'`, 1)
	c.args = append(c.args, org)
	return c, true
}

// pathChainStart begins the recursion of pathChainQuery.
const pathChainStart = `SELECT 0, $2::bigint`

// pathChainQuery selects the inode from and those that names lead to one after another.
func pathChainQuery(vol []byte, from int64, names []string, list *[]inode) query {
	bytes := make([][]byte, len(names))
	for i, n := range names {
		bytes[i] = []byte(n)
	}
	// OFFSET 0 as in {each}: otherwise a plan that was made while the tables are small reads
	// all of them, and is kept when they have grown.
	return selectAll(list, (*inode).scanDest, `WITH RECURSIVE w (d, ino) AS (
			`+pathChainStart+`
			UNION ALL
			SELECT w.d + 1, e.ino FROM w JOIN LATERAL (
				SELECT x.ino FROM dirents x WHERE x.vol = $1 AND x.parent = w.ino AND x.name = ($3::bytea[])[w.d + 1] OFFSET 0
			) e ON true WHERE w.d < cardinality($3::bytea[]))
		SELECT `+inodeCols+` FROM w JOIN LATERAL (SELECT * FROM inodes x WHERE x.vol = $1 AND x.ino = w.ino OFFSET 0) i ON true
		ORDER BY w.d`, vol, from, bytes)
}
