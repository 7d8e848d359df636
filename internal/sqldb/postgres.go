package sqldb

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresDB is a PostgreSQL database, for any number of hosts.
type postgresDB struct {
	pool     *pgxpool.Pool
	dialect  *dialect
	receipts Receipts
	logRetry func(err error) // called with each failure that is retried

	openPatience, readPatience, writePatience time.Duration // see the constants of these names
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

func (p *postgresDB) RunQueries(ctx context.Context, list ...Query) error {
	// Rows must not be handed out twice: after the first one there is no retry.
	began := false
	err := p.retryTransient(ctx, p.readPatience, func() error {
		if began {
			return errInRows
		}
		return p.sendBatch(ctx, p.pool, list, &began)
	})
	return resultOfCall(ctx, err)
}

// RunOnSnapshot retries until fn has begun, and not after that.
func (p *postgresDB) RunOnSnapshot(ctx context.Context, fn func(run Runner) error) error {
	var tx pgx.Tx
	err := p.retryTransient(ctx, p.readPatience, func() (err error) {
		if tx, err = p.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
			return err
		}
		// fn may wait for other things between rows. The transaction holds no locks, so it may
		// idle for longer than others.
		if _, err = tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '10min'`); err != nil {
			p.endSnapshot(ctx, tx)
		}
		return err
	})
	if err == nil {
		defer p.endSnapshot(ctx, tx)
		err = fn(func(list ...Query) error {
			return p.sendBatch(ctx, tx, list, nil)
		})
	}
	return resultOfCall(ctx, err)
}

// endSnapshot ends the transaction of a snapshot. If that fails, pgx closes the connection,
// which ends it too.
func (p *postgresDB) endSnapshot(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// batchSender is a pool, a connection or a transaction.
type batchSender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// sendBatch sends queries in one round trip and reads their results in order. began, if not
// nil, is set when a row is handed out that cannot be taken back.
func (p *postgresDB) sendBatch(ctx context.Context, to batchSender, list []Query, began *bool) error {
	b := &pgx.Batch{}
	list = withSetwisePlanning(list)
	for _, q := range list {
		if q.ResetRows != nil {
			q.ResetRows()
		}
		b.Queue(p.dialect.expandSQL(q.SQL), q.Args...)
	}
	res := to.SendBatch(ctx, b)
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
func withSetwisePlanning(list []Query) []Query {
	if !slices.ContainsFunc(list, func(q Query) bool { return q.Setwise }) {
		return list
	}
	var with []Query
	for _, ask := range list {
		if !ask.Setwise {
			with = append(with, ask)
			continue
		}
		with = append(with, Statement(`SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)`), ask, Statement(`SELECT set_config('enable_nestloop', 'on', true)`))
	}
	return with
}

// readResult reads the result of one query of a batch.
func (p *postgresDB) readResult(res pgx.BatchResults, q Query, began *bool) error {
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
	return q.handOutRows(r, began)
}

func (p *postgresDB) Freeing(fn func() error) error { return fn() }

func (p *postgresDB) IsRemote() bool { return true }

func (p *postgresDB) IsUniqueViolation(err error) bool     { return hasSQLState(err, "23505") }
func (p *postgresDB) IsForeignKeyViolation(err error) bool { return hasSQLState(err, "23503") }

func (p *postgresDB) Close() error {
	p.pool.Close()
	return nil
}
