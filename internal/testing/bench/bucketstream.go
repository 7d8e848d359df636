package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole"
)

// benchBucketStream measures one large file, each way.
func benchBucketStream(e *env, c *cloud) error {
	s, err := c.openNamespace(e, 0)
	if err != nil {
		return err
	}
	_, f, err := newFS(e.ctx, s, nil)
	if err != nil {
		return err
	}
	size := int64(e.sizeFor(256<<20, 32<<20))
	// Bytes that no one can guess, in memory for both sides.
	data := make([]byte, size)
	for i := 0; i < len(data); i += 16 {
		u := uuid.New()
		copy(data[i:], u[:])
	}
	key := newKey()
	d, err := e.measureInRotation(1,
		singleCalls(func() error {
			_, err := f.WriteFrom(e.ctx, "stream", bytes.NewReader(data), vole.WriteOptions{Size: size})
			return err
		}),
		singleCalls(func() error { return c.putObject(e.ctx, key, data, minio.PutObjectOptions{}) }),
		singleCalls(func() error { return c.putParts(e.ctx, key, data) }),
		singleCalls(func() error { return c.putObjects(e.ctx, key, data) }))
	if err != nil {
		return err
	}
	e.addFastest(fmt.Sprintf("write of %d MiB, beside S3", size>>20), size, d, "one PutObject", "PutObject in parallel parts of 8 MiB", "parallel objects of 8 MiB")
	d, err = e.measureInRotation(1,
		singleCalls(func() error { return (&files{FS: f}).readStream(e, size) }),
		singleCalls(func() error { return c.getObject(e.ctx, key, 0, 0) }),
		singleCalls(func() error { return c.getParts(e.ctx, key, size) }))
	if err == nil {
		e.addFastest(fmt.Sprintf("read of %d MiB, beside S3", size>>20), size, d, "one GetObject", "parallel ranges of 8 MiB")
	}
	return err
}

// addFastest adds a row of Vole's rate, d[0], beside the fastest of the floors.
func (e *env) addFastest(what string, size int64, d []time.Duration, floors ...string) {
	best, note := 1, ""
	for i := range floors {
		if d[i+1] < d[best] {
			best = i + 1
		}
	}
	for i, name := range floors {
		note += fmt.Sprintf("; %s %.0f", name, float64(size)/1e6/d[i+1].Seconds())
	}
	e.addStream(what, size, d[0], d[best], 0.85).Note = "floor: " + floors[best-1] + note
}
