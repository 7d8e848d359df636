package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/volehq/vole"
)

// perDir is how many files a directory of a loaded volume has.
const perDir = 100

// benchBucketScale measures that an operation costs the same in a large volume as in a
// small one: here "floor" is Vole in a volume of 100 entries.
func benchBucketScale(e *env, c *cloud) error {
	s, err := c.openNamespace(e, 0)
	if err != nil {
		return err
	}
	entries := e.sizeFor(e.entries, 10_000)
	large, lfs, err1 := newFS(e.ctx, s, nil)
	little, sfs, err2 := newFS(e.ctx, s, nil)
	conn, err3 := pgx.Connect(e.ctx, c.pg.URL(fmt.Sprintf("bench%d", e.spaces)))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	defer conn.Close(e.ctx)
	start := time.Now()
	if err := errors.Join(loadRows(e.ctx, conn, little, perDir), loadRows(e.ctx, conn, large, entries)); err != nil {
		return err
	}
	e.logProgress("loaded %d entries in %.1f s", entries, time.Since(start).Seconds())
	if _, err := conn.Exec(e.ctx, `VACUUM ANALYZE`); err != nil {
		return err
	}
	for _, o := range scaleOperations(e, entries) {
		d, err := e.measureInRotation(e.sizeFor(60, 5), o.side(lfs), o.side(sfs))
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		e.addTime(fmt.Sprintf("%s, in a volume of %d entries beside 100", o.name, entries), d[0], d[1], 1.25)
	}
	return nil
}

// loadRows fills an empty volume with directories of perDir files, each of 100 bytes, by
// the database alone: half a minute for a million. One call for each would take the most
// of an hour, and the measurement is of the cost of the rows, not of their creation.
// The rows are those that WriteFile makes: an inode, a name, a chunk and a blob of a
// file; next_ino and used are what they would be.
func loadRows(ctx context.Context, conn *pgx.Conn, v *vole.Volume, files int) error {
	id := uuid.MustParse(v.ID())
	dirs := max(1, files/perDir)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // of no effect after the commit
	// Inode 1 is the root, which exists; then come the directories, then the files.
	const now = `(extract(epoch FROM now())::bigint * 1000000000)`
	for _, s := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev)
			SELECT $1, 1 + g, CASE WHEN g <= $2 THEN 16877 ELSE 33188 END, 0, 0, CASE WHEN g <= $2 THEN 2 ELSE 1 END,
				CASE WHEN g <= $2 THEN 0 ELSE 100 END, CASE WHEN g <= $2 THEN 0 ELSE 100 END, ` + now + `, ` + now + `, ` + now + `, 0
			FROM generate_series(1, $2::bigint + $3::bigint) g`, []any{id[:], dirs, files}},
		{`INSERT INTO dirents (vol, parent, name, ino)
			SELECT $1, 1, convert_to('dir' || lpad((g - 1)::text, 6, '0'), 'UTF8'), 1 + g FROM generate_series(1, $2::bigint) g`, []any{id[:], dirs}},
		{`INSERT INTO dirents (vol, parent, name, ino)
			SELECT $1, 2 + (g - 1) / $4::bigint, convert_to('file' || lpad(((g - 1) % $4)::text, 2, '0'), 'UTF8'), 1 + $2::bigint + g
			FROM generate_series(1, $3::bigint) g`, []any{id[:], dirs, files, perDir}},
		// A blob's id is the inode's number behind that of the volume, made a UUIDv7 by
		// its first half.
		{`INSERT INTO blobs (org, id, size, data, created)
			SELECT v.org, substring($1::bytea FROM 1 FOR 8) || decode('8' || lpad(to_hex(1 + $2::bigint + g), 15, '0'), 'hex'), 100,
				convert_to(repeat('vole', 25), 'UTF8'), ` + now + `
			FROM volumes v, generate_series(1, $3::bigint) g WHERE v.id = $1`, []any{id[:], dirs, files}},
		{`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos)
			SELECT $1, 1 + $2::bigint + g, 0, 100, v.org, substring($1::bytea FROM 1 FOR 8) || decode('8' || lpad(to_hex(1 + $2::bigint + g), 15, '0'), 'hex'), 0
			FROM volumes v, generate_series(1, $3::bigint) g WHERE v.id = $1`, []any{id[:], dirs, files}},
		{`UPDATE inodes SET nlink = 2 + $2 WHERE vol = $1 AND ino = 1`, []any{id[:], dirs}},
		{`UPDATE volumes SET next_ino = 2 + $2::bigint + $3::bigint, used = 100 * $3::bigint WHERE id = $1`, []any{id[:], dirs, files}},
	} {
		if _, err := tx.Exec(ctx, s.sql, s.args...); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

// operation is a call that is to cost the same in any volume.
type operation struct {
	name string
	side func(f *vole.FS) side
}

func scaleOperations(e *env, entries int) []operation {
	simple := func(fn func(f *vole.FS) error) func(f *vole.FS) side {
		return func(f *vole.FS) side { return singleCalls(func() error { return fn(f) }) }
	}
	// There and back is two calls, which are timed together.
	renamed := func(from, to string) func(f *vole.FS) error {
		return func(f *vole.FS) error {
			if err := f.Rename(e.ctx, from, to, vole.RenameOptions{}); err != nil {
				return err
			}
			return f.Rename(e.ctx, to, from, vole.RenameOptions{})
		}
	}
	const dir, file = "dir000000", "dir000000/file50"
	return []operation{
		{"stat", simple(func(f *vole.FS) error { _, err := f.Stat(e.ctx, file); return err })},
		{"4 KiB write", simple(func(f *vole.FS) error { return f.WriteFile(e.ctx, dir+"/new", small, 0o644) })},
		{"4 KiB read", simple(func(f *vole.FS) error {
			got, err := f.ReadFile(e.ctx, dir+"/new")
			return compareBytes(got, small, err)
		})},
		{"open, write at, sync, close", simple(func(f *vole.FS) error {
			h, err := f.Open(e.ctx, dir+"/new", vole.OpenOptions{Write: true})
			if err != nil {
				return err
			}
			_, err = h.WriteAt(e.ctx, small[:100], 50)
			return errors.Join(err, h.Sync(e.ctx), h.Close())
		})},
		{"make and remove a file", simple(func(f *vole.FS) error {
			return errors.Join(f.WriteFile(e.ctx, dir+"/gone", small, 0o644), f.Remove(e.ctx, dir+"/gone"))
		})},
		{"rename of a file, twice", simple(renamed(file, dir+"/other"))},
		{"rename of a directory, twice", simple(renamed(dir, "other"))},
		{"list of 100 entries", simple(func(f *vole.FS) error {
			list, err := f.ReadDir(e.ctx, dir)
			if err == nil && len(list) < perDir {
				err = fmt.Errorf("listed %d entries", len(list))
			}
			return err
		})},
		{"copy of a directory of 100 files", func(f *vole.FS) side {
			return func(n int) (time.Duration, error) {
				n = max(1, n/10)
				total := time.Duration(0)
				for range n {
					d, err := timeCalls(1, func(int) error { return f.Copy(e.ctx, dir, "copy", vole.CopyOptions{}) })
					if err = errors.Join(err, f.RemoveAll(e.ctx, "copy")); err != nil {
						return 0, err
					}
					total += d
				}
				return 10 * total, nil // rotate divides by all of n
			}
		}},
	}
}
