// Package catalog is a SQLite database that any number of processes share, and within
// each any number of goroutines: by default that of a local home.
//
// Reads go to a pool of connections and see committed state. Writes are functions
// handed to one writer, which runs all that are waiting in one transaction, so that
// concurrent writers share a sync (group commit). A write is [Durable] when it must
// survive a power cut once it returned, and [Lazy] when losing it does no harm because
// recovery would do it again; a later durable write makes all earlier ones durable,
// since both append to the same write-ahead log.
package catalog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/migrate"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options says how to open a catalog. The zero value opens for reading and writing
// and makes the database when it is missing.
type Options struct {
	ReadOnly bool // nothing is written, not even a file beside the database
	// Schema has the migrations. Default: those of a local home.
	Schema migrate.Schema
	// Dir is the open directory that the database is in, nil to go by its path. With it
	// links are not followed, neither to the database nor to the files beside it, and it
	// is opened in that very directory (where the system can: Linux). Open keeps a
	// duplicate.
	Dir *os.File
	// Verify refuses (ErrCorrupt) a catalog of a home that has other tables, or anything
	// else, than the migrations make: another writer may have left triggers and views.
	Verify bool
	// Faults lets tests inject faults into the statements that write. Default: none.
	Faults *fault.Injector
}

// migrationSchema returns the migrations.
func (o Options) migrationSchema() migrate.Schema {
	if o.Schema.Files != nil {
		return o.Schema
	}
	files, _ := fs.Sub(migrations, "migrations") // embedded: cannot fail
	return migrate.Schema{Files: files, Database: "the catalog"}
}

// DB is an open catalog: a pool of connections that read, and one connection that writes.
type DB struct {
	read  *sql.DB
	stmts sync.Map // query -> *sql.Stmt of read
	w     *writer  // nil when read-only
	at    location
	tmp   string // directory of a private copy, removed on Close; "" mostly
}

// Open opens the catalog at path, bringing its schema up to date. Concurrent first
// opens of several processes wait for one another. ErrUnsupported: a newer version
// of Vole made it; ErrReadOnly, ErrNoSpace and ErrCorrupt as the disk has it.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	at, err := locateDatabase(path, opts.Dir)
	if err != nil {
		return nil, err
	}
	var db *DB
	if opts.ReadOnly {
		db, err = openReadOnly(ctx, at, opts)
	} else {
		db, err = openWritable(ctx, at, opts)
	}
	if err != nil {
		at.closeDirectory()
		return nil, err
	}
	return db, nil
}

// openWritable makes the database if it is missing, brings its schema up to date, and starts the
// writer.
func openWritable(ctx context.Context, at location, opts Options) (*DB, error) {
	if err := at.createDatabase(); err != nil {
		return nil, err
	}
	read, err := openReaderPool(at, "")
	if err != nil {
		return nil, err
	}
	db := &DB{read: read, at: at}
	if err := retryWhileBusy(ctx, func() error { return db.migrateSchema(ctx, opts) }); err != nil {
		read.Close()
		return nil, Translate(err)
	}
	err = retryWhileBusy(ctx, func() (err error) {
		db.w, err = newWriter(ctx, at, opts.Faults)
		return err
	})
	if err != nil {
		read.Close()
		return nil, Translate(err)
	}
	return db, nil
}

// busyPatience is how long opening goes on while the database is locked.
const busyPatience = 10 * time.Second

