package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole/internal/testing/servers"
)

var (
	stopGateway = func() error { return nil }
	buckets     atomic.Int32
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stopGateway(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// gateway starts the S3 server that the tests of this package share, once.
var gateway = sync.OnceValues(func() (*servers.Gateway, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	g, err := servers.StartGateway(ctx, "")
	if err == nil {
		stopGateway = g.Close
	}
	return g, err
})

// s3Config makes a bucket for the test.
func s3Config(t testing.TB) servers.S3Config {
	t.Helper()
	g, err := gateway()
	if errors.Is(err, servers.ErrNotInstalled) {
		t.Skip("versitygw is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	bucket := fmt.Sprintf("bucket%d", buckets.Add(1))
	if err := g.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	return g.Config(bucket)
}
