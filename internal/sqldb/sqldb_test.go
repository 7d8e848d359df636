package sqldb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/testing/servers"
)

func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }

// testMigrations make a table t, on both engines.
var testMigrations = fstest.MapFS{
	"migrations/postgres/00001_t.sql": {Data: []byte("-- +goose Up\nCREATE TABLE t (id bytea PRIMARY KEY, n bigint NOT NULL);\n")},
	"migrations/sqlite/00001_t.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE t (id BLOB PRIMARY KEY, n INTEGER NOT NULL);\n")},
}

// forEachEngine runs a test on a new database of each engine.
func forEachEngine(t *testing.T, test func(t *testing.T, opts Options)) {
	opts := Options{Name: "the test", Migrations: testMigrations, SchemaLock: 4711, Application: "vole test", Conns: 4}
	t.Run("SQLite", func(t *testing.T) {
		opts.Database = filepath.Join(t.TempDir(), "made", "a ? % #.db")
		test(t, opts)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		opts.Database = servers.PG(t)
		test(t, opts)
	})
}

func openDB(t *testing.T, opts Options) DB {
	t.Helper()
	db, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// countRows returns how many rows the table has.
func countRows(t *testing.T, db DB) (n int64) {
	t.Helper()
	if err := db.RunQueries(t.Context(), SelectOne(new(bool), []any{&n}, `SELECT count(*) FROM t`)); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTransactions(t *testing.T) {
	forEachEngine(t, func(t *testing.T, opts Options) {
		db, ctx := openDB(t, opts), t.Context()
		insert := func(tx Tx, id string, n int64) { tx.QueueExec(`INSERT INTO t (id, n) VALUES ($1, $2)`, []byte(id), n) }
		var changed int64
		err := db.RunTx(ctx, TxOptions{}, func(tx Tx) error {
			insert(tx, "a", 1)
			insert(tx, "b", 2)
			tx.Queue(Counted(&changed, `UPDATE t SET n = n + $1`, 10))
			return nil
		})
		if err != nil || changed != 2 {
			t.Fatalf("%d rows changed, %v", changed, err)
		}
		err = db.RunTx(ctx, TxOptions{AtMostOnce: true}, func(tx Tx) error { insert(tx, "a", 3); return nil })
		if !db.IsUniqueViolation(err) || db.IsForeignKeyViolation(err) {
			t.Errorf("a unique value that exists: %v", err)
		}
		failure := errors.New("failure")
		if err := db.RunTx(ctx, TxOptions{}, func(tx Tx) error { insert(tx, "c", 3); return failure }); !errors.Is(err, failure) {
			t.Errorf("a function that fails: %v", err)
		}
		var list []int64
		err = db.RunQueries(ctx, SelectAll(&list, func(n *int64) []any { return []any{n} }, `SELECT t.n FROM (SELECT 1 AS x) one {each t t: t.n > $1} WHERE {has t.id 61} OR {has t.id 62} ORDER BY n`, 0))
		if err != nil || !slices.Equal(list, []int64{11, 12}) {
			t.Errorf("rows %v, %v", list, err)
		}
		absent := SelectRow(driver.ErrNotExist, []any{new(int64)}, `SELECT n FROM t WHERE id = $1`, []byte("z"))
		err = db.RunQueries(ctx, absent)
		if err2 := db.RunTx(ctx, TxOptions{}, func(tx Tx) error { return tx.RunQueries(absent) }); !errors.Is(err, driver.ErrNotExist) || !errors.Is(err2, driver.ErrNotExist) {
			t.Errorf("a row that does not exist: %v, %v", err, err2)
		}
		if err := db.RunQueries(ctx, SelectRow(driver.ErrNotExist, []any{&changed}, `SELECT n FROM t WHERE id = $1`, []byte("b"))); changed != 12 || err != nil {
			t.Errorf("a row: %d, %v", changed, err)
		}
		if err := db.RunQueries(ctx, Statement(`INSERT INTO t (id, n) VALUES ($1, 1)`, []byte("d"))); !db.IsRemote() && err == nil {
			t.Error("a query outside a transaction wrote to SQLite")
		}
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		err = db.RunQueries(canceled, Statement(`SELECT 1`))
		if err2 := db.RunTx(canceled, TxOptions{}, func(Tx) error { return nil }); !errors.Is(err, context.Canceled) || !errors.Is(err2, context.Canceled) {
			t.Errorf("a context that has ended: %v, %v", err, err2)
		}
		if err := errors.Join(db.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
		err = db.RunQueries(ctx, Statement(`SELECT 1`))
		if err2 := db.RunTx(ctx, TxOptions{}, func(Tx) error { return nil }); !errors.Is(err, driver.ErrClosed) || !errors.Is(err2, driver.ErrClosed) {
			t.Errorf("after Close: %v, %v", err, err2)
		}
	})
}

// TestReadOnly opens a database that has a schema, one that has none, and one with an older one.
func TestReadOnly(t *testing.T) {
	forEachEngine(t, func(t *testing.T, opts Options) {
		readOnly := opts
		readOnly.ReadOnly = true
		if _, err := Open(t.Context(), readOnly); !errors.Is(err, driver.ErrNotExist) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without a database: %v", err)
		}
		openDB(t, opts)
		db := openDB(t, readOnly)
		if n := countRows(t, db); n != 0 {
			t.Errorf("%d rows", n)
		}
		err := db.RunTx(t.Context(), TxOptions{}, func(tx Tx) error { tx.QueueExec(`DELETE FROM t`); return nil })
		if !errors.Is(err, driver.ErrReadOnly) {
			t.Errorf("a write: %v", err)
		}
		later := fstest.MapFS{
			"migrations/postgres/00002_u.sql": {Data: []byte("-- +goose Up\nCREATE TABLE u (x bigint);\n")},
			"migrations/sqlite/00002_u.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE u (x INTEGER);\n")},
		}
		for name, file := range testMigrations {
			later[name] = file
		}
		readOnly.Migrations = later
		if _, err := Open(t.Context(), readOnly); !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(err.Error(), "the test has schema 1") {
			t.Errorf("an older schema: %v", err)
		}
	})
}

