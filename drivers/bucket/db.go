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

// migrationFiles returns the migrations for one engine.
func migrationFiles(engine string) fs.FS {
	dir, _ := fs.Sub(migrations, "migrations/"+engine) // embedded: cannot fail
	return dir
}

// A query is one statement. Parameters are written $1, $2 and so on; {now} is the
// clock of the database, in nanoseconds since 1970, so that the clocks of hosts need
// not agree; {lock} locks the rows that a SELECT in a transaction returns.
type query struct {
	sql      string
	args     []any
	scanRow  func(scan scanner) error // called for each row; nil: the statement returns none
	affected *int64                   // if not nil, gets the number of rows that were changed

	// resetRows forgets the rows that were handed out, so that the query may run again when
	// the connection was lost amid them; nil: it may not.
	resetRows func()

	// setwise says that the query joins sets of rows that no index leads to. A planner
	// that takes them for small would compare each row with each.
	setwise bool
}

// scanner copies the columns of a row.
type scanner func(dest ...any) error

// statement makes a query that returns no rows.
func statement(sql string, args ...any) query { return query{sql: sql, args: args} }

// eachRow makes a query that hands each row to fn.
func eachRow(fn func(scan scanner) error, sql string, args ...any) query {
	return query{sql: sql, args: args, scanRow: fn}
}

// selectOne makes a query of at most one row, whose columns are copied to dest. found tells
// whether there was one.
func selectOne(found *bool, dest []any, sql string, args ...any) query {
	r := eachRow(func(scan scanner) error { *found = true; return scan(dest...) }, sql, args...)
	r.resetRows = func() { *found = false }
	r.resetRows()
	return r
}

// selectAll makes a query whose rows are added to list, which is emptied first. dest returns
// the places of a row's columns.
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
	// runQueries runs queries one after another, in one round trip where the engine has
	// such. Each sees what is committed when it runs.
	runQueries(ctx context.Context, list ...query) error
	// runTx runs fn in a transaction, again and again while that is in vain for reasons
	// that pass: a deadlock, a lost connection, a server that restarts. fn must set all
	// that it hands out anew each time. When vol is not nil, a change is made once at
	// most, though the answer to a commit be lost; otherwise fn must bear to run after
	// it has had its effect.
	runTx(ctx context.Context, vol []byte, lazy bool, fn func(t sqlTx) error) error
	// runOnSnapshot runs fn on one committed state of the database, which others go on to
	// change meanwhile. fn runs once; its queries hand out rows as they arrive.
	runOnSnapshot(ctx context.Context, fn func(run queryRunner) error) error
	// lookupPath returns the inode from, if it is there, and those that names lead to one
	// after another, up to the first that is missing or no directory.
	lookupPath(run queryRunner, vol []byte, from int64, names []string) ([]inode, error)
	// lookupPathQuery is chain from the root of a volume that is there as one query, for engines
	// where that saves round trips; ok is false for others. The query fills list.
	lookupPathQuery(org, vol []byte, path string, list *[]inode) (q query, ok bool)
	// isUniqueViolation and isForeignKeyViolation report whether err says that a unique value is there
	// already, or that a row is referred to, or refers to one that is gone.
	isUniqueViolation(err error) bool
	isForeignKeyViolation(err error) bool
	close() error
}

// sqlTx is a transaction, valid while the function runs that it was handed to.
type sqlTx interface {
	// runQueries runs queries, in one round trip where the engine has such.
	runQueries(list ...query) error
	// queueExec adds a statement to those that run right before the commit, in one round
	// trip with it.
	queueExec(sql string, args ...any)
}

// dialect turns queries as they are written here into those of one engine.
type dialect struct {
	now, lock string
	guard     string // {lock}, but for those who only refer to the row
	fold      string // how {fold} is written, which adds up to $2 rows of unreferenced of an organisation
	bytes     string // the type of ids
	each      string // how {each} is written, see eachPattern
	analyze   string // tells the planner how large the table tree is
	ordinal   string // what stands before the number of a parameter
	cache     sync.Map
}

// eachPattern is a join that looks the rows of a table up one by one, by an index, whatever
// the planner makes of the sizes of the tables: {each TABLE ALIAS: CONDITION}. LEFT may
// stand before it.
var eachPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{each (\w+) (\w+): ([^}]*)\}`)
})

// hasBytePattern tells whether bytes have a byte in them: {has BYTES HEX}.
var hasBytePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{has ([\w.]+) ([0-9a-f]{2})\}`)
})

// hasByteTemplate is how {has} is written.
func (d *dialect) hasByteTemplate() string {
	if d.bytes == "BLOB" {
		return `(instr(${1}, x'${2}') > 0)`
	}
	return `(position('\x${2}'::bytea IN ${1}) > 0)`
}

var parameterPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$([0-9]+)`)
})

func (d *dialect) expandSQL(s string) string {
	if v, ok := d.cache.Load(s); ok {
		return v.(string)
	}
	r := eachPattern().ReplaceAllString(s, d.each)
	r = strings.ReplaceAll(r, "LEFT CROSS JOIN", "LEFT JOIN") // whose order SQLite keeps, too
	r = hasBytePattern().ReplaceAllString(r, d.hasByteTemplate())
	r = strings.NewReplacer("{now}", d.now, "{lock}", d.lock, "{guard}", d.guard, "{fold}", d.fold, "{bytes}", d.bytes, "{analyze}", d.analyze).Replace(r)
	r = parameterPattern().ReplaceAllString(r, strings.ReplaceAll(d.ordinal, "$", "$$")+"${1}")
	d.cache.Store(s, r)
	return r
}

// nullIfNil is b as a parameter: NULL when it is nil.
func nullIfNil(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
