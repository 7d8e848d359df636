package main

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole"
)

// both is two namespaces: small files in the database, as by default, and in objects.
type both struct {
	inline, object *vole.Store
}

func (e *env) openBothNamespaces(c *cloud) (b both, err error) {
	if b.inline, err = c.openNamespace(e, 0); err != nil {
		return b, err
	}
	b.object, err = c.openNamespace(e, -1)
	return b, err
}

// volumePerClient makes a volume for each client, filled alike.
func volumePerClient(e *env, s *vole.Store, fill func(f *vole.FS) error) ([]*vole.FS, error) {
	var list []*vole.FS
	for range clients {
		_, f, err := newFS(e.ctx, s, fill)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

var small = bytes.Repeat([]byte("vole"), 1024)

// putInsert is a floor: a PUT, and the commit of a row.
func (c *cloud) putInsert(e *env) error {
	if err := c.putObject(e.ctx, newKey(), small, minio.PutObjectOptions{}); err != nil {
		return err
	}
	_, err := c.insertRow(e.ctx, nil)
	return err
}

func benchBucketWrite(e *env, c *cloud) error {
	b, err := e.openBothNamespaces(c)
	if err != nil {
		return err
	}
	var inline, object []*vole.FS
	if inline, err = volumePerClient(e, b.inline, nil); err == nil {
		object, err = volumePerClient(e, b.object, nil)
	}
	if err != nil {
		return err
	}
	write := func(f *vole.FS, client int) error {
		return f.WriteFile(e.ctx, fmt.Sprintf("dir/file%d", client), small, 0o644)
	}
	insert := func(int) error { _, err := c.insertRow(e.ctx, small); return err }
	add := func(what string, d []time.Duration) {
		e.addTime("4 KiB write, object, "+what+", beside PUT + INSERT", d[1], d[2], 1.6)
		e.addTime("4 KiB write, inline, "+what+", beside PUT + INSERT", d[0], d[2], 1.6)
		e.noteLastRow("%.2f of an INSERT of 4 KiB alone", ratio(d[0], d[3]))
	}
	d, err := e.measureInRotation(e.sizeFor(100, 10),
		singleCalls(func() error { return write(inline[0], 0) }), singleCalls(func() error { return write(object[0], 0) }),
		singleCalls(func() error { return c.putInsert(e) }), singleCalls(func() error { return insert(0) }))
	if err != nil {
		return err
	}
	add("1 client", d)
	n := e.sizeFor(50, 5) * clients
	d, err = e.measureInRotation(n,
		concurrentCalls(func(i int) error { return write(inline[i], i) }), concurrentCalls(func(i int) error { return write(object[i], i) }),
		concurrentCalls(func(int) error { return c.putInsert(e) }), concurrentCalls(insert))
	if err != nil {
		return err
	}
	add("16 clients", d)
	// The lock of a volume's row lets one commit after another: 16 do not share a sync.
	d, err = e.measureInRotation(n,
		concurrentCalls(func(i int) error { return write(inline[0], i) }), concurrentCalls(func(i int) error { return write(object[0], i) }),
		concurrentCalls(func(int) error { return c.putInsert(e) }), singleCalls(func() error { return insert(0) }))
	if err == nil {
		e.addTime("4 KiB write, object, 16 clients in one volume, beside 16 PUT + INSERT", d[1], d[2], 0)
		e.noteLastRow("%.2f of one client's INSERTs", ratio(d[1], d[3]))
		e.addTime("4 KiB write, inline, 16 clients in one volume, beside 16 PUT + INSERT", d[0], d[2], 0)
		e.noteLastRow("%.2f of one client's INSERTs", ratio(d[0], d[3]))
	}
	return err
}

func benchBucketRead(e *env, c *cloud) error {
	b, err := e.openBothNamespaces(c)
	if err != nil {
		return err
	}
	fill := func(f *vole.FS) error { return f.WriteFile(e.ctx, "dir/file", small, 0) }
	_, inline, err1 := newFS(e.ctx, b.inline, fill)
	_, object, err2 := newFS(e.ctx, b.object, fill)
	key := newKey()
	id, err3 := c.insertRow(e.ctx, nil)
	full, err4 := c.insertRow(e.ctx, small)
	if err := errors.Join(err1, err2, err3, err4, c.putObject(e.ctx, key, small, minio.PutObjectOptions{})); err != nil {
		return err
	}
	read := func(f *vole.FS) func(int) error {
		return func(int) error { got, err := f.ReadFile(e.ctx, "dir/file"); return compareBytes(got, small, err) }
	}
	stat := func(int) error { _, err := inline.Stat(e.ctx, "dir/file"); return err }
	find := func(id []byte) func(int) error { return func(int) error { return c.findRow(e.ctx, id) } }
	get := func(int) error { return errors.Join(c.findRow(e.ctx, id), c.getObject(e.ctx, key, 0, 0)) }
	for _, m := range []struct {
		name string
		n    int
		side func(func(int) error) side
	}{
		{"1 client", e.sizeFor(200, 20), func(fn func(int) error) side { return singleCalls(func() error { return fn(0) }) }},
		{"16 clients", e.sizeFor(50, 5) * clients, concurrentCalls},
	} {
		d, err := e.measureInRotation(m.n, m.side(stat), m.side(read(inline)), m.side(read(object)), m.side(find(id)), m.side(find(full)), m.side(get))
		if err != nil {
			return err
		}
		e.addTime("stat, "+m.name+", beside SELECT", d[0], d[3], 1.5)
		e.addTime("4 KiB read, object, "+m.name+", beside SELECT + GET", d[2], d[5], 1.5)
		e.addTime("4 KiB read, inline, "+m.name+", beside SELECT + GET", d[1], d[5], 1.5)
		e.noteLastRow("%.2f of a SELECT of 4 KiB alone", ratio(d[1], d[4]))
	}
	return nil
}

func benchBucketRename(e *env, c *cloud) error {
	b, err := c.openNamespace(e, 0)
	if err != nil {
		return err
	}
	list, err := volumePerClient(e, b, func(f *vole.FS) error {
		return errors.Join(f.Mkdir(e.ctx, "dir", 0o755), f.WriteFile(e.ctx, "dir/a", small, 0))
	})
	if err != nil {
		return err
	}
	there := make([]bool, clients)
	rename := func(i int) error {
		from, to := "dir/a", "dir/b"
		if there[i] {
			from, to = to, from
		}
		there[i] = !there[i]
		return list[i].Rename(e.ctx, from, to, vole.RenameOptions{})
	}
	insert := func(int) error { _, err := c.insertRow(e.ctx, nil); return err }
	d, err := e.measureInRotation(e.sizeFor(100, 10), singleCalls(func() error { return rename(0) }), singleCalls(func() error { return insert(0) }))
	if err != nil {
		return err
	}
	e.addTime("rename of a file, 1 client, beside INSERT", d[0], d[1], 1.6)
	d, err = e.measureInRotation(e.sizeFor(50, 5)*clients, concurrentCalls(rename), concurrentCalls(insert))
	if err == nil {
		e.addTime("rename of a file, 16 clients, beside INSERT", d[0], d[1], 1.6)
	}
	return err
}

// fillMany makes a directory of n files of data, several at a time.
func fillMany(e *env, f *vole.FS, dir string, n int, data []byte) error {
	if err := f.MkdirAll(e.ctx, dir, 0o755); err != nil {
		return err
	}
	return parallel(clients, func(c int) error {
		for i := c; i < n; i += clients {
			if err := f.WriteFile(e.ctx, fmt.Sprintf("%s/file-%06d", dir, i), data, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// benchBucketTrees measures what concerns a whole directory, and that it costs the same
// however much the files hold.
func benchBucketTrees(e *env, c *cloud) error {
	s, err := c.openNamespace(e, 0)
	if err != nil {
		return err
	}
	n := e.sizeFor(10_000, 500)
	light, heavy := &tree{}, &tree{}
	for _, t := range []struct {
		*tree
		data []byte
	}{{light, make([]byte, 100)}, {heavy, bytes.Repeat([]byte("0123456789"), 10_000)}} {
		t.vol, t.fs, err = newFS(e.ctx, s, func(f *vole.FS) error { return fillMany(e, f, "many", n, t.data) })
		if err != nil {
			return err
		}
		t.at = "many"
	}
	if err := c.fillRows(e.ctx, n); err != nil {
		return err
	}
	if err := e.measureListing(c, light, n); err != nil {
		return err
	}
	insert := singleCalls(func() error { _, err := c.insertRow(e.ctx, nil); return err })
	d, err := e.measureInRotation(e.sizeFor(50, 5), singleCalls(func() error { return light.rename(e) }), singleCalls(func() error { return heavy.rename(e) }), insert)
	if err != nil {
		return err
	}
	e.addTime(fmt.Sprintf("rename of a directory of %d files, beside INSERT", n), d[0], d[2], 1.6)
	e.addTime(fmt.Sprintf("rename of a directory, %d files of 100 kB beside 100 B", n), d[1], d[0], 1.2)
	rows := singleCalls(func() error { return c.copyRows(e.ctx, n) })
	d, err = e.measureInRotation(1, light.clone(e), heavy.clone(e), rows)
	if err != nil {
		return err
	}
	e.addTime(fmt.Sprintf("clone of a volume of %d files, beside INSERT of %d rows", n, n), d[0], d[2], 0)
	e.addTime(fmt.Sprintf("clone of a volume, %d files of 100 kB beside 100 B", n), d[1], d[0], 1.2)
	d, err = e.measureInRotation(1, light.copy(e), heavy.copy(e), rows)
	if err == nil {
		e.addTime(fmt.Sprintf("copy of a directory of %d files, beside INSERT of %d rows", n, n), d[0], d[2], 0)
		e.addTime(fmt.Sprintf("copy of a directory, %d files of 100 kB beside 100 B", n), d[1], d[0], 1.2)
	}
	return err
}

// measureListing measures a listing beside one query for the very same rows.
func (e *env) measureListing(c *cloud, t *tree, n int) error {
	conn, err := pgx.Connect(e.ctx, c.pg.URL(fmt.Sprintf("bench%d", e.spaces)))
	if err != nil {
		return err
	}
	defer conn.Close(e.ctx)
	vol := uuid.MustParse(t.vol.ID())
	enough := func(got int, err error) error {
		if err == nil && got != n {
			err = fmt.Errorf("listed %d entries of %d", got, n)
		}
		return err
	}
	d, err := e.measureInRotation(1,
		singleCalls(func() error { list, err := t.fs.ReadDir(e.ctx, "many"); return enough(len(list), err) }),
		singleCalls(func() error { got, err := listRows(e.ctx, conn, vol[:]); return enough(got, err) }))
	if err == nil {
		e.addTime(fmt.Sprintf("list of %d entries, sorted, beside one SELECT", n), d[0], d[1], 1.5)
	}
	return err
}

// tree is a volume with one large directory.
type tree struct {
	vol *vole.Volume
	fs  *vole.FS
	at  string // where the directory is
}

func (t *tree) rename(e *env) error {
	to := "many"
	if t.at == to {
		to = "other"
	}
	err := t.fs.Rename(e.ctx, t.at, to, vole.RenameOptions{})
	t.at = to
	return err
}

// clone times a clone, and removes it outside of the time.
func (t *tree) clone(e *env) side {
	return func(int) (time.Duration, error) {
		start := time.Now()
		v, err := t.vol.Clone(e.ctx, newName(), vole.Spec{})
		d := time.Since(start)
		if err == nil {
			err = v.Remove(e.ctx)
		}
		return d, err
	}
}

func (t *tree) copy(e *env) side {
	return func(int) (time.Duration, error) {
		start := time.Now()
		err := t.fs.Copy(e.ctx, t.at, "copy", vole.CopyOptions{})
		d := time.Since(start)
		if err == nil {
			err = t.fs.RemoveAll(e.ctx, "copy")
		}
		return d, err
	}
}
