package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/volehq/vole"
)

// benchBucketDir measures a namespace of one host, SQLite and a directory, beside plain
// files on the same disk.
func benchBucketDir(e *env) error {
	inline, _, err1 := e.openDir(0)
	object, _, err2 := e.openDir(-1)
	plain, err3 := os.MkdirTemp(e.dir, "plain-")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	_, in, err1 := newFS(e.ctx, inline, nil)
	_, ob, err2 := newFS(e.ctx, object, nil)
	if err := errors.Join(err1, err2, os.Mkdir(filepath.Join(plain, "dir"), 0o755)); err != nil {
		return err
	}
	file := filepath.Join(plain, "dir", "file")
	atomic := func(data []byte) side {
		return singleCalls(func() error {
			return writeAtomic(file, func(t *os.File) error { _, err := t.Write(data); return err })
		})
	}
	write := func(f *vole.FS) side {
		return singleCalls(func() error { return f.WriteFile(e.ctx, "dir/file", small, 0o644) })
	}
	d, err := e.measureInRotation(e.sizeFor(100, 10), write(in), write(ob), atomic(small))
	if err != nil {
		return err
	}
	e.addTime("one host: 4 KiB write, inline, beside a durable file", d[0], d[2], 1.6)
	e.addTime("one host: 4 KiB write, object, beside a durable file", d[1], d[2], 0)
	read := func(f *vole.FS) side {
		return singleCalls(func() error { got, err := f.ReadFile(e.ctx, "dir/file"); return compareBytes(got, small, err) })
	}
	d, err = e.measureInRotation(e.sizeFor(1000, 50), read(in), read(ob),
		singleCalls(func() error { got, err := os.ReadFile(file); return compareBytes(got, small, err) }),
		singleCalls(func() error { _, err := in.Stat(e.ctx, "dir/file"); return err }),
		singleCalls(func() error { _, err := os.Stat(file); return err }))
	if err != nil {
		return err
	}
	e.addTime("one host: 4 KiB read, inline, beside os.ReadFile", d[0], d[2], 0)
	e.addTime("one host: 4 KiB read, object, beside os.ReadFile", d[1], d[2], 0)
	e.addTime("one host: stat, beside os.Stat", d[3], d[4], 0)
	size := int64(e.sizeFor(256<<20, 32<<20))
	d, err = e.measureInRotation(1,
		singleCalls(func() error {
			_, err := in.WriteFrom(e.ctx, "stream", newPattern(size), vole.WriteOptions{Size: size})
			return err
		}),
		singleCalls(func() error {
			return writeAtomic(file, func(t *os.File) error { return plainCopy(t, newPattern(size)) })
		}))
	if err != nil {
		return err
	}
	e.addStream(fmt.Sprintf("one host: write of %d MiB, beside a durable file", size>>20), size, d[0], d[1], 0.85)
	d, err = e.measureInRotation(1, singleCalls(func() error { return (&files{FS: in}).readStream(e, size) }), singleCalls(func() error {
		r, err := os.Open(file)
		if err != nil {
			return err
		}
		defer r.Close()
		return plainCopy(&sink{}, r)
	}))
	if err == nil {
		e.addStream(fmt.Sprintf("one host: read of %d MiB, beside a file", size>>20), size, d[0], d[1], 0)
	}
	return err
}
