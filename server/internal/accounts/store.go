package accounts

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/pgerr"
)

//go:embed migrations
var migrations embed.FS

// migrationsFor returns the migrations of one engine.
func migrationsFor(engine string) fs.FS {
	dir, _ := fs.Sub(migrations, "migrations/"+engine) // embedded: cannot fail
	return dir
}

// Options configures a Store.
type Options struct {
	Clock func() time.Time // default: time.Now
	// CacheFor is how long an accepted key is accepted again without asking the database, and so
	// the longest time until a server learns that another revoked it. Default: 2s; negative: no
	// caching.
	CacheFor time.Duration
}

// Store is an open database. Its methods may be called concurrently. Two goroutines,
// writeUsesLoop and writeRecordsLoop, belong to it and end with Close.
type Store struct {
	maxUploads             int64         // of an organisation
	patience, readPatience time.Duration // see the constants of these names

	read, write   *sql.DB // one pool on PostgreSQL; on SQLite write has one connection
	postgres      bool
	clock         func() time.Time
	signingSecret []byte // signs volume tokens
	cache         keyCache
	uses          chan keyUse // see noteKeyUse
	records       chan *pendingRecord
	stopped       chan struct{} // closed by Close
	writers       sync.WaitGroup
	closed        atomic.Bool
	ballast       *ballast.Ballast // of the disk of a SQLite database
	closeBallast  func() error
}

// How long calls retry while PostgreSQL cannot be reached. Reads give up sooner: every request
// waits for one to be admitted, and clients retry themselves.
const (
	patience     = 10 * time.Second
	readPatience = 3 * time.Second
)

// Open opens a database and migrates its schema. database is the path of a SQLite file, which is
// made if it is missing, or a PostgreSQL URL, postgres://user:password@host:port/name; no error
// shows parts of a URL. driver.ErrInvalid: it is neither; driver.ErrUnsupported: a newer version
// of Vole made the tables.
func Open(ctx context.Context, database string, opts Options) (*Store, error) {
	s := &Store{maxUploads: maxOrgUploads, patience: patience, readPatience: readPatience, clock: opts.Clock, uses: make(chan keyUse, 256), records: make(chan *pendingRecord), stopped: make(chan struct{})}
	s.ballast, s.closeBallast = &ballast.Ballast{}, func() error { return nil }
	if s.clock == nil {
		s.clock = time.Now
	}
	s.cache.lifetime = opts.CacheFor
	if opts.CacheFor == 0 {
		s.cache.lifetime = 2 * time.Second
	}
	err := s.openDatabase(ctx, database)
	if err == nil {
		s.signingSecret, err = s.loadSigningSecret(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.closeDatabase())
	}
	s.writers.Go(s.writeUsesLoop)
	s.writers.Go(s.writeRecordsLoop)
	return s, nil
}

// Ping returns an error if the database does not answer.
func (s *Store) Ping(ctx context.Context) error {
	return s.retry(ctx, neverRetry, func() error {
		return s.read.QueryRowContext(ctx, `SELECT count(*) FROM server_secrets`).Scan(new(int))
	})
}

// Close waits for pending writes and closes the database. Later calls fail with
// driver.ErrClosed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.stopped)
	s.writers.Wait()
	return s.closeDatabase()
}

// closeDatabase closes the connections and restores the ballast.
func (s *Store) closeDatabase() error {
	err := s.closeConnections()
	s.ballast.Keep() // SQLite's own files are gone
	return errors.Join(err, s.closeBallast())
}

// closeConnections closes the pools.
func (s *Store) closeConnections() error {
	var err error
	if s.read != nil {
		err = s.read.Close()
	}
	if s.write != nil && s.write != s.read {
		err = errors.Join(err, s.write.Close())
	}
	return err
}

// execRetrying runs one statement, with parameters $1, $2 and so on, and returns the number of
// rows it changed. It may run twice if a connection is lost, so the statement must be
// idempotent.
func (s *Store) execRetrying(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.retry(ctx, isTransient, func() error {
		n, err = s.execOnce(ctx, query, args...)
		return err
	})
	return n, err
}

// execOnce runs one statement without retries. It may use the ballast on a full disk: rows are
// small, and removals need a record before they free space.
func (s *Store) execOnce(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.ballast.Freeing(func() error {
		r, err := s.write.ExecContext(ctx, s.adaptParameters(query), args...)
		if err == nil {
			n, err = r.RowsAffected()
		}
		return err
	})
	return n, err
}

