package blob

import (
	"fmt"
	"go/build"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// gatewayConfig is a bucket of versitygw, which the tests of this package share.
type gatewayConfig struct{ Endpoint, Bucket, AccessKey, SecretKey string }

const (
	gatewayKey    = "test"
	gatewaySecret = "testtest"
)

var (
	stopGateway = func() {}
	buckets     atomic.Int32
)

func TestMain(m *testing.M) {
	code := m.Run()
	stopGateway()
	os.Exit(code)
}

// gateway starts versitygw once. It returns "" if there is none.
var gateway = sync.OnceValues(func() (addr string, err error) {
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		bin = filepath.Join(build.Default.GOPATH, "bin", "versitygw")
	}
	if _, err := os.Stat(bin); err != nil {
		return "", nil
	}
	dir, err := os.MkdirTemp("", "versitygw")
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr = l.Addr().String()
	l.Close()
	cmd := exec.Command(bin, "--port", addr, "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+gatewayKey, "ROOT_SECRET_KEY="+gatewaySecret)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stopGateway = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			return addr, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", err
})

// s3Config makes a bucket for the test.
func s3Config(t testing.TB) gatewayConfig {
	t.Helper()
	addr, err := gateway()
	if err != nil {
		t.Fatal(err)
	}
	if addr == "" {
		t.Skip("versitygw is not installed")
	}
	c, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(gatewayKey, gatewaySecret, "")})
	if err != nil {
		t.Fatal(err)
	}
	bucket := fmt.Sprintf("bucket%d", buckets.Add(1))
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return gatewayConfig{"http://" + addr, bucket, gatewayKey, gatewaySecret}
}
