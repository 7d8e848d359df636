// Package pgerr gives errors of PostgreSQL the kinds that package driver has.
package pgerr

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
)

// sentinels are the sentinels that codes of PostgreSQL stand for.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
var sentinels = map[string]error{
	"53100": driver.ErrNoSpace,
	"25006": driver.ErrReadOnly,
	"42501": driver.ErrPermission, "28000": driver.ErrPermission, "28P01": driver.ErrPermission,
	"XX001": driver.ErrCorrupt, "XX002": driver.ErrCorrupt,
}

// Translate makes err, which pe is the cause of, one that matches a sentinel of driver
// where there is one.
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

// Unreachable is the error of a connection that was not made, or was lost. It matches no other
// error: what ended early is not the caller's own stream.
func Unreachable(err error) error {
	if pe := (*pgconn.PgError)(nil); errors.As(err, &pe) && sentinels[pe.Code] != nil {
		return Translate(err, pe)
	}
	return &driver.Fault{Part: driver.Database, Kind: driver.ErrUnavailable, Err: fmt.Errorf("the database: %v", err)}
}

// isServerUnavailable reports whether a code is of a server that cannot serve now: connections, resources,
// an operator's intervention, errors of its system.
func isServerUnavailable(code string) bool {
	return len(code) == 5 && slices.Contains([]string{"08", "53", "57", "58"}, code[:2]) && code != "57014" // canceled
}
