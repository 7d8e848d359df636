package bucket_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/conformance"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

func TestMain(m *testing.M) {
	runAsClientIfAsked()
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

// orgLocation is what a store is of: an organisation in a namespace.
type orgLocation struct {
	opts bucket.Options
	org  string
}

// opened remembers the place of each store that the suite opened.
type opened struct {
	mu sync.Mutex // guards of
	of map[*vole.Store]orgLocation
}

func (o *opened) open(t *testing.T, at orgLocation, readOnly bool) *vole.Store {
	t.Helper()
	opts := at.opts
	opts.ReadOnly = readOnly
	// Not the test's context: the suite also opens while the test is being cleaned up.
	b, err := bucket.OpenOrg(context.Background(), opts, at.org)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s := vole.New(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[s] = at
	return s
}

func (o *opened) locationOf(s *vole.Store) orgLocation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[s]
}

// testLocations returns where each test of the suite works: of PostgreSQL, where a new namespace
// costs more than most tests, in an organisation of its own in one that all share.
func testLocations(t *testing.T, name string, fresh func(t *testing.T) bucket.Options) func(t *testing.T) orgLocation {
	if name != "PostgreSQL" {
		return func(t *testing.T) orgLocation { return orgLocation{fresh(t), "acme"} }
	}
	shared := fresh(t)
	var orgs atomic.Int64
	return func(*testing.T) orgLocation { return orgLocation{shared, fmt.Sprintf("acme-%d", orgs.Add(1))} }
}

func TestConformance(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			o := &opened{of: map[*vole.Store]orgLocation{}}
			at := testLocations(t, e.name, e.fresh)
			conformance.Run(t, conformance.Harness{
				Open:     func(t *testing.T) *vole.Store { return o.open(t, at(t), false) },
				Another:  func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.locationOf(s), false) },
				ReadOnly: func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.locationOf(s), true) },
			})
		})
	}
}
