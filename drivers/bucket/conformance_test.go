package bucket_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
	ns   *bucket.Namespace // the namespace, open for all tests; nil: each opens its own
}

// open opens the organisation, which is made when it is missing.
func (p orgLocation) open(ctx context.Context) (*bucket.Backend, error) {
	if p.ns == nil {
		return bucket.OpenOrg(ctx, p.opts, p.org)
	}
	if err := p.ns.CreateOrg(ctx, p.org); err != nil {
		return nil, err
	}
	return p.ns.Org(ctx, p.org)
}

// opened remembers the location of each store that the suite opened.
type opened struct {
	mu sync.Mutex // guards of
	of map[*vole.Store]orgLocation
}

func (o *opened) open(t *testing.T, at orgLocation) *vole.Store {
	t.Helper()
	// Not the test's context: the suite also opens while the test is being cleaned up.
	b, err := at.open(context.Background())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s := vole.New(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[s] = at
	return s
}

// elsewhere returns the location of a store as another process opens it.
func (o *opened) elsewhere(s *vole.Store, readOnly bool) orgLocation {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := o.of[s]
	at.ns, at.opts.ReadOnly = nil, readOnly
	return at
}

// testLocations returns where each test of the suite works: of PostgreSQL, where a new namespace, and
// each connection, costs more than most tests, in an organisation of its own in one namespace
// that is open for all.
func testLocations(t *testing.T, name string, fresh func(t *testing.T) bucket.Options) func(t *testing.T) orgLocation {
	if name != "PostgreSQL" {
		return func(t *testing.T) orgLocation { return orgLocation{opts: fresh(t), org: "acme"} }
	}
	opts := fresh(t)
	shared := opts
	shared.Conns = max(8, 2*runtime.GOMAXPROCS(0))
	ns, err := bucket.Open(t.Context(), shared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Errorf("close the namespace: %v", err)
		}
	})
	var orgs atomic.Int64
	return func(*testing.T) orgLocation { return orgLocation{opts, fmt.Sprintf("acme-%d", orgs.Add(1)), ns} }
}

func TestConformance(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			o := &opened{of: map[*vole.Store]orgLocation{}}
			at := testLocations(t, e.name, e.fresh)
			conformance.Run(t, conformance.Harness{
				Open:     func(t *testing.T) *vole.Store { return o.open(t, at(t)) },
				Another:  func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.elsewhere(s, false)) },
				ReadOnly: func(t *testing.T, s *vole.Store) *vole.Store { return o.open(t, o.elsewhere(s, true)) },
			})
		})
	}
}