// inExclusiveTx runs fn in a transaction that excludes all others of this method, on all hosts.
// fn may run twice if a connection is lost.
func (s *Store) inExclusiveTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return s.retry(ctx, isTransient, func() error {
		tx, err := s.write.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		// Locks a row that always exists; on SQLite the write transaction itself excludes
		// others.
		if _, err := tx.ExecContext(ctx, `UPDATE server_secrets SET created = created`); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// queryOne scans the columns of one row to dest and reports whether there is a row.
func (s *Store) queryOne(ctx context.Context, dest []any, query string, args ...any) (found bool, err error) {
	err = s.retryFor(ctx, s.readPatience, isTransient, func() error {
		err := s.read.QueryRowContext(ctx, s.adaptParameters(query), args...).Scan(dest...)
		found = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return found, err
}

// queryAll returns all rows of a query, each read by scan.
func queryAll[T any](ctx context.Context, s *Store, scan func(scan scanFunc) (T, error), query string, args ...any) ([]T, error) {
	var list []T
	err := s.retryFor(ctx, s.readPatience, isTransient, func() error {
		list = nil
		rows, err := s.read.QueryContext(ctx, s.adaptParameters(query), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			v, err := scan(rows.Scan)
			if err != nil {
				return err
			}
			list = append(list, v)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// scanFunc scans the columns of the current row.
type scanFunc func(dest ...any) error

// adaptParameters rewrites $1 to ?1 for SQLite.
func (s *Store) adaptParameters(query string) string {
	if s.postgres {
		return query
	}
	return strings.ReplaceAll(query, "$", "?")
}

// deleteInBatches runs a DELETE of at most $2 rows from before $1 until none is left. Batches
// keep the locks short.
func (s *Store) deleteInBatches(ctx context.Context, query string, before time.Time) error {
	const part = 1000
	for {
		n, err := s.execRetrying(ctx, query, catalog.Nanos(before), part)
		if err != nil || n == 0 {
			return err
		}
	}
}

// retry calls fn until it succeeds, fails with an error that retryable rejects, or patience runs
// out. It returns the error as callers see it.
func (s *Store) retry(ctx context.Context, retryable func(error) bool, fn func() error) error {
	return s.retryFor(ctx, s.patience, retryable, fn)
}

// retryFor is retry with another patience. The pause doubles up to a second, with jitter.
func (s *Store) retryFor(ctx context.Context, patience time.Duration, retryable func(error) bool, fn func() error) error {
	deadline := time.Now().Add(patience)
	pause := 5 * time.Millisecond
	for {
		if s.closed.Load() {
			return driver.ErrClosed
		}
		err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.closed.Load() {
			return driver.ErrClosed
		}
		if !retryable(err) || time.Now().After(deadline) {
			return translateError(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, time.Second)
	}
}

// neverRetry rejects every error.
func neverRetry(error) bool { return false }

// failedWithoutEffect reports whether a statement that failed certainly had no effect and may
// succeed on a retry. https://www.postgresql.org/docs/15/errcodes-appendix.html
func failedWithoutEffect(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch pe.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"57P03", "53300": // starting up, too many connections
			return true
		}
		return false
	}
	return errors.As(err, new(*pgconn.ConnectError)) || pgconn.SafeToRetry(err)
}

// isTransient reports whether a statement that failed may succeed on a retry. It may have had
// its effect, so only idempotent statements are retried by it.
func isTransient(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return failedWithoutEffect(err) || pe.Code == "57P01" || pe.Code == "57P02" || pe.Code[:2] == "08" // shutdown, crash, connection
	}
	return failedWithoutEffect(err) || isConnectionLost(err)
}

// isConnectionLost reports whether err means that the connection broke.
func isConnectionLost(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// translateError maps an error of an engine to one that matches a sentinel of driver.
func translateError(err error) error {
	var pe *pgconn.PgError
	switch {
	case errors.As(err, new(*pgconn.ConnectError)):
		return pgerr.Unreachable(err)
	case !errors.As(err, &pe) && isConnectionLost(err):
		return pgerr.Unreachable(err)
	case !errors.As(err, &pe):
		return catalog.Translate(err)
	}
	return pgerr.Translate(err, pe)
}

// isUniqueViolation reports whether err says that a unique value exists already.
func isUniqueViolation(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23505" || catalog.IsUnique(err)
}
