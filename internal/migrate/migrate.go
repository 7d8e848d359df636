// Package migrate brings the schema of a database up to date from SQL files: a SQLite
// file or a PostgreSQL database, by way of database/sql.
//
// A file NNNNN_name.sql takes the schema from version NNNNN-1 to NNNNN. Of its text, what
// stands between the lines "-- +goose Up" and "-- +goose Down" is run, all of it in the one
// transaction that also records the version; what follows undoes it, by hand only. The
// marks, the names and the table of versions are those of the tool goose, which earlier
// releases used and which still reads all of them.
package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/volehq/vole/driver"
)

// DefaultTable is the table of versions of a schema that names none.
const DefaultTable = "goose_db_version"

// Schema is a sequence of migrations and where a database keeps the version it has.
type Schema struct {
	Files    fs.FS  // has the migrations at its root
	Database string // what errors call the database: "the catalog"
	Table    string // keeps the versions; default: DefaultTable
	// Lock is the key of the advisory lock that a process holds while it migrates a
	// PostgreSQL database. 0: the database is SQLite, and the caller keeps others away.
	Lock int64
}

// Querier is a database, a connection or a transaction.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// versionTable returns the name of the table of versions.
func (s Schema) versionTable() string {
	if s.Table == "" {
		return DefaultTable
	}
	return s.Table
}

// Latest returns the newest version that this program knows.
func (s Schema) Latest() int64 {
	files, err := s.listMigrations()
	if err != nil || len(files) == 0 {
		return 0
	}
	return files[len(files)-1].version
}

// Version returns the version of the schema that a database has, 0 for an empty one.
func (s Schema) Version(ctx context.Context, db Querier) (int64, error) {
	exists := `SELECT count(*) > 0 FROM sqlite_schema WHERE name = '` + s.versionTable() + `'`
	if s.Lock != 0 {
		// In the current schema only, where a table would be made, not in the whole search path.
		exists = `SELECT count(*) > 0 FROM pg_tables WHERE schemaname = current_schema() AND tablename = '` + s.versionTable() + `'`
	}
	var has bool
	if err := db.QueryRowContext(ctx, exists).Scan(&has); err != nil || !has {
		return 0, err
	}
	var version sql.NullInt64
	err := db.QueryRowContext(ctx, `SELECT max(version_id) FROM `+s.versionTable()).Scan(&version)
	return version.Int64, err
}

// Check returns ErrUnsupported for a version that is newer than Latest.
func (s Schema) Check(version int64) error {
	if latest := s.Latest(); version > latest {
		return driver.Errorf(driver.ErrUnsupported,
			"%s has schema %d, made by a newer version of vole; this one knows up to %d: upgrade vole", s.Database, version, latest)
	}
	return nil
}

// CheckCurrent is Check for what is open for reading only. ErrUnsupported: the version is older
// than Latest, and cannot be brought up to date.
func (s Schema) CheckCurrent(version int64) error {
	if latest := s.Latest(); version < latest {
		return driver.Errorf(driver.ErrUnsupported,
			"%s has schema %d, this version of vole reads %d; open it once with the right to write", s.Database, version, latest)
	}
	return s.Check(version)
}

// Up runs the migrations that a database lacks. ErrUnsupported: its version is newer than
// Latest.
func (s Schema) Up(ctx context.Context, db *sql.DB) error { return s.UpTo(ctx, db, s.Latest()) }

// UpTo is Up to a given version. It uses one connection of db.
func (s Schema) UpTo(ctx context.Context, db *sql.DB, target int64) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	version, err := s.Version(ctx, conn)
	if err == nil {
		err = s.Check(version)
	}
	if err != nil || version >= target {
		return err
	}
	if s.Lock != 0 {
		if err := acquireLock(ctx, conn, s.Lock, s.Database); err != nil {
			return err
		}
		defer releaseLock(ctx, conn, s.Lock)
	}
	return s.runPending(ctx, conn, target)
}

