// Package pgerr gives errors of PostgreSQL the kinds that package driver has.
package pgerr

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
)

// kinds are the sentinels that codes of PostgreSQL stand for.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
var kinds = map[string]error{
	"53100": driver.ErrNoSpace,
	"25006": driver.ErrReadOnly,
	"42501": driver.ErrPermission, "28000": driver.ErrPermission, "28P01": driver.ErrPermission,
	"XX001": driver.ErrCorrupt, "XX002": driver.ErrCorrupt,
}

// Translate makes err, which pe is the cause of, one that matches a sentinel of driver
// where there is one.
func Translate(err error, pe *pgconn.PgError) error {
	if kind := kinds[pe.Code]; kind != nil {
		return driver.Errorf(kind, "the database: %v", err)
	}
	return fmt.Errorf("the database: %w", err)
}
