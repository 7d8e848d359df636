package servers_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"

	"github.com/volehq/vole/internal/testing/servers"
)

// TestPG: each caller gets an empty database of its own, with durable commits.
func TestPG(t *testing.T) {
	ctx := t.Context()
	for range 2 {
		conn, err := pgx.Connect(ctx, servers.PG(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "CREATE TABLE t (i int)"); err != nil {
			t.Fatal(err)
		}
		for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
			var value string
			if err := conn.QueryRow(ctx, "SHOW "+setting).Scan(&value); err != nil || value != "on" {
				t.Errorf("%s is %q, %v", setting, value, err)
			}
		}
	}
}

// TestPostgresCrash: what was committed is there after a crash.
func TestPostgresCrash(t *testing.T) {
	ctx := t.Context()
	p, err := servers.StartPostgres(ctx, t.TempDir())
	servers.Check(t, err)
	defer p.Close()
	if err := p.CreateDatabase("d"); err != nil {
		t.Fatal(err)
	}
	url := p.URL("d")
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE t AS SELECT 42 AS i"); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err == nil {
		t.Error("a running server was started")
	}
	if err := p.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Ping(ctx); err == nil {
		t.Error("a stopped server answers")
	}
	if _, err := pgx.Connect(ctx, url); err == nil {
		t.Error("a stopped server takes connections")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	again, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(ctx)
	var i int
	if err := again.QueryRow(ctx, "SELECT i FROM t").Scan(&i); err != nil || i != 42 {
		t.Errorf("after the crash: %d, %v", i, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func client(t *testing.T, c servers.S3Config) *minio.Client {
	t.Helper()
	cl, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func put(t *testing.T, cl *minio.Client, bucket, key string, data []byte, opts minio.PutObjectOptions) error {
	t.Helper()
	_, err := cl.PutObject(t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), opts)
	return err
}

func get(t *testing.T, cl *minio.Client, bucket, key string) ([]byte, error) {
	t.Helper()
	o, err := cl.GetObject(t.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

// TestS3: buckets are the caller's own, signatures count, conditional puts hold.
func TestS3(t *testing.T) {
	c, other := servers.S3(t), servers.S3(t)
	if c.Bucket == other.Bucket || c.Endpoint != other.Endpoint {
		t.Errorf("two buckets: %+v, %+v", c, other)
	}
	cl := client(t, c)
	once := minio.PutObjectOptions{}
	once.SetMatchETagExcept("*")
	if err := put(t, cl, c.Bucket, "a/b", []byte("first"), once); err != nil {
		t.Fatal(err)
	}
	err := put(t, cl, c.Bucket, "a/b", []byte("second"), once)
	if code := minio.ToErrorResponse(err).Code; code != "PreconditionFailed" {
		t.Errorf("second conditional put: %v", err)
	}
	if data, err := get(t, cl, c.Bucket, "a/b"); err != nil || string(data) != "first" {
		t.Errorf("get: %q, %v", data, err)
	}
	wrong := c
	wrong.SecretKey = "wrong"
	if _, err := get(t, client(t, wrong), c.Bucket, "a/b"); minio.ToErrorResponse(err).Code != "SignatureDoesNotMatch" {
		t.Errorf("get with a wrong key: %v", err)
	}
}

// TestGatewayKill: what was put is there after a kill.
func TestGatewayKill(t *testing.T) {
	g, err := servers.StartGateway(t.Context(), t.TempDir())
	servers.Check(t, err)
	defer g.Close()
	if err := g.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	cl := client(t, g.Config("bucket"))
	if err := put(t, cl, "bucket", "k", []byte("v"), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, cl, "bucket", "k"); err == nil {
		t.Error("a killed server answers")
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	if data, err := get(t, cl, "bucket", "k"); err != nil || string(data) != "v" {
		t.Errorf("after the kill: %q, %v", data, err)
	}
	if err := g.RemoveBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	if ok, err := cl.BucketExists(t.Context(), "bucket"); ok || err != nil {
		t.Errorf("a removed bucket: %v, %v", ok, err)
	}
}
