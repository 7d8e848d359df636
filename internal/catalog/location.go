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
	const flag = os.O_RDWR | os.O_CREATE | os.O_EXCL
	var f *os.File
	var err error
	if l.dir != nil {
		f, err = beneath.OpenFile(l.dir, l.baseName(), flag, 0o600)
	} else {
		f, err = os.OpenFile(l.path, flag, 0o600)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if l.dir != nil {
		return l.dir.Sync()
	}
	return durable.SyncDir(filepath.Dir(l.path))
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

// lockSchema waits until no other process changes the schema, and keeps others waiting until the
// lock is released.
func (l location) lockSchema(ctx context.Context) (*flock.Lock, error) {
	if l.dir != nil {
		return flock.WaitIn(ctx, l.dir, "locks/schema")
	}
	return flock.Wait(ctx, filepath.Join(filepath.Dir(l.path), "locks", "schema"))
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
