package catalog

import (
	"context"
	"database/sql"
	_ "embed" // the latest schema
	"encoding/json"
	"errors"
	"strconv"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/migrate"
)

// hardenedPragmas adds to the pragmas of a connection those for a database that another user may
// have written: functions with side effects do not run from its schema, and pages are checked
// before they are used. https://www.sqlite.org/security.html
func hardenedPragmas(pragmas ...string) []string {
	return append(pragmas, "trusted_schema(0)", "cell_size_check(1)")
}

// errForeignSchema is matched by the errors of verifySchema, besides ErrCorrupt.
var errForeignSchema = driver.Errorf(driver.ErrCorrupt, "the catalog has a schema of its own")

// schemaObject is a row of sqlite_schema.
type schemaObject struct{ Kind, Name, Table, SQL string }

// String describes the object for messages.
func (o schemaObject) String() string { return o.Kind + " " + strconv.Quote(o.Name) }

// latest is what the migrations of a home define, in total: running them takes two milliseconds,
// which every command would lose.
//
//go:embed latest.json
var latest []byte

// verifySchema compares everything that the database defines with what the migrations up to its
// version define. A trigger would run with each change, a view or a virtual table could stand in
// for a table, and a constraint or an index can compute anything.
func (db *DB) verifySchema(ctx context.Context, schema migrate.Schema) error {
	version, have, err := db.readDefinitions(ctx, schema)
	if err != nil || version > schema.Latest() {
		return err
	}
	want, err := expectedDefinitions(ctx, schema, max(version, 1))
	if err != nil {
		return err
	}
	for o := range have {
		// Before the first migration there is the table of versions.
		if !want[o] || version == 0 && o.Table != migrate.DefaultTable && o.Table != "sqlite_sequence" {
			return driver.Errorf(errForeignSchema, "the catalog has a %v that is none of Vole's; somebody has changed it, restore catalog.db from a backup", o)
		}
	}
	if version == 0 {
		return nil
	}
	for o := range want {
		if !have[o] {
			return driver.Errorf(errForeignSchema, "the catalog lacks the %v; restore catalog.db from a backup", o)
		}
	}
	return nil
}

// readDefinitions returns the version of the schema and everything that the database defines,
// both at one moment: another process may be bringing them up to date.
func (db *DB) readDefinitions(ctx context.Context, schema migrate.Schema) (version int64, have map[schemaObject]bool, err error) {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, nil, err
	}
	defer tx.Rollback()
	if version, err = schema.Version(ctx, tx); err == nil {
		have, err = readSchemaObjects(ctx, tx)
	}
	return version, have, err
}

// readSchemaObjects reads everything that a database defines, up to a number that no version of
// Vole reaches.
func readSchemaObjects(ctx context.Context, db migrate.Querier) (map[schemaObject]bool, error) {
	rows, err := db.QueryContext(ctx, `SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema LIMIT 100`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[schemaObject]bool{}
	for rows.Next() {
		var o schemaObject
		if err := rows.Scan(&o.Kind, &o.Name, &o.Table, &o.SQL); err != nil {
			return nil, err
		}
		all[o] = true
	}
	return all, rows.Err()
}

// definitionsByVersion caches the results of expectedDefinitions for the schema of a home.
var definitionsByVersion sync.Map // int64 -> map[object]bool

// expectedDefinitions returns what the migrations up to a version define. For the latest version
// that is known; for others they run on a database in memory.
func expectedDefinitions(ctx context.Context, schema migrate.Schema, version int64) (map[schemaObject]bool, error) {
	if d, ok := definitionsByVersion.Load(version); ok {
		return d.(map[schemaObject]bool), nil
	}
	var d map[schemaObject]bool
	var err error
	if version == schema.Latest() {
		d, err = latestDefinitions()
	} else {
		d, err = deriveDefinitions(ctx, schema, version)
	}
	if err == nil {
		definitionsByVersion.Store(version, d)
	}
	return d, err
}

// latestDefinitions returns the definitions of the latest version.
func latestDefinitions() (map[schemaObject]bool, error) {
	var list []schemaObject
	if err := json.Unmarshal(latest, &list); err != nil {
		return nil, err
	}
	d := map[schemaObject]bool{}
	for _, o := range list {
		d[o] = true
	}
	return d, nil
}

// deriveDefinitions runs the migrations up to a version on a database in memory and returns what
// they define.
func deriveDefinitions(ctx context.Context, schema migrate.Schema, version int64) (map[schemaObject]bool, error) {
	db, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // each connection has a database of its own
	if err := schema.UpTo(ctx, db, version); err != nil {
		return nil, errors.Join(driver.Errorf(errForeignSchema, "the catalog says that it has schema %d, which never was", version), err)
	}
	return readSchemaObjects(ctx, db)
}
