package bucket

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

func openPostgres(ctx context.Context, url string, conns int32, readOnly bool, log func(error)) (database, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The error of pgx has the URL in it, with the password taken out.
		return nil, driver.Errorf(driver.ErrInvalid, "the address of the database: %v", err)
	}
	cfg.MaxConns = conns
	params := cfg.ConnConfig.RuntimeParams
	for k, v := range map[string]string{
		"application_name": "vole",
		// A host that stops in the middle of a transaction does not hold its locks for ever.
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
		return nil, driver.Errorf(driver.ErrInvalid, "the address of the database: %v", err)
	}
	p := &postgres{pool: pool, log: log, d: dialect{
		now:   `((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000)`,
		lock:  `FOR UPDATE`,
		guard: `FOR NO KEY UPDATE`,
		fold: `WITH folded AS (DELETE FROM unreferenced WHERE id IN (SELECT id FROM unreferenced WHERE org = $1 ORDER BY id LIMIT $2) RETURNING bytes)
			INSERT INTO unreferenced (org, bytes) SELECT CAST($1 AS BYTEA), sum(bytes) FROM folded HAVING count(*) > 0`,
		bytes: `BYTEA`,
		// OFFSET 0 keeps the planner from making another join of it.
		each:    `JOIN LATERAL (SELECT ${2}.* FROM ${1} ${2} WHERE ${3} OFFSET 0) ${2} ON true`,
		analyze: `ANALYZE tree`,
		ordinal: "$",
	}}
	ready := p.migrate
	if readOnly {
		ready = p.current
	}
	if err := ready(ctx); err != nil {
		pool.Close()
		return nil, translatePG(err)
	}
	return p, nil
}

// current checks, without changing anything, that the schema is the one of this version.
func (p *postgres) current(ctx context.Context) error {
	var have int64
	err := p.again(ctx, openPatience, func() error {
		return p.pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have)
	})
	if err != nil && !hasCode(err, "42P01") { // no such table
		return err
	}
	top := catalog.Latest(schema("postgres"))
	switch {
	case have == 0:
		return driver.Errorf(driver.ErrNotExist, "there is no namespace in the database yet; open it once with the right to write")
	case have > top:
		return newerSchema(have, top)
	case have < top:
		return driver.Errorf(driver.ErrUnsupported, "the database has schema %d, this version of vole reads %d; open it once with the right to write", have, top)
	}
	return nil
}

func newerSchema(have, top int64) error {
	return driver.Errorf(driver.ErrUnsupported,
		"the database has schema %d, made by a newer version of vole; this one knows up to %d: upgrade vole", have, top)
}

// migrate brings the schema up to date. A lock of the server keeps others waiting.
func (p *postgres) migrate(ctx context.Context) error {
	return p.again(ctx, openPatience, func() error {
		db := stdlib.OpenDBFromPool(p.pool)
		defer db.Close()
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return err
		}
		up, err := goose.NewProvider(goose.DialectPostgres, db, schema("postgres"),
			goose.WithDisableGlobalRegistry(true), goose.WithSessionLocker(locker))
		if err != nil {
			return err
		}
		have, top, err := up.GetVersions(ctx)
		if err != nil || have == top {
			return err
		}
		if have > top {
			return newerSchema(have, top)
		}
		_, err = up.Up(ctx)
		return err
	})
}