// TestPragmas: commits to SQLite survive a power cut, unless they are lazy.
func TestPragmas(t *testing.T) {
	db := openDB(t, Options{Name: "the test", Database: filepath.Join(t.TempDir(), "x.db"), Migrations: testMigrations})
	for lazy, want := range map[bool]int{false: 2, true: 1} {
		var mode string
		var synchronous int
		err := db.RunTx(t.Context(), TxOptions{Lazy: lazy}, func(tx Tx) error {
			return tx.RunQueries(SelectOne(new(bool), []any{&mode}, `PRAGMA journal_mode`), SelectOne(new(bool), []any{&synchronous}, `PRAGMA synchronous`))
		})
		if err != nil || mode != "wal" || synchronous != want {
			t.Errorf("lazy %v: journal_mode %s, synchronous %d, %v", lazy, mode, synchronous, err)
		}
	}
}

// TestAtMostOnce ends the session amid its commit, once.
func TestAtMostOnce(t *testing.T) {
	for _, atMostOnce := range []bool{false, true} {
		db := openDB(t, Options{Name: "the test", Database: servers.PG(t), Migrations: testMigrations, SchemaLock: 4711, Conns: 4})
		runs := 0
		err := db.RunTx(t.Context(), TxOptions{AtMostOnce: atMostOnce}, func(tx Tx) error {
			if runs++; runs == 1 {
				tx.QueueExec(`SELECT pg_terminate_backend(pg_backend_pid())`)
			}
			tx.QueueExec(`INSERT INTO t (id, n) VALUES ($1, 1)`, []byte("a"))
			return nil
		})
		n := countRows(t, db)
		if atMostOnce && (runs != 1 || n != 0 || !errors.Is(err, driver.ErrUnavailable)) || !atMostOnce && (runs != 2 || n != 1 || err != nil) {
			t.Errorf("at most once %v: %d runs, %d rows, %v", atMostOnce, runs, n, err)
		}
	}
}

// TestCancelable: only a commit that may be cancelled ends with its context.
func TestCancelable(t *testing.T) {
	db := openDB(t, Options{Name: "the test", Database: servers.PG(t), Migrations: testMigrations, SchemaLock: 4711, Conns: 4})
	for _, cancelable := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.RunTx(ctx, TxOptions{Cancelable: cancelable}, func(tx Tx) error {
			tx.QueueExec(`INSERT INTO t (id, n) VALUES ($1, 1)`, []byte{byte(countRows(t, db))})
			cancel()
			return nil
		})
		if n := countRows(t, db); n != 1 || cancelable != errors.Is(err, context.Canceled) || !cancelable && err != nil {
			t.Errorf("cancelable %v: %d rows, %v", cancelable, n, err)
		}
	}
}

// TestURLs: what is no URL of PostgreSQL is refused, and no error has the password in it.
func TestURLs(t *testing.T) {
	for _, url := range []string{
		"",
		"postgres://u:s3cr%t/w@rd@127.0.0.1:1/db",
		"postgres://u:s3cr@127.0.0.1:notaport/db",
		"postgres://u:s3cr@w@rd@[::1/db",
		"postgres://u:s3cr@127.0.0.1:1/db?sslmode=nonsense",
		"postgres://u:s3cr@127.0.0.1:1/db?pool_max_conns=s3cr",
		"postgres://u:s3cr w@rd",
		"mysql://u:s3cr@127.0.0.1/db",
		"POSTGRES://u:s3cr@127.0.0.1/db",
		"host=127.0.0.1 user=u PASSWORD=s3cr",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := Open(ctx, Options{Database: url, Migrations: testMigrations})
		cancel()
		if !errors.Is(err, driver.ErrInvalid) || strings.Contains(err.Error(), "s3cr") || strings.Contains(err.Error(), "w@rd") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A call whose time runs out before the server can be reached says both.
func TestTimeEndsWhileServerIsAway(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	<-ctx.Done()
	err := resultOfCall(ctx, &pgconn.ConnectError{Config: &pgconn.Config{}})
	var fault *driver.Fault
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &fault) || fault.Part != driver.Database {
		t.Errorf("away: %v", err)
	}
	if err := resultOfCall(ctx, fmt.Errorf("a query: %w", ctx.Err())); err != ctx.Err() {
		t.Errorf("only the context: %v", err)
	}
}
