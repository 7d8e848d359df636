package bucket_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/bucket"
	"github.com/volehq/vole/driver/drivertest"
	"github.com/volehq/vole/internal/servers"
)

func TestMain(m *testing.M) {
	beClient()
	os.Exit(servers.Main(m))
}

// engines are the databases and blob stores that everything is tested on.
var engines = []struct {
	name  string
	fresh func(t *testing.T) bucket.Options
}{
	{"SQLite", func(t *testing.T) bucket.Options {
		return bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}
	}},
	{"PostgreSQL", func(t *testing.T) bucket.Options {
		s3 := servers.S3(t)
		return bucket.Options{Database: servers.PG(t), Conns: 8, S3: &bucket.S3{
			Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, PathStyle: true,
		}}
	}},
}

// opened remembers the options of each store that the suite opened.
type opened struct {
	mu sync.Mutex // guards of
	of map[*vole.Store]bucket.Options
}

func (o *opened) open(t *testing.T, opts bucket.Options, readOnly bool) *vole.Store {
	t.Helper()
	opts.ReadOnly = readOnly
	// Not the test's context: the suite also opens while the test is being cleaned up.
	b, err := bucket.OpenOrg(context.Background(), opts, "acme")
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s := vole.New(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[s] = opts
	return s
}

func (o *opened) options(s *vole.Store) bucket.Options {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[s]
}

func TestConformance(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			o := &opened{of: map[*vole.Store]bucket.Options{}}
			drivertest.Run(t, drivertest.Harness{
				Open:     func(t *testing.T) *vole.Store { return o.open(t, e.fresh(t), false) },
				Another:  func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.options(s), false) },
				ReadOnly: func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.options(s), true) },
			})
		})
	}
}
