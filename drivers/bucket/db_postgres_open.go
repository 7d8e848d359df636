package bucket

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/migrate"
)

// schemaLock is the key of the advisory lock for migrations. It is the one of the tool goose,
// which earlier releases of Vole used, so that they wait too.
const schemaLock = 4097083626

// postgresSchema returns the migrations, and the lock under which they run.
func postgresSchema() migrate.Schema {
	return migrate.Schema{Files: migrationFiles("postgres"), Database: "the database", Lock: schemaLock}
}

// openPostgres opens a database and migrates it, or with readOnly checks its schema. logRetry
// is called with each failure that is retried.
func openPostgres(ctx context.Context, url string, conns int32, readOnly bool, log func(error)) (database, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The error of pgx contains the URL without its password.
		return nil, driver.Errorf(driver.ErrInvalid, "cannot use the URL of the database: %v", err)
	}
	cfg.MaxConns = conns
	params := cfg.ConnConfig.RuntimeParams
	for k, v := range map[string]string{
		"application_name": "vole",
		// A host that stops in the middle of a transaction must not hold its locks for ever.
		"idle_in_transaction_session_timeout": "15000",
	} {
		if params[k] == "" {
			params[k] = v
		}
	}
	if readOnly {
		params["default_transaction_read_only"] = "on"
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "cannot use the URL of the database: %v", err)
	}
	p := &postgresDB{pool: pool, logRetry: log, dialect: dialect{
		now:   `((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000)`,
		lock:  `FOR UPDATE`,
		guard: `FOR NO KEY UPDATE`,
		fold: `WITH folded AS (DELETE FROM unreferenced WHERE id IN (SELECT id FROM unreferenced WHERE org = $1 ORDER BY id LIMIT $2) RETURNING bytes)
			INSERT INTO unreferenced (org, bytes) SELECT CAST($1 AS BYTEA), sum(bytes) FROM folded HAVING count(*) > 0`,
		bytes: `BYTEA`,
		// OFFSET 0 keeps the planner from turning it into another kind of join.
		each:    `JOIN LATERAL (SELECT ${2}.* FROM ${1} ${2} WHERE ${3} OFFSET 0) ${2} ON true`,
		analyze: `ANALYZE tree`,
		ordinal: "$",
	}}
	ready := p.migrateSchema
	if readOnly {
		ready = p.checkSchemaCurrent
	}
	if err := ready(ctx); err != nil {
		pool.Close()
		return nil, translatePostgresError(err)
	}
	return p, nil
}

// checkSchemaCurrent returns an error unless the schema is the one of this version. It changes
// nothing.
func (p *postgresDB) checkSchemaCurrent(ctx context.Context) error {
	schema := postgresSchema()
	var have int64
	err := p.retryTransient(ctx, openPatience, func() (err error) {
		db := stdlib.OpenDBFromPool(p.pool)
		defer db.Close()
		have, err = schema.Version(ctx, db)
		return err
	})
	if err != nil {
		return err
	}
	latest := schema.Latest()
	switch {
	case have == 0:
		return driver.Errorf(driver.ErrNotExist, "the database has no namespace yet; open it once without ReadOnly")
	case have < latest:
		return driver.Errorf(driver.ErrUnsupported, "the database has schema %d, and this version of vole reads %d; open it once without ReadOnly", have, latest)
	}
	return schema.Check(have)
}

// migrateSchema brings the schema up to date, one process at a time.
func (p *postgresDB) migrateSchema(ctx context.Context) error {
	return p.retryTransient(ctx, openPatience, func() error {
		db := stdlib.OpenDBFromPool(p.pool)
		defer db.Close()
		return postgresSchema().Up(ctx, db)
	})
}
