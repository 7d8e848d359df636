package migrate

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/volehq/vole/driver"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// steps are migrations with all that a script can have: comments, triggers with
// statements of their own, marks of goose.
var steps = map[string]string{
	"00001_first.sql": `-- +goose Up

-- A comment; with a semicolon.
CREATE TABLE a (
    x TEXT -- of a column; too
);
INSERT INTO a VALUES ('1; not two');

-- +goose Down
DROP TABLE a;
`,
	"00002_second.sql": `-- +goose Up
-- +goose StatementBegin
CREATE TRIGGER t AFTER INSERT ON a BEGIN
    UPDATE a SET x = x || '!' WHERE x = NEW.x;
    UPDATE a SET x = x || '?' WHERE x = NEW.x;
END;
-- +goose StatementEnd
INSERT INTO a VALUES ('2');
-- The end, without a mark.
`,
	"00010_tenth.sql": "-- +goose Up\nCREATE TABLE b (x);\n-- +goose Down\nDROP TABLE b;\n",
}

func schemaOf(files map[string]string, only ...string) Schema {
	tree := fstest.MapFS{}
	for name, text := range files {
		if len(only) == 0 || slices.Contains(only, name) {
			tree[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return Schema{Files: tree, Database: "the test"}
}

func openDB(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// column reads one column of text.
func column(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		list = append(list, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

const versions = `SELECT version_id || ' ' || is_applied FROM goose_db_version ORDER BY id`

func TestUp(t *testing.T) {
	db, s := openDB(t), schemaOf(steps)
	for _, step := range []struct {
		to   int64
		want string
	}{{1, "0 1,1 1"}, {1, "0 1,1 1"}, {9, "0 1,1 1,2 1"}, {s.Latest(), "0 1,1 1,2 1,10 1"}, {s.Latest(), "0 1,1 1,2 1,10 1"}} {
		if err := s.UpTo(t.Context(), db, step.to); err != nil {
			t.Fatalf("to %d: %v", step.to, err)
		}
		if got := strings.Join(column(t, db, versions), ","); got != step.want {
			t.Errorf("to %d: versions %s, want %s", step.to, got, step.want)
		}
	}
	if got := column(t, db, `SELECT x FROM a ORDER BY x`); !slices.Equal(got, []string{"1; not two", "2!"}) {
		t.Errorf("the scripts left %q", got)
	}
	if v, err := s.Version(t.Context(), db); v != 10 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
}

// TestUpAfterGoose goes on where the tool left a database, or where a crash left the tool.
func TestUpAfterGoose(t *testing.T) {
	const table = `CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	)`
	s := schemaOf(steps)
	for have, left := range map[string][]string{
		"only its table":   {table, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1)`},
		"the first schema": {table, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1), (1, 1)`, `CREATE TABLE a (x)`, `INSERT INTO a VALUES ('kept')`},
	} {
		db := openDB(t)
		for _, statement := range left {
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Up(t.Context(), db); err != nil {
			t.Errorf("%s: %v", have, err)
			continue
		}
		if got := strings.Join(column(t, db, versions), ","); got != "0 1,1 1,2 1,10 1" {
			t.Errorf("%s: versions %s", have, got)
		}
		if definition := column(t, db, `SELECT sql FROM sqlite_schema WHERE name = 'goose_db_version'`); definition[0] != table {
			t.Errorf("%s: the table is %s", have, definition[0])
		}
		if _, err := db.Exec(`INSERT INTO b VALUES (1)`); err != nil {
			t.Errorf("%s: %v", have, err)
		}
	}
	// A new database gets the same table, byte for byte: package catalog compares it.
	db := openDB(t)
	if err := s.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if definition := column(t, db, `SELECT sql FROM sqlite_schema WHERE name = 'goose_db_version'`); definition[0] != table {
		t.Errorf("of a new database the table is %s", definition[0])
	}
}

// TestUpAllOrNothing: what fails leaves the version that was there, and all of its rows.
func TestUpAllOrNothing(t *testing.T) {
	broken := map[string]string{
		"00001_first.sql":  steps["00001_first.sql"],
		"00002_second.sql": "-- +goose Up\nCREATE TABLE c (x);\nINSERT INTO a VALUES ('3');\nINSERT INTO nosuch VALUES (1);\n",
	}
	db, s := openDB(t), schemaOf(broken)
	err := s.Up(t.Context(), db)
	if err == nil || !strings.Contains(err.Error(), "00002_second.sql") || !strings.Contains(err.Error(), "nosuch") {
		t.Fatalf("a statement that fails: %v", err)
	}
	if got := strings.Join(column(t, db, versions), ","); got != "0 1,1 1" {
		t.Errorf("versions %s", got)
	}
	if got := column(t, db, `SELECT name FROM sqlite_schema WHERE name = 'c' UNION ALL SELECT x FROM a`); !slices.Equal(got, []string{"1; not two"}) {
		t.Errorf("left behind: %q", got)
	}
	broken["00002_second.sql"] = steps["00002_second.sql"]
	if err := schemaOf(broken).Up(t.Context(), db); err != nil {
		t.Errorf("a second try, mended: %v", err)
	}
}

func TestUpRefuses(t *testing.T) {
	db := openDB(t)
	if err := schemaOf(steps).Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	older := schemaOf(steps, "00001_first.sql", "00002_second.sql")
	if err := older.Up(t.Context(), db); !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(fmt.Sprint(err), "schema 10, made by a newer version") {
		t.Errorf("a database of a newer version: %v", err)
	}
	grown := map[string]string{"00011_next.sql": "-- +goose Up\nCREATE TABLE d (x);\n", "00003_late.sql": "-- +goose Up\nCREATE TABLE e (x);\n"}
	for name, text := range steps {
		grown[name] = text
	}
	if err := schemaOf(grown).Up(t.Context(), db); !errors.Is(err, driver.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "lacks version 3") {
		t.Errorf("a database that lacks a migration: %v", err)
	}
	only := conn(t, db)
	for name, text := range map[string]string{
		"00011_no_mark.sql": "CREATE TABLE d (x);\n",
		"next.sql":          "-- +goose Up\n",
		"00011_next.txt":    "-- +goose Up\n",
		"00000_next.sql":    "-- +goose Up\n",
	} {
		files := map[string]string{name: text}
		for name, text := range steps {
			files[name] = text
		}
		if err := schemaOf(files).runPending(t.Context(), only, 11); err == nil {
			t.Errorf("%s with %q was taken", name, text)
		}
	}
	if err := (Schema{Files: fstest.MapFS{}}).Up(t.Context(), openDB(t)); err != nil {
		t.Errorf("no migrations at all: %v", err)
	}
	if _, err := (Schema{Files: fstest.MapFS{"x": {Mode: fs.ModeDir}}}).listMigrations(); err == nil {
		t.Error("a directory was taken for a migration")
	}
}

func conn(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
