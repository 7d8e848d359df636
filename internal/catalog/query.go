package catalog

import (
	"context"
	"database/sql"
)

// Scanner copies the columns of a row to dest, as sql.Rows.Scan does.
type Scanner func(dest ...any) error

// ScanColumn reads a row of one column.
func ScanColumn[T any](scan Scanner) (value T, err error) {
	err = scan(&value)
	return value, err
}

// Select returns all rows of a query that returns few, each as scan reads it.
func Select[T any](ctx context.Context, db *DB, scan func(Scanner) (T, error), query string, args ...any) ([]T, error) {
	stmt, err := db.Stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, Translate(err)
	}
	list, err := readAllRows(rows, scan)
	return list, Translate(err)
}

// SelectTx is Select in a transaction.
func SelectTx[T any](tx *Tx, scan func(Scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return nil, err
	}
	return readAllRows(rows, scan)
}

// readAllRows reads the rows of a query, and closes them. Without rows the list is empty, not nil.
func readAllRows[T any](rows *sql.Rows, scan func(Scanner) (T, error)) ([]T, error) {
	defer rows.Close()
	list := []T{}
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// Exec is Write of one statement.
func (db *DB) Exec(ctx context.Context, d Durability, query string, args ...any) error {
	return db.Write(ctx, d, func(tx *Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}
