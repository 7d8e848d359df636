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
	// How long calls go on trying while the server cannot be reached: until it has started
	// again, but not until whoever waits takes this process for dead.
	openPatience  = 30 * time.Second
	readPatience  = 8 * time.Second
	writePatience = 15 * time.Second
	// commitTime bounds a commit, which is not cancelled with its caller: half of the
	// trouble with a commit is not to know how it ended.
	commitTime = 30 * time.Second
)

// postgres is a PostgreSQL database: the namespace of any number of hosts.
type postgres struct {
	pool *pgxpool.Pool
	d    dialect
	log  func(err error) // told of each failure that is tried again
}

// again calls fn until it succeeds or fails for a reason that does not pass.
func (p *postgres) again(ctx context.Context, patience time.Duration, fn func() error) error {
	deadline := time.Now().Add(patience)
	pause := 2 * time.Millisecond
	for {
		err := fn()
		if err == nil || !passes(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		p.log(err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, time.Second)
	}
}

// passes reports whether what failed may succeed when it is tried again.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
func passes(err error) bool {
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
	return lost(err) || errors.Is(err, errOvertaken)
}

// lost reports whether err is of the connection and not of the server.
func lost(err error) bool {
	var ne net.Error
	var ce *pgconn.ConnectError
	return errors.As(err, &ne) || errors.As(err, &ce) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		pgconn.SafeToRetry(err) || err != nil && err.Error() == "conn closed"
}

func translatePG(err error) error {
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
	case !errors.As(err, &pe) && lost(err):
		return pgerr.Unreachable(err)
	case !errors.As(err, &pe):
		return err // not of the database
	}
	return pgerr.Translate(err, pe)
}

