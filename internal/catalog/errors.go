package catalog

import (
	"errors"
	"fmt"

	"github.com/volehq/vole/driver"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Translate turns an error of SQLite into one that matches a sentinel of driver.
// https://www.sqlite.org/rescode.html
func Translate(err error) error {
	var kind error
	extended := errorCode(err)
	code := extended & 0xff
	switch extended {
	case sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_IN_PAGE:
		// The shared memory of the log is a file that could not grow, or got no block for a
		// page that was written for the first time.
		code = sqlite3.SQLITE_FULL
		err = fmt.Errorf("the disk is full or fails: %w", err)
	}
	switch code {
	case sqlite3.SQLITE_FULL:
		kind = driver.ErrNoSpace
	case sqlite3.SQLITE_READONLY:
		kind = driver.ErrReadOnly
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		kind = driver.ErrPermission
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		kind = driver.ErrCorrupt
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL:
		return &driver.Fault{Part: driver.Database, Err: err} // of no kind, and no fault of the statement
	default:
		return err
	}
	return &driver.Fault{Part: driver.Database, Kind: kind, Err: fmt.Errorf("catalog: %w", err)}
}

// IsUnique reports whether a statement failed because a unique value exists already.
func IsUnique(err error) bool {
	code := errorCode(err)
	return code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}

// IsForeignKey reports whether a statement failed because a row is referred to, or refers to one
// that does not exist.
func IsForeignKey(err error) bool { return errorCode(err) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY }

// isBusy reports whether another process has locked the database.
func isBusy(err error) bool { return errorCode(err)&0xff == sqlite3.SQLITE_BUSY }

// errorCode returns the extended code of an error of SQLite; SQLITE_OK for other errors.
func errorCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return sqlite3.SQLITE_OK
}
