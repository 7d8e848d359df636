package sqldb

import "cmp"

// A Query is one SQL statement with its arguments, and where its rows go. Parameters are
// written $1, $2 and so on. {now} is the clock of the database, in nanoseconds since 1970, so
// that the clocks of hosts need not agree. {lock} locks the rows that a SELECT in a transaction
// returns. For the other placeholders see translations and Options.Placeholders.
type Query struct {
	SQL      string
	Args     []any
	affected *int64                   // if not nil, gets the number of rows that a transaction changed
	scanRow  func(scan Scanner) error // called for each row; nil: the statement returns none
	missing  error                    // that of the query if no row comes; nil: none

	// ResetRows drops the rows that were handed out, so that the query can run again if the
	// connection is lost amid them; nil: it cannot.
	ResetRows func()

	// Setwise: the query joins large sets of rows without an index. A planner that takes them
	// for small would compare each row with each.
	Setwise bool
}

// Scanner copies the columns of a row to dest, as sql.Rows.Scan does.
type Scanner func(dest ...any) error

// handOutRows hands the rows of the query to the program. began, if not nil, is set when a row is
// handed out that cannot be taken back.
func (q Query) handOutRows(rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}, began *bool) error {
	missing := q.missing
	for rows.Next() {
		missing = nil
		if began != nil && q.ResetRows == nil {
			*began = true
		}
		if q.scanRow == nil {
			continue
		}
		if err := q.scanRow(rows.Scan); err != nil {
			return err
		}
	}
	return cmp.Or(rows.Err(), missing)
}

// Statement makes a query that returns no rows.
func Statement(sql string, args ...any) Query { return Query{SQL: sql, Args: args} }

// Counted makes a statement of a transaction that sets changed to the number of rows it changed.
func Counted(changed *int64, sql string, args ...any) Query {
	return Query{SQL: sql, Args: args, affected: changed}
}

// EachRow makes a query that hands each row to fn. Without ResetRows it cannot be retried once
// fn has had a row.
func EachRow(fn func(scan Scanner) error, sql string, args ...any) Query {
	return Query{SQL: sql, Args: args, scanRow: fn}
}

// SelectOne makes a query of at most one row, whose columns are copied to dest. found reports
// whether there was one.
func SelectOne(found *bool, dest []any, sql string, args ...any) Query {
	q := EachRow(func(scan Scanner) error { *found = true; return scan(dest...) }, sql, args...)
	q.ResetRows = func() { *found = false }
	q.ResetRows()
	return q
}

// SelectAggregate makes a query that always has one row, such as one of sums.
func SelectAggregate(dest []any, sql string, args ...any) Query {
	return SelectOne(new(bool), dest, sql, args...)
}

// SelectRow makes a query of one row, which fails with missing if there is none.
func SelectRow(missing error, dest []any, sql string, args ...any) Query {
	q := SelectOne(new(bool), dest, sql, args...)
	q.missing = missing
	return q
}

// SelectAll makes a query whose rows replace those of list. dest returns the pointers that a
// row's columns are copied to.
func SelectAll[T any](list *[]T, dest func(*T) []any, sql string, args ...any) Query {
	q := EachRow(func(scan Scanner) error {
		var v T
		err := scan(dest(&v)...)
		*list = append(*list, v)
		return err
	}, sql, args...)
	q.ResetRows = func() { *list = nil }
	q.ResetRows()
	return q
}

// NullIfNil returns b as a parameter: NULL if it is nil, and not an empty string of bytes.
func NullIfNil(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
