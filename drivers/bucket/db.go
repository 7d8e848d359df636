package bucket

import (
	"context"
	"embed"
	"io/fs"
	"regexp"
	"strings"
	"sync"
)

//go:embed migrations
var migrations embed.FS

// migrationFiles returns the migrations of one engine.
func migrationFiles(engine string) fs.FS {
	dir, _ := fs.Sub(migrations, "migrations/"+engine) // embedded: cannot fail
	return dir
}

// A query is one SQL statement with its arguments, and where its rows go. Parameters are
// written $1, $2 and so on. {now} is the clock of the database, in nanoseconds since 1970, so
// that the clocks of hosts need not agree. {lock} locks the rows that a SELECT in a transaction
// returns. See dialect for the other placeholders.
type query struct {
	sql      string
	args     []any
	scanRow  func(scan scanner) error // called for each row; nil: the statement returns none
	affected *int64                   // if not nil, gets the number of rows that were changed

	// resetRows drops the rows that scanRow was given, so that the query can run again if the
	// connection is lost amid them; nil: it cannot.
	resetRows func()

	// setwise: the query joins large sets of rows without an index. A planner that takes them
	// for small would compare each row with each.
	setwise bool
}

// scanner copies the columns of a row to dest, as sql.Rows.Scan does.
type scanner func(dest ...any) error

// statement makes a query that returns no rows.
func statement(sql string, args ...any) query { return query{sql: sql, args: args} }

// eachRow makes a query that hands each row to fn. It cannot be retried once fn has had a row.
func eachRow(fn func(scan scanner) error, sql string, args ...any) query {
	return query{sql: sql, args: args, scanRow: fn}
}

// selectOne makes a query of at most one row, whose columns are copied to dest. found reports
// whether there was one.
func selectOne(found *bool, dest []any, sql string, args ...any) query {
	r := eachRow(func(scan scanner) error { *found = true; return scan(dest...) }, sql, args...)
	r.resetRows = func() { *found = false }
	r.resetRows()
	return r
}

// selectAll makes a query whose rows replace those of list. dest returns the pointers that a
// row's columns are copied to.
func selectAll[T any](list *[]T, dest func(*T) []any, sql string, args ...any) query {
	r := eachRow(func(scan scanner) error {
		var v T
		err := scan(dest(&v)...)
		*list = append(*list, v)
		return err
	}, sql, args...)
	r.resetRows = func() { *list = nil }
	r.resetRows()
	return r
}

// database is an SQL engine. Errors match the sentinels of package driver where they
// have a meaning there.
type database interface {
	// runQueries runs queries outside a transaction, one after another, in one round trip if
	// the engine has any. Each sees what is committed when it runs.
	runQueries(ctx context.Context, list ...query) error
	// runTx runs fn in a transaction, and retries it for some time after transient failures: a
	// deadlock, a lost connection, a server that restarts. fn must set all of its results each
	// time it runs. If the answer to a commit is lost, it is not known whether the transaction
	// committed. With vol set, a row of ops then shows whether it did, so that the change is
	// made at most once. Without vol the transaction runs again, and fn must be idempotent. A
	// lazy commit may be lost if the database crashes.
	runTx(ctx context.Context, vol []byte, lazy bool, fn func(t sqlTx) error) error
	// runOnSnapshot runs fn on one committed state of the database, which others may change at
	// the same time. fn runs once; its queries hand out rows as they arrive.
	runOnSnapshot(ctx context.Context, fn func(run queryRunner) error) error
	// lookupPath returns the inode from, if it exists, and those that names lead to one after
	// another, up to the first that is missing or is no directory.
	lookupPath(run queryRunner, vol []byte, from int64, names []string) ([]inode, error)
	// lookupPathQuery is lookupPath from the root of a volume as one query, which fills list.
	// No rows: the volume does not exist. ok is false for engines without round trips to save.
	lookupPathQuery(org, vol []byte, path string, list *[]inode) (q query, ok bool)
	// isUniqueViolation and isForeignKeyViolation report whether err says that a unique value
	// exists already, or that a row is referred to or refers to one that does not exist.
	isUniqueViolation(err error) bool
	isForeignKeyViolation(err error) bool
	close() error
}

// sqlTx is a transaction, valid while the function runs that it was passed to.
type sqlTx interface {
	// runQueries runs queries in the transaction, in one round trip if the engine has any.
	runQueries(list ...query) error
	// queueExec queues a statement to run right before the commit, in one round trip with it.
	// Queries of the transaction do not see its effect.
	queueExec(sql string, args ...any)
}

// dialect translates the placeholders of queries into the SQL of one engine. Each field is the
// translation of the placeholder of its name, unless it says otherwise.
type dialect struct {
	now, lock string
	guard     string   // like {lock}, but others may insert rows that refer to the row
	fold      string   // merges up to $2 rows of unreferenced of organisation $1 into one
	bytes     string   // the type of ids
	each      string   // a template, see eachPattern
	analyze   string   // tells the planner how large the table tree is
	ordinal   string   // what the number of a parameter is written after
	cache     sync.Map // of expandSQL: query as written here -> SQL
}

// eachPattern matches {each TABLE ALIAS: CONDITION}, a join that looks the rows of a table up
// one by one, by an index, whatever the planner makes of the sizes of the tables. LEFT may
// stand before it.
var eachPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{each (\w+) (\w+): ([^}]*)\}`)
})

// hasBytePattern matches {has BYTES HEX}, a condition: the bytes contain that byte.
var hasBytePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{has ([\w.]+) ([0-9a-f]{2})\}`)
})

// hasByteTemplate returns the translation of {has}.
func (d *dialect) hasByteTemplate() string {
	if d.bytes == "BLOB" {
		return `(instr(${1}, x'${2}') > 0)`
	}
	return `(position('\x${2}'::bytea IN ${1}) > 0)`
}

// parameterPattern matches a parameter, such as $1.
var parameterPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$([0-9]+)`)
})

// expandSQL translates a query. Translations are cached: the queries are constants, but for
// few.
func (d *dialect) expandSQL(s string) string {
	if v, ok := d.cache.Load(s); ok {
		return v.(string)
	}
	r := eachPattern().ReplaceAllString(s, d.each)
	r = strings.ReplaceAll(r, "LEFT CROSS JOIN", "LEFT JOIN") // SQLite keeps its order, too
	r = hasBytePattern().ReplaceAllString(r, d.hasByteTemplate())
	r = strings.NewReplacer("{now}", d.now, "{lock}", d.lock, "{guard}", d.guard, "{fold}", d.fold, "{bytes}", d.bytes, "{analyze}", d.analyze).Replace(r)
	r = parameterPattern().ReplaceAllString(r, strings.ReplaceAll(d.ordinal, "$", "$$")+"${1}")
	d.cache.Store(s, r)
	return r
}

// nullIfNil returns b as a parameter: NULL if it is nil, and not an empty string of bytes.
func nullIfNil(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
