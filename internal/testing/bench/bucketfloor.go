package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

// The floor is the cost of the same effect with nothing but the client of each server.

const (
	// partSize is that of parallel parts and of Vole's own objects.
	partSize = 8 << 20
	// partsAtOnce is how many parts of one file Vole puts at once.
	partsAtOnce = 4
)

var objects atomic.Int64

// newKey returns a key of the shape that Vole's have: versitygw makes directories of it.
func newKey() string {
	n := objects.Add(1)
	return fmt.Sprintf("o/%032x/b/%02x/%032x", 1, n*149%256, n)
}

// putObject makes an object with one request.
func (c *cloud) putObject(ctx context.Context, key string, data []byte, opts minio.PutObjectOptions) error {
	_, err := c.client.PutObject(ctx, "floor", key, bytes.NewReader(data), int64(len(data)), opts)
	return err
}

// getObject reads an object, or a part of it, with one request.
func (c *cloud) getObject(ctx context.Context, key string, off, n int64) error {
	opts := minio.GetObjectOptions{}
	if off > 0 || n > 0 {
		if err := opts.SetRange(off, off+n-1); err != nil {
			return err
		}
	}
	r, info, _, err := c.core.GetObject(ctx, "floor", key, opts)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, min(chunk, max(n, 4096))))
	if err == nil && got != info.Size {
		err = fmt.Errorf("got %d bytes of %d", got, info.Size)
	}
	return err
}

// insertRow commits one row.
func (c *cloud) insertRow(ctx context.Context, data []byte) ([]byte, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	_, err = c.db.Exec(ctx, `INSERT INTO files (id, size, mode, mtime, data) VALUES ($1, $2, $3, $4, $5)`,
		u[:], len(data), 0o100644, time.Now().UnixNano(), data)
	return u[:], err
}

// findRow reads one row by its key.
func (c *cloud) findRow(ctx context.Context, id []byte) error {
	var size, mode, mtime int64
	var data []byte
	return c.db.QueryRow(ctx, `SELECT size, mode, mtime, data FROM files WHERE id = $1`, id).Scan(&size, &mode, &mtime, &data)
}

// putParts makes one object in parallel parts, as the client does with options.
func (c *cloud) putParts(ctx context.Context, key string, data []byte) error {
	return c.putObject(ctx, key, data, minio.PutObjectOptions{PartSize: partSize, NumThreads: partsAtOnce, DisableContentSha256: true})
}

// putObjects makes an object of each part.
func (c *cloud) putObjects(ctx context.Context, key string, data []byte) error {
	return inParts(ctx, int64(len(data)), func(ctx context.Context, off, n int64) error {
		return c.putObject(ctx, fmt.Sprintf("%s.%d", key, off), data[off:off+n], minio.PutObjectOptions{DisableContentSha256: true})
	})
}

// getParts reads one object by parallel requests.
func (c *cloud) getParts(ctx context.Context, key string, size int64) error {
	return inParts(ctx, size, func(ctx context.Context, off, n int64) error { return c.getObject(ctx, key, off, n) })
}

func inParts(ctx context.Context, size int64, fn func(ctx context.Context, off, n int64) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for off := int64(0); off < size; off += partSize {
		g.Go(func() error { return fn(ctx, off, min(partSize, size-off)) })
	}
	return g.Wait()
}

// copyRows copies rows of the floor's table in one commit, as a clone does.
func (c *cloud) copyRows(ctx context.Context, n int) error {
	_, err := c.db.Exec(ctx, `INSERT INTO files (id, size, mode, mtime)
		SELECT decode(md5(random()::text), 'hex'), size, mode, mtime FROM files LIMIT $1`, n)
	return err
}

// fillRows makes the floor's table have at least n rows.
func (c *cloud) fillRows(ctx context.Context, n int) error {
	_, err := c.db.Exec(ctx, `INSERT INTO files (id, size, mode, mtime)
		SELECT decode(md5(random()::text), 'hex'), g, 33188, 0 FROM generate_series(1, $1::bigint) g`, n)
	return err
}

// listRows reads all entries of a volume's largest directory with one query, past Vole:
// the same rows in the same order.
func listRows(ctx context.Context, db *pgx.Conn, vol []byte) (n int, err error) {
	rows, err := db.Query(ctx, `SELECT e.name, i.ino, i.mode, i.uid, i.gid, i.nlink, i.size, i.alloc, i.atime, i.mtime, i.ctime, i.rdev
		FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
		WHERE e.vol = $1 AND e.parent <> 1 ORDER BY e.name`, vol)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var name []byte
	var x [11]int64
	for ; rows.Next(); n++ {
		if err := rows.Scan(&name, &x[0], &x[1], &x[2], &x[3], &x[4], &x[5], &x[6], &x[7], &x[8], &x[9], &x[10]); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}
