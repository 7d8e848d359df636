// Package sqldb runs the SQL of one program on two engines: a PostgreSQL database, which any
// number of hosts share, or a SQLite file, for any number of processes of one host. It opens and
// migrates the database, retries what a restart of the server interrupts, and maps errors to the
// sentinels of package driver.
//
// Programs write each query once, as a [Query]; placeholders stand for what the engines spell
// differently. A home's catalog is no database of this package: see package catalog, on which
// SQLite files stand here too.
package sqldb

import (
	"context"
	"io/fs"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// Options says how to open a database.
type Options struct {
	// Database is the URL of a PostgreSQL database, or the path of a SQLite file.
	Database string
	ReadOnly bool   // change nothing; the schema must be current
	Name     string // what errors call the database: "the accounts"

	// Migrations has the files of package migrate in the directories migrations/postgres and
	// migrations/sqlite.
	Migrations   fs.FS
	VersionTable string // keeps the version of the schema; default: migrate.DefaultTable
	SchemaLock   int64  // the key of the advisory lock under which PostgreSQL is migrated

	Application string // the name of the program's sessions of PostgreSQL
	Conns       int    // the most connections to PostgreSQL

	Placeholders map[string]Translation // of the program's queries, beside those of Query
	Receipts     Receipts

	LogRetry func(error)     // called with each failure that is retried; default: nothing
	Patience time.Duration   // replaces openPatience, readPatience and writePatience; of tests
	Faults   *fault.Injector // of tests: fails statements that write to SQLite
}

// Receipts is the SQL of the rows that tell which changes were made, for TxOptions.Key. Each
// statement has the key as $1, and the last two the id of the change as $2.
type Receipts struct {
	Lock  string // waits for an earlier transaction with this key to end
	Find  string // selects a row if the change was made
	Leave string // inserts that row
}

// DB is an open database. Errors match the sentinels of package driver where they have a
// meaning there. Its methods may be called concurrently.
type DB interface {
	// RunQueries runs queries outside a transaction, one after another, in one round trip if
	// the engine has any. Each sees what is committed when it runs. They must not write.
	RunQueries(ctx context.Context, list ...Query) error
	// RunTx runs fn in a transaction, and retries it for some time after transient failures: a
	// deadlock, a lost connection, a server that restarts. fn must set all of its results each
	// time it runs. If the answer to a commit is lost, the transaction runs again, although it
	// may have committed: fn must be idempotent, unless opts provide for that.
	RunTx(ctx context.Context, opts TxOptions, fn func(tx Tx) error) error
	// RunOnSnapshot runs fn on one committed state of the database, which others may change at
	// the same time. fn runs once; its queries hand out rows as they arrive.
	RunOnSnapshot(ctx context.Context, fn func(run Runner) error) error
	// Freeing runs fn, which frees space: on a full disk SQLite gets the room that a ballast
	// keeps for that.
	Freeing(fn func() error) error
	// IsRemote reports whether the engine is a server, to which each call is a round trip.
	IsRemote() bool
	// IsUniqueViolation and IsForeignKeyViolation report whether err says that a unique value
	// exists already, or that a row is referred to or refers to one that does not exist.
	IsUniqueViolation(err error) bool
	IsForeignKeyViolation(err error) bool
	// Close closes the database; later calls, but for Close, return driver.ErrClosed.
	Close() error
}

// TxOptions says how a transaction runs.
type TxOptions struct {
	Lazy bool // the commit may be lost if the database crashes
	// Key, if not nil, makes the change at most once: a row of Options.Receipts with this key
	// tells whether a commit happened whose answer was lost.
	Key []byte
	// AtMostOnce is for a change without a receipt that must not be repeated: if it may have
	// been made, the transaction fails with ErrUnavailable.
	AtMostOnce bool
	// Cancelable: the end of the context ends a commit to a server too, which may then have
	// happened or not. Otherwise the call waits for its outcome.
	Cancelable bool
}

// Tx is a transaction, valid while the function runs that it was passed to.
type Tx interface {
	// RunQueries runs queries in the transaction, in one round trip if the engine has any.
	RunQueries(list ...Query) error
	// Queue queues statements to run right before the commit, in one round trip with it.
	// Queries of the transaction do not see their effect.
	Queue(list ...Query)
	// QueueExec is Queue of one statement.
	QueueExec(sql string, args ...any)
}

// Exec runs statements in one transaction: on a server in one round trip.
func Exec(ctx context.Context, db DB, opts TxOptions, list ...Query) error {
	return db.RunTx(ctx, opts, func(tx Tx) error {
		tx.Queue(list...)
		return nil
	})
}

// Runner runs queries, inside a transaction or outside.
type Runner func(list ...Query) error

// IsURL tells the URL of a database from the path of a SQLite file.
func IsURL(database string) bool { return strings.Contains(database, "://") }

// Open opens a database and brings its schema up to date. ErrInvalid: opts.Database is neither a
// path nor a URL of PostgreSQL; ErrUnsupported: a newer version of Vole made the schema. No error
// shows parts of a URL, which may contain a password.
func Open(ctx context.Context, opts Options) (DB, error) {
	if opts.LogRetry == nil {
		opts.LogRetry = func(error) {}
	}
	switch {
	case strings.HasPrefix(opts.Database, "postgres://"), strings.HasPrefix(opts.Database, "postgresql://"):
		return openPostgres(ctx, opts)
	case opts.Database == "" || IsURL(opts.Database):
		return nil, driver.Errorf(driver.ErrInvalid, "the database must be the path of a SQLite file or a URL such as postgres://user@host/name")
	}
	if strings.Contains(strings.ToLower(opts.Database), "password=") { // in the form "host=... password=..." of libpq
		return nil, driver.Errorf(driver.ErrInvalid, "the database contains a password, but is not a URL; use postgres://USER:PASSWORD@HOST/NAME")
	}
	return openSQLite(ctx, opts)
}

// migrationFiles returns the migrations of one engine.
func (o *Options) migrationFiles(engine string) fs.FS {
	dir, _ := fs.Sub(o.Migrations, "migrations/"+engine) // the path is valid: cannot fail
	return dir
}
