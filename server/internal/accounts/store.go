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

// migrationsFor returns the migrations for one engine.
func migrationsFor(engine string) fs.FS {
	dir, _ := fs.Sub(migrations, "migrations/"+engine) // embedded: cannot fail
	return dir
}

// Options says how to open a Store.
type Options struct {
	Clock func() time.Time // default: time.Now
	// CacheFor is for how long a key that was accepted is accepted again without asking
	// the database, and so how late a server may learn that another revoked it.
	// Default: 2s; negative: not at all.
	CacheFor time.Duration
}

// Store is an open database. Its methods may be called at the same time.
type Store struct {
	maxUploads int64 // of an organisation

	read, write   *sql.DB // the same on PostgreSQL; of SQLite, one connection writes
	postgres      bool
	clock         func() time.Time
	signingSecret []byte // what volume tokens are signed with
	cache         keyCache
	uses          chan keyUse // see touch
	records       chan *pendingRecord
	stopped       chan struct{} // closed by Close
	writers       sync.WaitGroup
	closed        atomic.Bool
	ballast       *ballast.Ballast // of the disk of a SQLite database
	closeBallast  func() error
}

// Patience of calls while PostgreSQL cannot be reached. Whoever reads gets an answer soon:
// without one no request is let in, and clients ask again.
const (
	patience     = 10 * time.Second
	readPatience = 3 * time.Second
)

// Open opens a database and brings its schema up to date. database is the path of a
// SQLite file, which is made when it is missing, or the URL of a PostgreSQL database,
// postgres://user:password@host:port/name; what is in a URL is in no error.
// driver.ErrInvalid: it is neither; driver.ErrUnsupported: a newer version of Vole made
// the tables.
func Open(ctx context.Context, database string, opts Options) (*Store, error) {
	s := &Store{maxUploads: maxOrgUploads, clock: opts.Clock, uses: make(chan keyUse, 256), records: make(chan *pendingRecord), stopped: make(chan struct{})}
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

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.retry(ctx, neverRetry, func() error {
		return s.read.QueryRowContext(ctx, `SELECT count(*) FROM server_secrets`).Scan(new(int))
	})
}

// Close waits for what is being written and closes the database. Calls after it fail
// with driver.ErrClosed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.stopped)
	s.writers.Wait()
	return s.closeDatabase()
}

func (s *Store) closeDatabase() error {
	err := s.closeConnections()
	s.ballast.Keep() // SQLite's own files are gone
	return errors.Join(err, s.closeBallast())
}

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

// execRetrying runs one statement, with parameters $1, $2 and so on, and returns how many rows
// it changed. It may run twice when a connection is lost: it must bear that.
func (s *Store) execRetrying(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.retry(ctx, isTransient, func() error {
		n, err = s.execOnce(ctx, query, args...)
		return err
	})
	return n, err
}

// execOnce runs on a full disk, too: rows are small, and what removes something is recorded
// before it is done.
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

// inExclusiveTx runs fn in a transaction that no other change runs beside, on whatever host. It may
// run twice when a connection is lost.
func (s *Store) inExclusiveTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return s.retry(ctx, isTransient, func() error {
		tx, err := s.write.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		// The lock of a row that is always there.
		if _, err := tx.ExecContext(ctx, `UPDATE server_secrets SET created = created`); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// queryOne copies the columns of a row to dest and reports whether there is one.
func (s *Store) queryOne(ctx context.Context, dest []any, query string, args ...any) (found bool, err error) {
	err = s.retryFor(ctx, readPatience, isTransient, func() error {
		err := s.read.QueryRowContext(ctx, s.adaptParameters(query), args...).Scan(dest...)
		found = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return found, err
}

// queryAll returns the rows of a query; scan reads one.
func queryAll[T any](ctx context.Context, s *Store, scan func(scan scanFunc) (T, error), query string, args ...any) ([]T, error) {
	var list []T
	err := s.retryFor(ctx, readPatience, isTransient, func() error {
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

// scanFunc copies the columns of a row.
type scanFunc func(dest ...any) error

// adaptParameters writes the parameters of a query as the engine has them.
func (s *Store) adaptParameters(query string) string {
	if s.postgres {
		return query
	}
	return strings.ReplaceAll(query, "$", "?")
}

// deleteInBatches runs a DELETE of at most $2 rows, of before $1, until there are none left: in
// parts, so that others need not wait for the whole.
func (s *Store) deleteInBatches(ctx context.Context, query string, before time.Time) error {
	const part = 1000
	for {
		n, err := s.execRetrying(ctx, query, catalog.Nanos(before), part)
		if err != nil || n == 0 {
			return err
		}
	}
}

// retry calls fn, again and again while it fails for a reason that again accepts, and
// gives its error the form that callers see.
func (s *Store) retry(ctx context.Context, again func(error) bool, fn func() error) error {
	return s.retryFor(ctx, patience, again, fn)
}

func (s *Store) retryFor(ctx context.Context, patience time.Duration, again func(error) bool, fn func() error) error {
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
		if !again(err) || time.Now().After(deadline) {
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

func neverRetry(error) bool { return false }

// failedWithoutEffect reports whether what failed had no effect and may succeed when it is tried
// again. https://www.postgresql.org/docs/15/errcodes-appendix.html
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

// isTransient reports whether what failed may succeed when it is tried again. It may have
// had its effect.
func isTransient(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return failedWithoutEffect(err) || pe.Code == "57P01" || pe.Code == "57P02" || pe.Code[:2] == "08" // shutdown, crash, connection
	}
	return failedWithoutEffect(err) || isConnectionLost(err)
}

// isConnectionLost reports whether err is of a connection that was lost.
func isConnectionLost(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// translateError makes an error of an engine one that matches a sentinel of driver.
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

// isUniqueViolation reports whether err says that a unique value is there already.
func isUniqueViolation(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23505" || catalog.IsUnique(err)
}
