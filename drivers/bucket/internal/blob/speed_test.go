package blob

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// BenchmarkS3 compares this package with the plain client, 8 MiB an object and
// 128 MiB in parts.
func BenchmarkS3(b *testing.B) {
	s := openTestS3(b, nil)
	raw, err := minio.New(s.client.EndpointURL().Host, &minio.Options{
		Creds: credentials.NewStaticV4(s.opts.AccessKey, s.opts.SecretKey, ""), TrailingHeaders: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	data := random(8 << 20)
	sum := sumOf(data)
	n := 0
	key := func() string { n++; return fmt.Sprintf("o/%d", n) }
	put := func(name string, f func(key string) error) {
		b.Run("put/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				k := key()
				if err := f(k); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				s.Delete(b.Context(), k)
				b.StartTimer()
			}
		})
	}
	client := func(opts minio.PutObjectOptions) func(string) error {
		return func(key string) error {
			_, err := raw.PutObject(b.Context(), s.opts.Bucket, s.objectName(key), bytes.NewReader(data), int64(len(data)), opts)
			return err
		}
	}
	put("blob", func(key string) error { return s.Put(b.Context(), key, data, sum) })
	put("client signing chunks", client(minio.PutObjectOptions{}))
	put("client unsigned", client(minio.PutObjectOptions{DisableContentSha256: true}))

	large := random(128 << 20)
	data = large // what follows says its rate
	put("blob in parts", func(key string) error { return s.Write(b.Context(), key, bytes.NewReader(large)) })
	put("client in parts", client(minio.PutObjectOptions{DisableContentSha256: true}))

	data = data[:8<<20]
	mustPut(b, s, "o/get", data)
	p := make([]byte, len(data))
	get := func(name string, f func() error) {
		b.Run("get/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	get("blob", func() error { return s.ReadAt(b.Context(), "o/get", p, 0) })
	get("client", func() error {
		o, err := raw.GetObject(b.Context(), s.opts.Bucket, s.objectName("o/get"), minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		_, err = io.ReadFull(o, p)
		return err
	})
	get("blob 16 at once", func() error {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				q := make([]byte, 8<<20/16)
				if err := s.ReadAt(b.Context(), "o/get", q, 0); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		return nil
	})
}

// BenchmarkDir is the directory, 8 MiB an object, synced.
func BenchmarkDir(b *testing.B) {
	s := openTestDir(b, b.TempDir())
	data := random(8 << 20)
	sum := sumOf(data)
	b.Run("put", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := s.Put(b.Context(), "o/a/xx/1", data, sum); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Delete(b.Context(), "o/a/xx/1")
			b.StartTimer()
		}
	})
	mustPut(b, s, "o/get", data)
	b.Run("get", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := s.ReadAt(b.Context(), "o/get", data, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}
