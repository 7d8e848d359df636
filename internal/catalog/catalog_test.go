package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	return openWith(t, path, Options{})
}

func openWith(t *testing.T, path string, opts Options) *DB {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func insert(id, name string) func(*Tx) error {
	return func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO volumes (id, name, kind, state, created, updated) VALUES (?, ?, 'dir', 'ready', 1, 1)`, id, name)
		return err
	}
}

func count(t *testing.T, db *DB) int {
	t.Helper()
	var n int
	if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM volumes`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPragmas looks at what each connection is set to, several at once.
func TestPragmas(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "c.db"))
	ctx := t.Context()
	conns := make([]*sql.Conn, 3)
	for i := range conns {
		c, err := db.Read().Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		var n int // a connection learns of the mode when it reads
		if err := c.QueryRowContext(ctx, `SELECT count(*) FROM volumes`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		for pragma, want := range map[string]string{"journal_mode": "wal", "query_only": "1"} {
			var got string
			if err := c.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("connection %d: %s = %s, %v; want %s", i, pragma, got, err, want)
			}
		}
	}
	for d, want := range map[Durability]int{Durable: 2, Lazy: 1} {
		var sync, keys int
		err := db.Write(ctx, d, func(tx *Tx) error {
			return errors.Join(tx.QueryRow(`PRAGMA synchronous`).Scan(&sync), tx.QueryRow(`PRAGMA foreign_keys`).Scan(&keys))
		})
		if err != nil || sync != want || keys != 1 {
			t.Errorf("durability %d: synchronous %d, foreign_keys %d, %v; want %d, 1", d, sync, keys, err, want)
		}
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(db.at.path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", suffix, info, err)
		}
	}
}

var errUndone = errors.New("undone")

// TestGroupCommit lets writers pile up behind one that is slow, and counts commits.
func TestGroupCommit(t *testing.T) {
	faults := &fault.Injector{}
	db := openWith(t, filepath.Join(t.TempDir(), "c.db"), Options{Faults: faults})
	commits := 0
	faults.Set(func(op, _ string, f func() error) error {
		if op == "sql.commit" {
			commits++ // only the writer's own goroutine commits
		}
		return f()
	})
	defer faults.Set(nil)
	const n = 50
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		db.Write(t.Context(), Durable, func(*Tx) error { close(entered); <-leave; return nil })
	})
	<-entered
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprint("v", i)
			if i%10 == 0 {
				name = "same" // the first of these wins, the others fail alone
			}
			errs[i] = db.Write(t.Context(), Durable, func(tx *Tx) error {
				if err := insert(fmt.Sprint(i), name)(tx); err != nil || i%10 != 5 {
					return err
				}
				return errUndone // having changed something
			})
		})
	}
	for len(db.w.queue) < n {
		time.Sleep(time.Millisecond)
	}
	close(leave)
	wg.Wait()
	failed := 0
	for i, err := range errs {
		if err != nil {
			failed++
			if (i%10 != 0 || !IsUnique(err)) && (i%10 != 5 || err != errUndone) {
				t.Errorf("write %d: %v", i, err)
			}
		}
	}
	if failed != n/10-1+n/10 || count(t, db) != n-failed {
		t.Errorf("%d failed and %d rows are there", failed, count(t, db))
	}
	if commits > 3 {
		t.Errorf("%d commits for %d writes that waited together", commits, n)
	}
}

// TestBusy makes one catalog wait for the transaction of another process's, for which
// a second handle on the file stands.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	a, b := open(t, path), open(t, path)
	entered, leave := make(chan struct{}), make(chan struct{})
	held := make(chan error)
	go func() {
		held <- a.Write(context.Background(), Durable, func(*Tx) error { close(entered); <-leave; return nil })
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Write(ctx, Durable, insert("1", "a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write behind another's transaction: %v", err)
	}
	ran := make(chan error)
	go func() { ran <- b.Write(context.Background(), Durable, insert("2", "b")) }()
	close(leave)
	if err := errors.Join(<-held, <-ran); err != nil {
		t.Error(err)
	}
	if n := count(t, a); n != 1 {
		t.Errorf("%d rows; the write that gave up must not have run, the other must", n)
	}
}

