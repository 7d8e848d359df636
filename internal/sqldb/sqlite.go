package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/migrate"
)

// sqliteDB is a SQLite database, for any number of processes of one host. Writers of one
// process share commits (see package catalog).
type sqliteDB struct {
	db      *catalog.DB
	dialect *dialect
	ballast *ballast.Ballast // reserves space on the disk; none when read-only
}

// openSQLite makes the file if it is missing, private to its owner, and opens it. On a full disk
// the ballast gives the room that opening takes.
func openSQLite(ctx context.Context, opts Options) (DB, error) {
	path, err := filepath.Abs(opts.Database)
	if err != nil {
		return nil, err
	}
	l := &sqliteDB{dialect: newDialect(sqliteText, opts.Placeholders), ballast: &ballast.Ballast{}}
	if !opts.ReadOnly {
		if err := durable.CreatePrivate(path); err != nil {
			return nil, err
		}
		l.ballast = ballast.OpenDir(filepath.Dir(path))
	}
	schema := migrate.Schema{Files: opts.migrationFiles("sqlite"), Database: opts.Name, Table: opts.VersionTable}
	err = l.ballast.Opening(func() (err error) {
		l.db, err = catalog.Open(ctx, path, catalog.Options{ReadOnly: opts.ReadOnly, Schema: schema, Faults: opts.Faults})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, l.ballast.Close())
	}
	return l, nil
}

func (l *sqliteDB) RunQueries(ctx context.Context, list ...Query) error {
	return l.runEach(ctx, list, func(query string, args []any) (*sql.Rows, error) {
		s, err := l.db.Stmt(ctx, query)
		if err != nil {
			return nil, err
		}
		return s.QueryContext(ctx, args...)
	})
}

// RunOnSnapshot holds one connection. Its first query decides which state it sees.
func (l *sqliteDB) RunOnSnapshot(ctx context.Context, fn func(run Runner) error) error {
	c, err := l.db.Read().Conn(ctx)
	if err != nil {
		return translateSQLiteError(ctx, err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, `BEGIN`); err != nil {
		return translateSQLiteError(ctx, err)
	}
	defer c.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	return fn(func(list ...Query) error {
		return l.runEach(ctx, list, func(query string, args []any) (*sql.Rows, error) { return c.QueryContext(ctx, query, args...) })
	})
}

// runEach sends queries to SQLite one after another and hands their rows out.
func (l *sqliteDB) runEach(ctx context.Context, list []Query, send func(query string, args []any) (*sql.Rows, error)) error {
	for _, q := range list {
		rows, err := send(l.dialect.expandSQL(q.SQL), q.Args)
		if err == nil {
			err = scanRows(rows, q)
		}
		if err != nil {
			return translateSQLiteError(ctx, err)
		}
	}
	return nil
}

// translateSQLiteError maps an error outside a write to one of package driver, or of ctx if that
// has ended. database/sql has no sentinels for what is used after Close.
func translateSQLiteError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, sql.ErrConnDone), err.Error() == "sql: database is closed", err.Error() == "sql: statement is closed":
		return driver.ErrClosed
	}
	return catalog.Translate(err)
}

// scanRows hands the rows of a query out and closes them.
func scanRows(rows *sql.Rows, q Query) error {
	defer rows.Close()
	return q.handOutRows(rows, nil)
}

// RunTx needs no receipts: the answer to a commit cannot be lost.
func (l *sqliteDB) RunTx(ctx context.Context, opts TxOptions, fn func(tx Tx) error) error {
	d := catalog.Durable
	if opts.Lazy {
		d = catalog.Lazy
	}
	return l.db.Write(ctx, d, func(c *catalog.Tx) error {
		tx := &sqliteTx{db: l, tx: c}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.RunQueries(tx.queue...)
	})
}

func (l *sqliteDB) Freeing(fn func() error) error { return l.ballast.Freeing(fn) }

func (l *sqliteDB) IsRemote() bool { return false }

func (l *sqliteDB) IsUniqueViolation(err error) bool     { return catalog.IsUnique(err) }
func (l *sqliteDB) IsForeignKeyViolation(err error) bool { return catalog.IsForeignKey(err) }

// Close closes the database and refills the ballast, now that SQLite's log is gone.
func (l *sqliteDB) Close() error {
	err := l.db.Close()
	l.ballast.Keep()
	return errors.Join(err, l.ballast.Close())
}

// sqliteTx is a transaction within a group commit of the catalog.
type sqliteTx struct {
	db    *sqliteDB
	tx    *catalog.Tx
	queue []Query
}

func (tx *sqliteTx) RunQueries(list ...Query) error {
	for _, q := range list {
		if q.scanRow != nil {
			r, err := tx.tx.Query(tx.db.dialect.expandSQL(q.SQL), q.Args...)
			if err == nil {
				err = scanRows(r, q)
			}
			if err != nil {
				return err
			}
			continue
		}
		n, err := tx.tx.Exec(tx.db.dialect.expandSQL(q.SQL), q.Args...)
		if err != nil {
			return err
		}
		if q.affected != nil {
			*q.affected = n
		}
	}
	return nil
}

func (tx *sqliteTx) Queue(list ...Query) { tx.queue = append(tx.queue, list...) }

func (tx *sqliteTx) QueueExec(sql string, args ...any) { tx.Queue(Statement(sql, args...)) }
