package bucket

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/fault"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteDB is a SQLite database, for any number of processes of one host. Writers of one
// process share commits (see package catalog).
type sqliteDB struct {
	db      *catalog.DB
	dialect dialect
}

// openSQLite opens a database and migrates it, or with readOnly checks its schema.
func openSQLite(ctx context.Context, path string, readOnly bool, faults *fault.Injector) (database, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if !readOnly {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "locks"), 0o700); err != nil {
			return nil, err
		}
	}
	db, err := catalog.Open(ctx, path, catalog.Options{ReadOnly: readOnly, Schema: migrationFiles("sqlite"), Faults: faults})
	if err != nil {
		return nil, err
	}
	return &sqliteDB{db: db, dialect: dialect{
		now:   `(CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000000)`,
		bytes: `BLOB`,
		// The order of a CROSS JOIN is kept: https://www.sqlite.org/optoverview.html#crossjoin
		each:    `CROSS JOIN ${1} ${2} ON ${3}`,
		analyze: `SELECT 1`,
		fold:    `SELECT $1, $2`, // nothing: the triggers keep one row
		ordinal: "?",
	}}, nil
}

func (l *sqliteDB) runQueries(ctx context.Context, list ...query) error {
	for _, q := range list {
		s, err := l.db.Stmt(ctx, l.dialect.expandSQL(q.sql))
		if err != nil {
			return translateClosed(err)
		}
		r, err := s.QueryContext(ctx, q.args...)
		if err == nil {
			err = scanRows(r, q.scanRow)
		}
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return translateClosed(catalog.Translate(err))
		}
	}
	return nil
}

// runOnSnapshot holds one connection. Its first query decides which state it sees.
func (l *sqliteDB) runOnSnapshot(ctx context.Context, fn func(run queryRunner) error) error {
	c, err := l.db.Read().Conn(ctx)
	if err != nil {
		return translateClosed(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, `BEGIN`); err != nil {
		return translateClosed(catalog.Translate(err))
	}
	defer c.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	return fn(func(list ...query) error {
		for _, q := range list {
			r, err := c.QueryContext(ctx, l.dialect.expandSQL(q.sql), q.args...)
			if err == nil {
				err = scanRows(r, q.scanRow)
			}
			if err != nil {
				return translateClosed(catalog.Translate(err))
			}
		}
		return nil
	})
}

// translateClosed returns ErrClosed for the errors of database/sql after Close.
func translateClosed(err error) error {
	if err != nil && (errors.Is(err, sql.ErrConnDone) || err.Error() == "sql: database is closed" || err.Error() == "sql: statement is closed") {
		return driver.ErrClosed
	}
	return err
}

// scanRows hands rows to scanRow and closes them.
func scanRows(r *sql.Rows, row func(scanner) error) error {
	defer r.Close()
	for r.Next() {
		if row == nil {
			continue
		}
		if err := row(r.Scan); err != nil {
			return err
		}
	}
	return r.Err()
}

// runTx needs no vol: the answer to a commit cannot be lost.
func (l *sqliteDB) runTx(ctx context.Context, _ []byte, lazy bool, fn func(tx sqlTx) error) error {
	d := catalog.Durable
	if lazy {
		d = catalog.Lazy
	}
	return l.db.Write(ctx, d, func(c *catalog.Tx) error {
		tx := &sqliteTx{db: l, tx: c}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.runQueries(tx.queue...)
	})
}

func (l *sqliteDB) isUniqueViolation(err error) bool { return catalog.IsUnique(err) }

func (l *sqliteDB) isForeignKeyViolation(err error) bool {
	e := (*sqlite.Error)(nil)
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

func (l *sqliteDB) close() error { return l.db.Close() }

// sqliteTx is a transaction within a group commit of the catalog.
type sqliteTx struct {
	db    *sqliteDB
	tx    *catalog.Tx
	queue []query
}

func (tx *sqliteTx) runQueries(list ...query) error {
	for _, q := range list {
		if q.scanRow != nil {
			r, err := tx.tx.Query(tx.db.dialect.expandSQL(q.sql), q.args...)
			if err == nil {
				err = scanRows(r, q.scanRow)
			}
			if err != nil {
				return err
			}
			continue
		}
		n, err := tx.tx.Exec(tx.db.dialect.expandSQL(q.sql), q.args...)
		if err != nil {
			return err
		}
		if q.affected != nil {
			*q.affected = n
		}
	}
	return nil
}

func (tx *sqliteTx) queueExec(sql string, args ...any) {
	tx.queue = append(tx.queue, statement(sql, args...))
}

// lookupPath asks for one inode after another, as there are no round trips to save.
func (l *sqliteDB) lookupPath(run queryRunner, vol []byte, from int64, names []string) ([]inode, error) {
	var list []inode
	var n inode
	var found bool
	err := run(selectOne(&found, n.scanDest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, vol, from))
	for err == nil && found {
		list = append(list, n)
		if len(names) == 0 || !n.isDir() {
			break
		}
		dir := n.ino
		n = inode{}
		err = run(selectOne(&found, n.scanDest(), `SELECT `+inodeCols+` FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			WHERE e.vol = $1 AND e.parent = $2 AND e.name = $3`, vol, dir, []byte(names[0])))
		names = names[1:]
	}
	return list, err
}

func (l *sqliteDB) lookupPathQuery([]byte, []byte, string, *[]inode) (query, bool) {
	return query{}, false
}