// runPending runs the migrations up to target that the database lacks. The caller has the lock.
func (s Schema) runPending(ctx context.Context, conn *sql.Conn, target int64) error {
	files, err := s.listMigrations()
	if err != nil {
		return err
	}
	version, err := s.prepareTable(ctx, conn)
	if err == nil {
		err = s.checkApplied(ctx, conn, files, version)
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.version <= version || f.version > target {
			continue
		}
		script, err := s.upScript(f)
		if err == nil {
			err = s.applyMigration(ctx, conn, f.version, script)
		}
		if err != nil {
			return fmt.Errorf("migration %s: %w", f.name, err)
		}
	}
	return nil
}

// prepareTable makes the table of versions if it is missing, and returns the version of the
// database. Its definition is stored in the schema of every home and must not change.
func (s Schema) prepareTable(ctx context.Context, conn *sql.Conn) (int64, error) {
	// Read again under the lock: another process may have migrated.
	version, err := s.Version(ctx, conn)
	if err != nil || version > 0 {
		return version, errors.Join(err, s.Check(version))
	}
	definition := `CREATE TABLE IF NOT EXISTS %[1]s (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	)`
	if s.Lock != 0 {
		definition = `CREATE TABLE IF NOT EXISTS %[1]s (
		id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
		version_id bigint NOT NULL,
		is_applied boolean NOT NULL,
		tstamp timestamp NOT NULL DEFAULT now()
	)`
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() // does nothing after the commit
	// goose does not accept a table without a version 0.
	for _, statement := range []string{definition, `INSERT INTO %[1]s (version_id, is_applied)
		SELECT 0, true WHERE NOT EXISTS (SELECT 1 FROM %[1]s WHERE version_id = 0)`} {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(statement, s.versionTable())); err != nil {
			return 0, err
		}
	}
	return 0, tx.Commit()
}

// checkApplied returns ErrCorrupt if the database lacks a migration below its version: no later
// migration can build on it.
func (s Schema) checkApplied(ctx context.Context, conn *sql.Conn, files []migration, version int64) error {
	for _, f := range files {
		if f.version > version {
			break
		}
		var has bool
		err := conn.QueryRowContext(ctx, `SELECT count(*) > 0 FROM `+s.versionTable()+` WHERE version_id = $1`, f.version).Scan(&has)
		if err != nil {
			return err
		}
		if !has {
			return driver.Errorf(driver.ErrCorrupt,
				"%s has schema %d, but its table %s lacks version %d; restore the database from a backup", s.Database, version, s.versionTable(), f.version)
		}
	}
	return nil
}

// applyMigration runs one migration and records its version in one transaction. The script is
// sent without arguments: both drivers accept several statements only then.
func (s Schema) applyMigration(ctx context.Context, conn *sql.Conn, version int64, script string) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO `+s.versionTable()+` (version_id, is_applied) VALUES ($1, $2)`, version, true)
	if err != nil {
		return err
	}
	return tx.Commit()
}

// migration is one SQL file.
type migration struct {
	version int64
	name    string
}

// listMigrations returns the migrations in order of version.
func (s Schema) listMigrations() ([]migration, error) {
	entries, err := fs.ReadDir(s.Files, ".")
	if err != nil {
		return nil, err
	}
	var files []migration
	for _, entry := range entries {
		digits, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || version < 1 || !strings.HasSuffix(entry.Name(), ".sql") {
			return nil, fmt.Errorf("%s is not the name of a migration, NNNNN_name.sql", entry.Name())
		}
		files = append(files, migration{version, entry.Name()})
	}
	slices.SortFunc(files, func(a, b migration) int { return int(a.version - b.version) })
	return files, nil
}

// upScript returns the part of a migration between the marks Up and Down.
func (s Schema) upScript(f migration) (string, error) {
	text, err := fs.ReadFile(s.Files, f.name)
	if err != nil {
		return "", err
	}
	const up, down = "-- +goose Up\n", "\n-- +goose Down\n"
	_, script, found := strings.Cut(string(text), up)
	if !found {
		return "", fmt.Errorf("lacks the line %q", strings.TrimSpace(up))
	}
	script, _, _ = strings.Cut(script, down)
	return script, nil
}
