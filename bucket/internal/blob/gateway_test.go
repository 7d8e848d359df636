package blob

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

type gwConfig struct{ Endpoint, Bucket, AccessKey, SecretKey string }

var gw struct {
	sync.Once
	addr string
	n    int
	err  error
}

func startGateway() (string, error) {
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		bin = filepath.Join(os.Getenv("HOME"), "go/bin/versitygw")
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(bin, "--port", addr, "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=test", "ROOT_SECRET_KEY=testtest")
	if err := cmd.Start(); err != nil {
		return "", err
	}
	cleanup = func() { cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(dir) }
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", err
}

var cleanup = func() {}

func TestMain(m *testing.M) { c := m.Run(); cleanup(); os.Exit(c) }

func s3Config(t testing.TB) gwConfig {
	gw.Do(func() { gw.addr, gw.err = startGateway() })
	if gw.err != nil {
		t.Fatal(gw.err)
	}
	gw.n++
	b := "b" + time.Now().Format("150405") + "x" + string(rune('a'+gw.n/26)) + string(rune('a'+gw.n%26))
	c, err := minio.New(gw.addr, &minio.Options{Creds: credentials.NewStaticV4("test", "testtest", "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(context.Background(), b, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return gwConfig{"http://" + gw.addr, b, "test", "testtest"}
}
