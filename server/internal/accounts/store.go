package accounts

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/sqldb"
)

// Options configures a Store.
type Options struct {
	Clock func() time.Time // default: time.Now
	// CacheFor is how long an accepted key is accepted again without asking the database, and so
	// the longest time until a server learns that another revoked it. Default: 2s; negative: no
	// caching.
	CacheFor time.Duration

	patience time.Duration // of tests: how long calls are retried while PostgreSQL restarts
}

// Store is an open database. Its methods may be called concurrently. Two goroutines,
// writeUsesLoop and writeRecordsLoop, belong to it and end with Close.
type Store struct {
	maxUploads    int64 // of an organisation
	db            sqldb.DB
	clock         func() time.Time
	signingSecret []byte // signs volume tokens
	cache         keyCache
	uses          chan keyUse // see noteKeyUse
	records       chan *pendingRecord
	stopped       chan struct{} // closed by Close
	writers       sync.WaitGroup
	closed        atomic.Bool
}

// Open opens a database and migrates its schema. database is the path of a SQLite file, which is
// made if it is missing, or a PostgreSQL URL, postgres://user:password@host:port/name; no error
// shows parts of a URL. driver.ErrInvalid: it is neither; driver.ErrUnsupported: a newer version
// of Vole made the tables.
func Open(ctx context.Context, database string, opts Options) (*Store, error) {
	s := &Store{maxUploads: maxOrgUploads, clock: opts.Clock, uses: make(chan keyUse, 256), records: make(chan *pendingRecord), stopped: make(chan struct{})}
	if s.clock == nil {
		s.clock = time.Now
	}
	s.cache.lifetime = cmp.Or(opts.CacheFor, 2*time.Second)
	if err := s.openDatabase(ctx, database, opts); err != nil {
		return nil, err
	}
	var err error
	if s.signingSecret, err = s.loadSigningSecret(ctx); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.writers.Go(s.writeUsesLoop)
	s.writers.Go(s.writeRecordsLoop)
	return s, nil
}

// Ping returns an error if the database does not answer.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.queryOne(ctx, []any{new(int)}, `SELECT count(*) FROM server_secrets`)
	return err
}

// Close waits for pending writes and closes the database. Later calls fail with
// driver.ErrClosed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.stopped)
	s.writers.Wait()
	return s.db.Close()
}

// exec runs one statement, with parameters $1, $2 and so on, and returns the number of rows it
// changed. It may run twice if a connection is lost, so the statement must be idempotent.
func (s *Store) exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	// Not even a database that hangs delays Close, or a request, for longer than ctx.
	opts, counted := sqldb.TxOptions{Cancelable: true}, sqldb.Counted(&n, query, args...)
	err = s.db.Freeing(func() error { return sqldb.Exec(ctx, s.db, opts, counted) })
	return n, err
}

// runTx runs a transaction. It may use the ballast on a full disk: rows are small, and removals
// need a record before they free space.
func (s *Store) runTx(ctx context.Context, opts sqldb.TxOptions, fn func(tx sqldb.Tx) error) error {
	return s.db.Freeing(func() error { return s.db.RunTx(ctx, opts, fn) })
}

// inExclusiveTx runs fn in a transaction that excludes all others of this method, on all hosts.
// fn may run twice if a connection is lost.
func (s *Store) inExclusiveTx(ctx context.Context, fn func(tx sqldb.Tx) error) error {
	return s.runTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		// Locks a row that always exists; on SQLite the write transaction itself excludes
		// others.
		if err := tx.RunQueries(sqldb.Statement(`UPDATE server_secrets SET created = created`)); err != nil {
			return err
		}
		return fn(tx)
	})
}

// queryOne scans the columns of one row to dest and reports whether there is a row.
func (s *Store) queryOne(ctx context.Context, dest []any, query string, args ...any) (found bool, err error) {
	err = s.db.RunQueries(ctx, sqldb.SelectOne(&found, dest, query, args...))
	return found, err
}

// queryAll returns all rows of a query, each read by scan.
func queryAll[T any](ctx context.Context, s *Store, scan func(scan sqldb.Scanner) (T, error), query string, args ...any) ([]T, error) {
	var list []T
	q := sqldb.EachRow(func(row sqldb.Scanner) error {
		v, err := scan(row)
		list = append(list, v)
		return err
	}, query, args...)
	q.ResetRows = func() { list = nil }
	if err := s.db.RunQueries(ctx, q); err != nil {
		return nil, err
	}
	return list, nil
}

// deleteInBatches runs a DELETE of at most $2 rows from before $1 until none is left. Batches
// keep the locks short.
func (s *Store) deleteInBatches(ctx context.Context, query string, before time.Time) error {
	const part = 1000
	for {
		n, err := s.exec(ctx, query, catalog.Nanos(before), part)
		if err != nil || n == 0 {
			return err
		}
	}
}
