package catalog

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/flock"
)

// location is where a database is: at a path, or in an open directory.
type location struct {
	path string   // for SQLite
	vfs  string   // the file system of SQLite that opens path; "": its own
	dir  *os.File // the directory, owned; nil: by path
}

// baseName is the name of the database in its directory.
func (l location) baseName() string { return filepath.Base(l.path) }

// closeDirectory closes the directory, if there is an open one.
func (l location) closeDirectory() {
	if l.dir != nil {
		l.dir.Close()
	}
}

// createDatabase makes an empty database file that only its owner can read; SQLite gives the
// files beside it the same mode.
func (l location) createDatabase() error {
	if l.dir == nil {
		return durable.CreatePrivate(l.path)
	}
	f, err := beneath.OpenFile(l.dir, l.baseName(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), l.dir.Sync())
}

// checkExists returns fs.ErrNotExist if there is no database.
func (l location) checkExists() error {
	if l.dir == nil {
		_, err := os.Stat(l.path)
		return err
	}
	_, err := beneath.Lstat(l.dir, l.baseName())
	return err
}

// readFile returns the content of one of the files of the database.
func (l location) readFile(suffix string) ([]byte, error) {
	if l.dir == nil {
		return os.ReadFile(l.path + suffix)
	}
	f, err := beneath.OpenFile(l.dir, l.baseName()+suffix, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// lockSchema waits until no other process changes the schema, and keeps others waiting until
// unlock.
func (l location) lockSchema(ctx context.Context) (unlock func(), err error) {
	if l.dir != nil {
		lock, err := flock.WaitIn(ctx, l.dir, "locks/schema")
		return func() { _ = lock.Release() }, err
	}
	lock, err := flock.Wait(ctx, l.path+".lock")
	return func() {
		_ = os.Remove(l.path + ".lock") // waiters make a new file, see flock.Try
		_ = lock.Release()
	}, err
}

// dataSourceName returns the URI that modernc.org/sqlite takes; each new connection runs the
// pragmas. https://www.sqlite.org/uri.html
func (l location) dataSourceName(mode string, pragmas ...string) string {
	q := url.Values{"_pragma": pragmas}
	if mode != "" {
		q.Set("mode", mode)
	}
	if l.vfs != "" {
		q.Set("vfs", l.vfs)
	}
	u := url.URL{Scheme: "file", Path: l.path, RawQuery: q.Encode()}
	return u.String()
}
