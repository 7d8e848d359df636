package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/volehq/vole/driver"
)

// The codes of PostgreSQL's errors: https://www.postgresql.org/docs/15/errcodes-appendix.html

// sentinels maps codes to sentinels of package driver.
var sentinels = map[string]error{
	"53100": driver.ErrNoSpace,
	"25006": driver.ErrReadOnly,
	"42501": driver.ErrPermission, "28000": driver.ErrPermission, "28P01": driver.ErrPermission,
	"XX001": driver.ErrCorrupt, "XX002": driver.ErrCorrupt,
}

// transientCodes are those of statements that may succeed on a retry, beside class 08
// (connection).
var transientCodes = []string{
	"40001", "40P01", // serialization failure, deadlock
	"57P01", "57P02", "57P03", // shutdown, crash, starting up
	"53300", // too many connections
	"25P03", // idle in transaction for too long
}

var (
	// errAborted: a statement of the transaction failed before, so COMMIT would roll back
	// without an error.
	errAborted = errors.New("the transaction was aborted")
	// errInRows: the connection was lost after rows were handed out that cannot be read again.
	errInRows = errors.New("the connection was lost while rows were read")
	// errOvertaken: what a transaction was to make exists already, maybe by its own first try.
	errOvertaken = errors.New("a transaction whose answer was lost may have committed")
)

// sqlState returns the code and the class of an error of the server; "" for other errors.
func sqlState(err error) (code, class string) {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && len(pe.Code) == 5 {
		return pe.Code, pe.Code[:2]
	}
	return "", ""
}

// hasSQLState reports whether err is an error of the server with that code.
func hasSQLState(err error, code string) bool {
	have, _ := sqlState(err)
	return have == code
}

// isTransient reports whether what failed may succeed when it is tried again.
func isTransient(err error) bool {
	if code, class := sqlState(err); code != "" {
		return class == "08" || slices.Contains(transientCodes, code)
	}
	return isConnectionLost(err) || errors.Is(err, errOvertaken)
}

// isConnectionLost reports whether err comes from the connection and not from the server.
func isConnectionLost(err error) bool {
	var ne net.Error
	var ce *pgconn.ConnectError
	return errors.As(err, &ne) || errors.As(err, &ce) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		pgconn.SafeToRetry(err) || err != nil && err.Error() == "conn closed"
}

// surelyNotCommitted reports whether err proves that a transaction did not commit. Classes 57,
// 08 and XX do not: a server that shuts down may report one after the commit.
func surelyNotCommitted(err error) bool {
	code, class := sqlState(err)
	return errors.Is(err, errAborted) || code != "" && class != "57" && class != "08" && class != "XX"
}

// resultOfCall returns the error of a call to the program: of its context if that has ended. If
// time ran out while the server could not be reached, the error says that, too.
func resultOfCall(ctx context.Context, err error) error {
	ended := ctx.Err()
	switch {
	case err == nil || ended == nil:
		return translateError(err)
	case ended == context.DeadlineExceeded && !errors.Is(err, ended) && isTransient(err):
		return &driver.Fault{Part: driver.Database, Kind: ended, Err: fmt.Errorf("the database: %v", err)}
	}
	return ended
}

// translateError maps an error of pgx to one that matches a sentinel of driver, if there is one
// for it.
func translateError(err error) error {
	code, class := sqlState(err)
	switch {
	case err == nil:
		return nil
	case err.Error() == "closed pool":
		return driver.ErrClosed
	case errors.As(err, new(*driver.Fault)):
		return err // of the program's own function, or translated already
	case errors.As(err, new(*pgconn.ConnectError)), errors.Is(err, errAborted), errors.Is(err, errOvertaken), errors.Is(err, errInRows),
		code == "" && isConnectionLost(err):
		return unreachable(err)
	case code == "":
		return err // of the program's own function
	}
	kind := sentinels[code]
	// Classes 08 (connection), 53 (resources), 57 (operator intervention) and 58 (system error)
	// mean that the server cannot serve now; 57014 that a statement was canceled.
	if kind == nil && slices.Contains([]string{"08", "53", "57", "58"}, class) && code != "57014" {
		kind = driver.ErrUnavailable
	}
	err = fmt.Errorf("the database: %w", err)
	if kind == nil {
		return err // of a statement, not of the database
	}
	return &driver.Fault{Part: driver.Database, Kind: kind, Err: err}
}

// unreachable returns the error for a connection that failed or was lost, unless the server gave
// a reason that has a sentinel. It does not wrap err: an io.ErrUnexpectedEOF of the connection
// must not be taken for one of a caller's stream.
func unreachable(err error) error {
	kind := driver.ErrUnavailable
	if code, _ := sqlState(err); sentinels[code] != nil {
		kind = sentinels[code]
	}
	return &driver.Fault{Part: driver.Database, Kind: kind, Err: fmt.Errorf("the database: %v", err)}
}
