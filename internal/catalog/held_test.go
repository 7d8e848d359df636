//go:build unix

package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// heldOptions are those of a catalog in an open directory, as package local opens it.
func heldOptions(t *testing.T, home string) Options {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(home, "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return Options{Dir: dir, Verify: true}
}

// openHeld opens the catalog of a home, and closes it at the end.
func openHeld(t *testing.T, home string) *DB {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(home, "catalog.db"), heldOptions(t, home))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestHeldDirectory puts another directory in the place of the one that was opened: all
// connections, also those that are opened later, go on in the first.
func TestHeldDirectory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can open a file in an open directory for SQLite")
	}
	top := t.TempDir()
	home, other := filepath.Join(top, "home"), filepath.Join(top, "other")
	opts := heldOptions(t, home)
	if err := errors.Join(os.Rename(home, other), os.Mkdir(home, 0o700)); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), filepath.Join(home, "catalog.db"), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Write(t.Context(), Durable, insert("1", "a")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows", n)
	}
	if list, err := os.ReadDir(home); err != nil || len(list) != 0 {
		t.Errorf("in the directory put in its place: %v, %v", list, err)
	}
	for _, name := range []string{"catalog.db", "catalog.db-wal", "catalog.db-shm"} {
		if _, err := os.Stat(filepath.Join(other, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestHeldFiles finds something else than files where those of the database should be.
func TestHeldFiles(t *testing.T) {
	for _, suffix := range suffixes {
		for what, put := range map[string]func(path, victim string) error{
			"link":      func(path, victim string) error { return os.Symlink(victim, path) },
			"hard link": func(path, victim string) error { return os.Link(victim, path) },
			"fifo":      func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
			"directory": func(path, _ string) error { return os.Mkdir(path, 0o700) },
		} {
			home := t.TempDir()
			if err := openHeld(t, home).Close(); err != nil {
				t.Fatal(err)
			}
			victim := filepath.Join(home, "victim")
			path := filepath.Join(home, "catalog.db"+suffix)
			os.Remove(path)
			if err := errors.Join(os.WriteFile(victim, []byte("canary"), 0o600), put(path, victim)); err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{false, true} {
				opts := heldOptions(t, home)
				opts.ReadOnly = readOnly
				if db, err := Open(t.Context(), filepath.Join(home, "catalog.db"), opts); !errors.Is(err, driver.ErrCorrupt) {
					t.Errorf("%s as catalog.db%s, read-only %v: %v", what, suffix, readOnly, err)
					if err == nil {
						db.Close()
					}
				}
			}
			if data, err := os.ReadFile(victim); err != nil || string(data) != "canary" {
				t.Errorf("%s as catalog.db%s: the file it leads to holds %q, %v", what, suffix, data, err)
			}
		}
	}
}

// TestForeignSchema opens catalogs in which somebody has left more than rows.
func TestForeignSchema(t *testing.T) {
	const table = `PRAGMA writable_schema = ON; `
	for name, change := range map[string]string{
		"trigger":        `CREATE TRIGGER evil AFTER INSERT ON volumes BEGIN DELETE FROM attachments; END`,
		"view":           `DROP TABLE attachments; CREATE VIEW attachments AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n`,
		"virtual table":  `CREATE VIRTUAL TABLE evil USING fts5(x)`,
		"table":          `CREATE TABLE evil (x)`,
		"index":          `CREATE INDEX evil ON volumes (hex(name))`,
		"missing index":  `DROP INDEX volumes_name`,
		"constraint":     table + `UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', 'STRICT ') WHERE name = 'volumes'`,
		"malformed":      table + `UPDATE sqlite_schema SET sql = 'CREATE TABLE volumes (' WHERE name = 'volumes'`,
		"wrong root":     table + `UPDATE sqlite_schema SET rootpage = 1000000 WHERE name = 'volumes'`,
		"no such schema": `UPDATE goose_db_version SET version_id = 1`,
		"schema of zero": `DELETE FROM goose_db_version`,
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			if err := openHeld(t, home).Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(home, "catalog.db")
			other, err := sql.Open("sqlite", "file:"+path)
			if err == nil {
				_, err = other.Exec(change)
			}
			if err := errors.Join(err, other.Close()); err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{false, true} {
				opts := heldOptions(t, home)
				opts.ReadOnly = readOnly
				db, err := Open(t.Context(), path, opts)
				if err == nil {
					// A page that is not there shows when it is read.
					err = Translate(db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM volumes`).Scan(new(int)))
					db.Close()
				}
				if !errors.Is(err, driver.ErrCorrupt) {
					t.Errorf("read-only %v: %v; want ErrCorrupt", readOnly, err)
				}
			}
		})
	}
}

// TestOlderSchemas opens catalogs of every earlier version, and finds nothing wrong.
func TestOlderSchemas(t *testing.T) {
	schema := Options{}.migrationSchema()
	for v := int64(1); v <= schema.Latest(); v++ {
		home := t.TempDir()
		opts := heldOptions(t, home)
		path := filepath.Join(home, "catalog.db")
		if err := migrateTo(t.Context(), path, v); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), path, opts)
		if err != nil {
			t.Errorf("schema %d: %v", v, err)
			continue
		}
		db.Close()
	}
}

// migrateTo makes a database of an earlier version.
func migrateTo(ctx context.Context, path string, version int64) error {
	db, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_pragma=journal_mode(WAL)", path))
	if err != nil {
		return err
	}
	defer db.Close()
	return Options{}.migrationSchema().UpTo(ctx, db, version)
}

// TestLatestSchema compares what is known of the latest schema with what the migrations
// make. VOLE_UPDATE=1 writes it anew.
func TestLatestSchema(t *testing.T) {
	schema := Options{}.migrationSchema()
	want, err := deriveDefinitions(t.Context(), schema, schema.Latest())
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("VOLE_UPDATE") != "" {
		list := slices.SortedFunc(maps.Keys(want), func(a, b schemaObject) int { return cmp.Compare(a.Kind+a.Name, b.Kind+b.Name) })
		data, err := json.MarshalIndent(list, "", "\t")
		if err := errors.Join(err, os.WriteFile("latest.json", append(data, '\n'), 0o644)); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := latestDefinitions()
	if err != nil || !maps.Equal(have, want) {
		t.Errorf("latest.json is not what the migrations make (%v); run the test with VOLE_UPDATE=1", err)
	}
}
