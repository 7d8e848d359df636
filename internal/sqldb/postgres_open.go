package sqldb

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/migrate"
)

const (
	// How long calls are retried while the server is unreachable: long enough for a restart,
	// and shorter than the timeouts of callers.
	openPatience  = 30 * time.Second
	readPatience  = 8 * time.Second
	writePatience = 15 * time.Second
)

// errMalformedURL hides the error of pgx. That shows the URL without its password, but not every
// malformed URL lets pgx find the password.
var errMalformedURL = driver.Errorf(driver.ErrInvalid, "cannot parse the URL of the database; write postgres://user:password@host:port/name, with %%XX for all but letters and digits in the password")

// openPostgres opens a database and migrates it, or with ReadOnly checks its schema.
func openPostgres(ctx context.Context, opts Options) (DB, error) {
	cfg, err := pgxpool.ParseConfig(opts.Database)
	if err != nil {
		return nil, errMalformedURL
	}
	cfg.MaxConns = int32(opts.Conns)
	params := cfg.ConnConfig.RuntimeParams
	for k, v := range map[string]string{
		"application_name": opts.Application,
		// A host that stops in the middle of a transaction must not hold its locks for ever.
		"idle_in_transaction_session_timeout": "15000",
	} {
		if params[k] == "" {
			params[k] = v
		}
	}
	if opts.ReadOnly {
		params["default_transaction_read_only"] = "on"
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, errMalformedURL
	}
	p := &postgresDB{
		pool: pool, dialect: newDialect(postgresText, opts.Placeholders), receipts: opts.Receipts, logRetry: opts.LogRetry,
		openPatience:  cmp.Or(opts.Patience, openPatience),
		readPatience:  cmp.Or(opts.Patience, readPatience),
		writePatience: cmp.Or(opts.Patience, writePatience),
	}
	if err := p.prepareSchema(ctx, opts); err != nil {
		pool.Close()
		return nil, translateError(err)
	}
	return p, nil
}

// prepareSchema brings the schema up to date, one process at a time, or with ReadOnly returns an
// error unless it is the one of this version, and changes nothing.
func (p *postgresDB) prepareSchema(ctx context.Context, opts Options) error {
	schema := migrate.Schema{Files: opts.migrationFiles("postgres"), Database: opts.Name, Table: opts.VersionTable, Lock: opts.SchemaLock}
	var have int64
	err := p.retryTransient(ctx, p.openPatience, func() (err error) {
		db := stdlib.OpenDBFromPool(p.pool)
		defer db.Close()
		if !opts.ReadOnly {
			return schema.Up(ctx, db)
		}
		have, err = schema.Version(ctx, db)
		return err
	})
	if err != nil || !opts.ReadOnly {
		return err
	}
	if have == 0 {
		return driver.Errorf(driver.ErrNotExist, "%s has no tables of vole yet; open it once with the right to write", opts.Name)
	}
	return schema.CheckCurrent(have)
}
