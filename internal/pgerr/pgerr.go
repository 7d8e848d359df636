// Package pgerr maps errors of PostgreSQL to the sentinels of package driver.
package pgerr

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
)

// sentinels maps codes of PostgreSQL to sentinels.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
var sentinels = map[string]error{
	"53100": driver.ErrNoSpace,
	"25006": driver.ErrReadOnly,
	"42501": driver.ErrPermission, "28000": driver.ErrPermission, "28P01": driver.ErrPermission,
	"XX001": driver.ErrCorrupt, "XX002": driver.ErrCorrupt,
}

// Translate returns an error that matches a sentinel of driver if the code of pe, which err
// wraps, has one.
func Translate(err error, pe *pgconn.PgError) error {
	text := fmt.Errorf("the database: %w", err)
	kind := sentinels[pe.Code]
	if kind == nil && isServerUnavailable(pe.Code) {
		kind = driver.ErrUnavailable
	}
	if kind == nil {
		return text // of a statement, not of the database
	}
	return &driver.Fault{Part: driver.Database, Kind: kind, Err: text}
}

// Unreachable returns the error for a connection that failed or was lost. It does not wrap err:
// an io.ErrUnexpectedEOF of the connection must not be taken for one of a caller's stream.
func Unreachable(err error) error {
	if pe := (*pgconn.PgError)(nil); errors.As(err, &pe) && sentinels[pe.Code] != nil {
		return Translate(err, pe)
	}
	return &driver.Fault{Part: driver.Database, Kind: driver.ErrUnavailable, Err: fmt.Errorf("the database: %v", err)}
}

// isServerUnavailable reports whether a code means that the server cannot serve now: classes 08
// (connection), 53 (resources), 57 (operator intervention, but not a canceled statement) and 58
// (system error).
func isServerUnavailable(code string) bool {
	return len(code) == 5 && slices.Contains([]string{"08", "53", "57", "58"}, code[:2]) && code != "57014" // canceled
}