// TestCommitFails makes the commit of a batch fail: all of it must be undone, and the
// next must work.
func TestCommitFails(t *testing.T) {
	faults := &fault.Injector{}
	db := openWith(t, filepath.Join(t.TempDir(), "c.db"), Options{Faults: faults})
	broken := errors.New("broken disk")
	faults.Set(func(op, _ string, f func() error) error {
		if op == "sql.commit" {
			return broken
		}
		return f()
	})
	err := db.Write(t.Context(), Durable, insert("1", "a"))
	faults.Set(nil)
	if !errors.Is(err, broken) || count(t, db) != 0 {
		t.Errorf("%v, %d rows", err, count(t, db))
	}
	if err := db.Write(t.Context(), Durable, insert("1", "a")); err != nil || count(t, db) != 1 {
		t.Errorf("afterwards: %v, %d rows", err, count(t, db))
	}
}

func TestClosed(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "c.db"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), Lazy, insert("1", "a")); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

// TestFirstOpens opens a catalog that is not there many times at once.
func TestFirstOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a dir with ? and % #", "c.db")
	if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			db, err := Open(t.Context(), path, Options{})
			if err == nil {
				err = errors.Join(db.Write(t.Context(), Durable, insert(fmt.Sprint(i), fmt.Sprint(i))), db.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, open(t, path)); n != 16 {
		t.Errorf("%d rows", n)
	}
}

func TestSchemaVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	db := open(t, path)
	err := db.Write(t.Context(), Durable, func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{}, {ReadOnly: true}} {
		if db, err := Open(t.Context(), path, opts); !errors.Is(err, driver.ErrUnsupported) {
			t.Errorf("%+v: a schema from the future: %v", opts, err)
			if err == nil {
				db.Close()
			}
		}
	}
}

// TestNoDatabase opens files that are not what they should be.
func TestNoDatabase(t *testing.T) {
	for name, data := range map[string][]byte{
		"text":      []byte("this is not a database, but long enough to be looked at as one by SQLite. " + string(make([]byte, 4096))),
		"truncated": []byte("SQLite format 3\x00\x10\x00\x02\x02\x00\x40\x20\x20"),
	} {
		path := filepath.Join(t.TempDir(), "c.db")
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Mkdir(filepath.Join(filepath.Dir(path), "locks"), 0o700)); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(t.Context(), path, Options{}); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v; want ErrCorrupt", name, err)
			if err == nil {
				db.Close()
			}
		}
	}
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	db := open(t, path)
	if err := db.Write(t.Context(), Durable, insert("1", "a")); err != nil {
		t.Fatal(err)
	}
	ro, err := Open(t.Context(), path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if n := count(t, ro); n != 1 {
		t.Errorf("%d rows", n)
	}
	if err := ro.Write(t.Context(), Lazy, insert("2", "b")); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
}

// TestBatchRunAnew has functions fail after they changed something, so that batches are
// undone and run anew, while another process is after the same lock.
func TestBatchRunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	dbs := []*DB{open(t, path), open(t, path)}
	errMine := errors.New("mine")
	const writers, writes = 16, 300
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := range writes {
				id := fmt.Sprint(i, "-", n)
				err := dbs[i%2].Write(t.Context(), Durable, func(tx *Tx) error {
					if err := insert(id, id)(tx); err != nil || n%2 == 0 {
						return err
					}
					return errMine
				})
				if n%2 == 0 && err != nil || n%2 == 1 && !errors.Is(err, errMine) {
					t.Errorf("write %s: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, dbs[0]); n != writers*writes/2 {
		t.Errorf("%d rows, want %d", n, writers*writes/2)
	}
}