func (p *postgres) read(ctx context.Context, list ...query) error {
	// A row must not be handed out twice, so once one was there is no other try.
	began := false
	err := p.again(ctx, readPatience, func() error {
		if began {
			return errInRows
		}
		return p.batch(list, func(b *pgx.Batch) pgx.BatchResults { return p.pool.SendBatch(ctx, b) }, &began)
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePG(err)
}

// snapshot is not tried again once fn has begun.
func (p *postgres) snapshot(ctx context.Context, fn func(run runner) error) error {
	var tx pgx.Tx
	err := p.again(ctx, readPatience, func() (err error) {
		if tx, err = p.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
			return err
		}
		// It holds no locks, and may wait for who takes the rows: the blob store.
		if _, err = tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '10min'`); err != nil {
			p.endSnapshot(ctx, tx)
		}
		return err
	})
	if err == nil {
		defer p.endSnapshot(ctx, tx)
		err = fn(func(list ...query) error {
			return p.batch(list, func(b *pgx.Batch) pgx.BatchResults { return tx.SendBatch(ctx, b) }, nil)
		})
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePG(err)
}

func (p *postgres) endSnapshot(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // where that fails the connection is closed, which does the same
}

// batch sends queries at once and reads what they return, in order.
func (p *postgres) batch(list []query, send func(*pgx.Batch) pgx.BatchResults, began *bool) error {
	b := &pgx.Batch{}
	list = withPlanning(list)
	for _, q := range list {
		if q.reset != nil {
			q.reset()
		}
		b.Queue(p.d.sql(q.sql), q.args...)
	}
	res := send(b)
	for _, q := range list {
		if err := p.result(res, q, began); err != nil {
			res.Close()
			return err
		}
	}
	return res.Close()
}

// withPlanning puts what the planner is told around the queries that need it. A batch is
// sent in one transaction, if only in one of its own, with which that ends. What a nested
// loop costs where there is no other way would let every plan be compiled, for seconds.
func withPlanning(list []query) []query {
	if !slices.ContainsFunc(list, func(q query) bool { return q.setwise }) {
		return list
	}
	var with []query
	for _, ask := range list {
		if !ask.setwise {
			with = append(with, ask)
			continue
		}
		with = append(with, q(`SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)`), ask, q(`SELECT set_config('enable_nestloop', 'on', true)`))
	}
	return with
}

func (p *postgres) result(res pgx.BatchResults, q query, began *bool) error {
	if q.row == nil {
		tag, err := res.Exec()
		if err == nil && q.n != nil {
			*q.n = tag.RowsAffected()
		}
		return err
	}
	r, err := res.Query()
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if began != nil && q.reset == nil {
			*began = true
		}
		if err := q.row(r.Scan); err != nil {
			return err
		}
	}
	return r.Err()
}

func (p *postgres) write(ctx context.Context, vol []byte, lazy bool, fn func(t tx) error) error {
	op := make([]byte, 16)
	_, _ = crand.Read(op) // never fails
	unknown := false      // whether a commit was sent whose answer is lost
	waited := false       // whether a unique value has been waited for since
	err := p.again(ctx, writePatience, func() (err error) {
		conn, err := p.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		defer func() {
			// The value may be of the transaction that was lost, which was still under way
			// when this one began. It has ended now, so that another try sees it.
			if unknown && !waited && (p.isUnique(err) || errors.Is(err, driver.ErrExists)) {
				waited, err = true, errOvertaken
			}
		}()
		t := &pgTx{p: p, ctx: ctx, conn: conn.Conn(), lazy: lazy}
		if unknown && vol != nil {
			made := false
			// The lock waits for the end of the transaction that was lost.
			if err := t.run(q(`SELECT 1 FROM volumes WHERE id = $1 FOR UPDATE`, vol),
				one(&made, []any{new(int)}, `SELECT 1 FROM ops WHERE vol = $1 AND op = $2`, vol, op)); err != nil || made {
				t.rollback()
				return err
			}
		}
		if err := fn(t); err != nil {
			t.rollback()
			return err
		}
		if vol != nil {
			t.later(`INSERT INTO ops (vol, op, at) VALUES ($1, $2, {now})`, vol, op)
		}
		err = t.commit()
		if err != nil {
			if !certain(err) {
				unknown, waited = true, false
			}
			t.rollback()
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translatePG(err)
}

// certain reports whether err says that a transaction did not commit. A server that
// goes down may say so after the commit.
func certain(err error) bool {
	var pe *pgconn.PgError
	return errors.Is(err, errAborted) || errors.As(err, &pe) && pe.Code[:2] != "57" && pe.Code[:2] != "08" && pe.Code[:2] != "XX"
}

// errAborted: a statement of the transaction had failed, so that COMMIT would undo it
// without an error.
var errAborted = errors.New("the transaction was aborted")

// errInRows: rows that were handed out are not read again.
var errInRows = errors.New("the connection was lost while rows were read")

// errOvertaken: what a transaction was to make was there already when it came to that.
var errOvertaken = errors.New("a change whose answer was lost may have been made meanwhile")

func (p *postgres) isUnique(err error) bool  { return hasCode(err, "23505") }
func (p *postgres) isForeign(err error) bool { return hasCode(err, "23503") }

func hasCode(err error, code string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == code
}

func (p *postgres) close() error {
	p.pool.Close()
	return nil
}

// pgTx begins with its first queries and commits with its last, to save round trips.
type pgTx struct {
	p     *postgres
	ctx   context.Context // of the one call that the transaction is for
	conn  *pgx.Conn
	lazy  bool
	began bool
	bad   bool // a statement has failed
	queue []query
}

func (t *pgTx) begin(list []query) []query {
	if t.began {
		return list
	}
	t.began = true
	first := []query{q(`BEGIN ISOLATION LEVEL READ COMMITTED`)}
	if t.lazy {
		first = append(first, q(`SET LOCAL synchronous_commit = off`))
	}
	return append(first, list...)
}

func (t *pgTx) run(list ...query) error {
	err := t.p.batch(t.begin(list), func(b *pgx.Batch) pgx.BatchResults { return t.conn.SendBatch(t.ctx, b) }, nil)
	t.bad = t.bad || err != nil
	return err
}

func (t *pgTx) later(sql string, args ...any) { t.queue = append(t.queue, q(sql, args...)) }

func (t *pgTx) commit() error {
	if t.bad {
		return errAborted
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), commitTime)
	defer cancel()
	list := t.begin(append(t.queue, q(`COMMIT`)))
	return t.p.batch(list, func(b *pgx.Batch) pgx.BatchResults { return t.conn.SendBatch(ctx, b) }, nil)
}

// rollback ends a transaction that failed; where that fails too the connection is
// closed, which does the same.
func (t *pgTx) rollback() {
	if !t.began || t.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 5*time.Second)
	defer cancel()
	if _, err := t.conn.Exec(ctx, `ROLLBACK`); err != nil {
		t.conn.Close(ctx)
	}
}

// chain asks for all inodes of a path at once.
func (p *postgres) chain(run runner, vol []byte, from int64, names []string) ([]inode, error) {
	var list []inode
	err := run(chainQuery(vol, from, names, &list))
	return list, err
}

func (p *postgres) chains(org, vol []byte, path string, list *[]inode) (query, bool) {
	var names []string
	for _, s := range steps(path, false) {
		names = append(names, s.name)
	}
	c := chainQuery(vol, rootIno, names, list)
	c.sql = strings.Replace(c.sql, chainFrom, chainFrom+` FROM volumes v WHERE v.org = $4 AND v.id = $1 AND v.state <> 'removing'`, 1)
	c.args = append(c.args, org)
	return c, true
}

// chainFrom begins a chain.
const chainFrom = `SELECT 0, $2::bigint`

func chainQuery(vol []byte, from int64, names []string, list *[]inode) query {
	bytes := make([][]byte, len(names))
	for i, n := range names {
		bytes[i] = []byte(n)
	}
	// OFFSET 0 as in each: a plan made while the tables are small reads all of them,
	// and is kept when they have grown.
	return all(list, (*inode).dest, `WITH RECURSIVE w (d, ino) AS (
			`+chainFrom+`
			UNION ALL
			SELECT w.d + 1, e.ino FROM w JOIN LATERAL (
				SELECT x.ino FROM dirents x WHERE x.vol = $1 AND x.parent = w.ino AND x.name = ($3::bytea[])[w.d + 1] OFFSET 0
			) e ON true WHERE w.d < cardinality($3::bytea[]))
		SELECT `+inodeCols+` FROM w JOIN LATERAL (SELECT * FROM inodes x WHERE x.vol = $1 AND x.ino = w.ino OFFSET 0) i ON true
		ORDER BY w.d`, vol, from, bytes)
}