// retryWhileBusy runs fn again while the database is locked: the process that first switches it
// to WAL mode, or is the last to close it, takes a lock for which SQLite does not wait.
func retryWhileBusy(ctx context.Context, fn func() error) error {
	until := time.Now().Add(busyPatience)
	for {
		err := fn()
		if !isBusy(err) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// readCache is how much of the database each reading connection may cache, in KiB when negative:
// a catalog of a hundred thousand volumes is ten times SQLite's default.
const readCache = "cache_size(-16384)"

// openReaderPool opens the pool of reading connections. mode is that of the URI.
func openReaderPool(at location, mode string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", at.dataSourceName(mode, hardenedPragmas("query_only(1)", readCache, "busy_timeout(10000)")...))
	if err != nil {
		return nil, err
	}
	n := runtime.GOMAXPROCS(0) + 2
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// migrateSchema brings the schema up to date, under a lock that other processes wait for.
func (db *DB) migrateSchema(ctx context.Context, opts Options) error {
	schema := opts.migrationSchema()
	have, err := db.checkSchema(ctx, schema, opts.Verify)
	if err != nil || have == schema.Latest() {
		return err
	}
	unlock, err := db.at.lockSchema(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	writable, err := sql.Open("sqlite", db.at.dataSourceName("", "busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"))
	if err != nil {
		return err
	}
	defer writable.Close()
	return schema.Up(ctx, writable)
}

// checkSchema returns the version of the schema. ErrUnsupported: it is newer than this program;
// ErrCorrupt, with verify: it is not what the migrations make.
func (db *DB) checkSchema(ctx context.Context, schema migrate.Schema, verify bool) (int64, error) {
	have, err := schema.Version(ctx, db.read)
	if err == nil {
		err = schema.Check(have)
	}
	if err == nil && verify {
		err = db.verifySchema(ctx, schema)
	}
	return have, err
}

// openReadOnly opens a catalog that must not be written. SQLite needs its shared-memory file
// even for reading, so if that is missing and cannot be made (on a read-only or full disk), it
// reads a private copy of the database.
func openReadOnly(ctx context.Context, at location, opts Options) (*DB, error) {
	if err := at.checkExists(); err != nil {
		return nil, err
	}
	db, err := openReadOnlyAt(ctx, at, opts)
	if err == nil {
		return db, nil
	}
	if errors.Is(err, driver.ErrUnsupported) || errors.Is(err, errForeignSchema) || ctx.Err() != nil {
		return nil, err
	}
	tmp, cerr := os.MkdirTemp("", "vole-catalog-")
	if cerr != nil {
		// Memory-backed on Linux, so there even when every disk is full.
		if tmp, cerr = os.MkdirTemp("/dev/shm", "vole-catalog-"); cerr != nil {
			return nil, err
		}
	}
	if db, err = openPrivateCopy(ctx, at, tmp, opts); err != nil {
		os.RemoveAll(tmp)
		return nil, err
	}
	return db, nil
}

// openPrivateCopy copies the database and its write-ahead log to tmp and opens the copy.
func openPrivateCopy(ctx context.Context, at location, tmp string, opts Options) (*DB, error) {
	private := location{path: filepath.Join(tmp, at.baseName())}
	for _, suffix := range []string{"", "-wal"} {
		data, err := at.readFile(suffix)
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(private.path+suffix, data, 0o600); err != nil {
			return nil, err
		}
	}
	db, err := openReadOnlyAt(ctx, private, opts)
	if err != nil {
		return nil, err
	}
	at.closeDirectory() // the copy stands on its own
	db.tmp = tmp
	return db, nil
}

// openReadOnlyAt opens the database for reading. ErrUnsupported: its schema is older or newer
// than this version reads.
func openReadOnlyAt(ctx context.Context, at location, opts Options) (*DB, error) {
	read, err := openReaderPool(at, "ro")
	if err != nil {
		return nil, err
	}
	db := &DB{read: read, at: at}
	schema := opts.migrationSchema()
	have, err := db.checkSchema(ctx, schema, opts.Verify)
	if err == nil {
		err = schema.CheckCurrent(have)
	}
	if err != nil {
		read.Close()
		return nil, Translate(err)
	}
	return db, nil
}

// Read is the pool of connections for reading.
func (db *DB) Read() *sql.DB { return db.read }

// Stmt returns query prepared on the reading pool; it is kept until Close.
func (db *DB) Stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := db.stmts.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := db.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, Translate(err)
	}
	if old, loaded := db.stmts.LoadOrStore(query, s); loaded {
		s.Close()
		return old.(*sql.Stmt), nil
	}
	return s, nil
}

// Write runs fn in a transaction and returns once that is committed, with the
// durability asked for. Transactions of other callers may share the commit; when fn
// fails only its own changes are undone. fn must not call Write, and must be quick:
// every writer of the home waits for it. It may run twice, the first time in vain.
// When ctx ends before fn ran, it never runs.
func (db *DB) Write(ctx context.Context, d Durability, fn func(tx *Tx) error) error {
	if db.w == nil {
		return driver.Errorf(driver.ErrReadOnly, "the home is open for reading only")
	}
	return Translate(db.w.submitWrite(ctx, d, fn))
}

// Close waits for writes under way and closes the database.
func (db *DB) Close() error {
	var err error
	if db.w != nil {
		err = db.w.closeWriter()
	}
	db.stmts.Range(func(_, s any) bool { s.(*sql.Stmt).Close(); return true })
	err = errors.Join(err, db.read.Close())
	db.at.closeDirectory()
	if db.tmp != "" {
		err = errors.Join(err, os.RemoveAll(db.tmp))
	}
	return err
}

// Time turns a stored time, nanoseconds since 1970, into a UTC time; 0 is the zero time.
func Time(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Nanos is the inverse of Time.
func Nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
