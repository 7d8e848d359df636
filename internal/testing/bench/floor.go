package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/volehq/vole"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// columns are those that make up a volume's description.
const columns = `id, name, kind, state, quota, capacity, labels, created, updated, used, stale, counted`

// floorHome is the simplest replacement of Vole: a directory per volume and a table
// with the same columns and indices, in a transaction per change.
type floorHome struct {
	dir            string
	db             *sql.DB
	insert, remove *sql.Stmt
}

// newFloorHome makes one whose schema is that of h's catalog.
func newFloorHome(dir string, h *home) (*floorHome, error) {
	if err := os.MkdirAll(filepath.Join(dir, "volumes"), 0o700); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "catalog.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	f := &floorHome{dir: dir, db: db}
	if err := f.copySchema(h); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if f.insert, err = db.Prepare(`INSERT INTO volumes (` + columns + `) VALUES (?,?,'dir','ready',0,0,'',?,?,0,0,0)`); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if f.remove, err = db.Prepare(`DELETE FROM volumes WHERE id = ?`); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return f, nil
}

func (f *floorHome) copySchema(h *home) error {
	src, err := openCatalog(h)
	if err != nil {
		return err
	}
	defer src.Close()
	rows, err := src.Query(`SELECT sql FROM sqlite_schema WHERE tbl_name = 'volumes' AND sql IS NOT NULL ORDER BY rowid`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var ddl string
		if err := rows.Scan(&ddl); err != nil {
			return err
		}
		if _, err := f.db.Exec(ddl); err != nil {
			return fmt.Errorf("%s: %w", ddl, err)
		}
	}
	return rows.Err()
}

// openCatalog opens a home's own catalog for reading.
func openCatalog(h *home) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+filepath.Join(h.path, "catalog.db")+"?_pragma=query_only(1)&_pragma=busy_timeout(10000)")
}

func (f *floorHome) close() error { return f.db.Close() }

func (f *floorHome) volume(id string) string { return filepath.Join(f.dir, "volumes", id) }

// create makes a volume: a directory, an fsync of its parent, a durable row.
func (f *floorHome) create(name string) (id string, err error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	id = u.String()
	vol := f.volume(id)
	if err := os.Mkdir(vol, 0o700); err != nil {
		return "", err
	}
	if err := syncDir(filepath.Dir(vol)); err != nil {
		return "", err
	}
	sec, nsec := u.Time().UnixTime()
	at := sec*1e9 + nsec
	_, err = f.insert.Exec(id, name, at, at)
	return id, err
}

// delete removes a volume: its files, durably, then its row, durably.
func (f *floorHome) delete(id string) error {
	vol := f.volume(id)
	if err := os.RemoveAll(vol); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(vol)); err != nil {
		return err
	}
	_, err := f.remove.Exec(id)
	return err
}

// row is what scanning a volume's row fills.
type row struct {
	id, name, kind, state, labels                           string
	quota, capacity, created, updated, used, stale, counted int64
}

func (r *row) scan(s interface{ Scan(...any) error }) error {
	return s.Scan(&r.id, &r.name, &r.kind, &r.state, &r.quota, &r.capacity, &r.labels,
		&r.created, &r.updated, &r.used, &r.stale, &r.counted)
}

// scanAll reads all ready volumes of a catalog, newest first.
func scanAll(db *sql.DB) (n int, err error) {
	rows, err := db.Query(`SELECT ` + columns + ` FROM volumes WHERE state = 'ready' ORDER BY id DESC`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var r row
	for ; rows.Next(); n++ {
		if err := r.scan(rows); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeAtomic replaces a file so that others see the old or the new, durably; write
// fills the temporary file.
func writeAtomic(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// hostPath returns where a volume's files lie on this host.
func hostPath(e *env, v *vole.Volume) (string, error) {
	att, err := v.Attach(e.ctx, vole.AttachOptions{Holder: "bench", HostPath: true, ReadOnly: true})
	if err != nil {
		return "", err
	}
	return att.Path(), att.Detach(e.ctx)
}
