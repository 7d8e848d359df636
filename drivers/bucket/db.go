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

// schema returns the migrations for one engine.
func schema(engine string) fs.FS {
	dir, _ := fs.Sub(migrations, "migrations/"+engine) // embedded: cannot fail
	return dir
}

// A query is one statement. Parameters are written $1, $2 and so on; {now} is the
// clock of the database, in nanoseconds since 1970, so that the clocks of hosts need
// not agree; {lock} locks the rows that a SELECT in a transaction returns.
type query struct {
	sql  string
	args []any
	row  func(scan scanner) error // called for each row; nil: the statement returns none
	n    *int64                   // if not nil, gets the number of rows that were changed

	// reset forgets the rows that were handed out, so that the query may run again when
	// the connection was lost amid them; nil: it may not.
	reset func()

	// setwise says that the query joins sets of rows that no index leads to. A planner
	// that takes them for small would compare each row with each.
	setwise bool
}

// scanner copies the columns of a row.
type scanner func(dest ...any) error

// q makes a query that returns no rows.
func q(sql string, args ...any) query { return query{sql: sql, args: args} }

// rows makes a query that hands each row to fn.
func rows(fn func(scan scanner) error, sql string, args ...any) query {
	return query{sql: sql, args: args, row: fn}
}

// one makes a query of at most one row, whose columns are copied to dest. found tells
// whether there was one.
func one(found *bool, dest []any, sql string, args ...any) query {
	r := rows(func(scan scanner) error { *found = true; return scan(dest...) }, sql, args...)
	r.reset = func() { *found = false }
	r.reset()
	return r
}

// all makes a query whose rows are added to list, which is emptied first. dest returns
// the places of a row's columns.
func all[T any](list *[]T, dest func(*T) []any, sql string, args ...any) query {
	r := rows(func(scan scanner) error {
		var v T
		err := scan(dest(&v)...)
		*list = append(*list, v)
		return err
	}, sql, args...)
	r.reset = func() { *list = nil }
	r.reset()
	return r
}

// database is an SQL engine. Errors match the sentinels of package driver where they
// have a meaning there.
type database interface {
	// read runs queries one after another, in one round trip where the engine has
	// such. Each sees what is committed when it runs.
	read(ctx context.Context, list ...query) error
	// write runs fn in a transaction, again and again while that is in vain for reasons
	// that pass: a deadlock, a lost connection, a server that restarts. fn must set all
	// that it hands out anew each time. When vol is not nil, a change is made once at
	// most, though the answer to a commit be lost; otherwise fn must bear to run after
	// it has had its effect.
	write(ctx context.Context, vol []byte, lazy bool, fn func(t tx) error) error
	// snapshot runs fn on one committed state of the database, which others go on to
	// change meanwhile. fn runs once; its queries hand out rows as they arrive.
	snapshot(ctx context.Context, fn func(run runner) error) error
	// chain returns the inode from, if it is there, and those that names lead to one
	// after another, up to the first that is missing or no directory.
	chain(run runner, vol []byte, from int64, names []string) ([]inode, error)
	// chains is chain from the root of a volume that is there as one query, for engines
	// where that saves round trips; ok is false for others. The query fills list.
	chains(org, vol []byte, path string, list *[]inode) (q query, ok bool)
	// isUnique and isForeign report whether err says that a unique value is there
	// already, or that a row is referred to, or refers to one that is gone.
	isUnique(err error) bool
	isForeign(err error) bool
	close() error
}

// tx is a transaction, valid while the function runs that it was handed to.
type tx interface {
	// run runs queries, in one round trip where the engine has such.
	run(list ...query) error
	// later adds a statement to those that run right before the commit, in one round
	// trip with it.
	later(sql string, args ...any)
}

// dialect turns queries as they are written here into those of one engine.
type dialect struct {
	now, lock string
	guard     string // {lock}, but for those who only refer to the row
	fold      string // how {fold} is written, which adds up to $2 rows of unreferenced of an organisation
	bytes     string // the type of ids
	each      string // how {each} is written, see eachOf
	analyze   string // tells the planner how large the table tree is
	ordinal   string // what stands before the number of a parameter
	cache     sync.Map
}

// eachOf is a join that looks the rows of a table up one by one, by an index, whatever
// the planner makes of the sizes of the tables: {each TABLE ALIAS: CONDITION}. LEFT may
// stand before it.
var eachOf = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{each (\w+) (\w+): ([^}]*)\}`)
})

// hasOf tells whether bytes have a byte in them: {has BYTES HEX}.
var hasOf = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{has ([\w.]+) ([0-9a-f]{2})\}`)
})

// has is how {has} is written.
func (d *dialect) has() string {
	if d.bytes == "BLOB" {
		return `(instr(${1}, x'${2}') > 0)`
	}
	return `(position('\x${2}'::bytea IN ${1}) > 0)`
}

var parameter = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$([0-9]+)`)
})

func (d *dialect) sql(s string) string {
	if v, ok := d.cache.Load(s); ok {
		return v.(string)
	}
	r := eachOf().ReplaceAllString(s, d.each)
	r = strings.ReplaceAll(r, "LEFT CROSS JOIN", "LEFT JOIN") // whose order SQLite keeps, too
	r = hasOf().ReplaceAllString(r, d.has())
	r = strings.NewReplacer("{now}", d.now, "{lock}", d.lock, "{guard}", d.guard, "{fold}", d.fold, "{bytes}", d.bytes, "{analyze}", d.analyze).Replace(r)
	r = parameter().ReplaceAllString(r, strings.ReplaceAll(d.ordinal, "$", "$$")+"${1}")
	d.cache.Store(s, r)
	return r
}

// null is b as a parameter: NULL when it is nil.
func null(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
