package bucket_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// openStore opens organisation acme and closes it when the test ends.
func openStore(t *testing.T, opts bucket.Options) *vole.Store {
	t.Helper()
	b, err := bucket.OpenOrg(t.Context(), opts, "acme")
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s := vole.New(b)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// openShared is openStore with a volume "shared" and its files.
func openShared(t *testing.T, opts bucket.Options) (*vole.Store, *vole.Volume, *vole.FS) {
	t.Helper()
	s := openStore(t, opts)
	v, _, err := s.Ensure(t.Context(), "shared", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close the files: %v", err)
		}
	})
	return s, v, f
}

// mustAuditClean checks that nothing in the organisation is wrong.
func mustAuditClean(t *testing.T, s *vole.Store, when string) {
	t.Helper()
	err := s.Check(context.Background(), vole.CheckOptions{}, func(f vole.Finding) error {
		t.Errorf("%s: check: %s %s %s %s", when, f.Code, f.Volume, f.Path, f.Detail)
		return nil
	})
	if err != nil {
		t.Errorf("%s: check: %v", when, err)
	}
}

// openDatabase opens the database behind the backend's back.
func openDatabase(t *testing.T, opts bucket.Options) *sql.DB {
	t.Helper()
	driver, url := "sqlite", "file:"+opts.Database
	if strings.HasPrefix(opts.Database, "postgres://") {
		driver, url = "pgx", opts.Database
	} else if opts.Database == "" {
		url = "file:" + filepath.Join(opts.Dir, "namespace.db")
	}
	if driver == "sqlite" {
		url += "?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// countRows returns the number that a query yields.
func countRows(t *testing.T, db *sql.DB, query string) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(context.Background(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// listObjects returns the keys of all objects in the blob store.
func listObjects(t *testing.T, opts bucket.Options) []string {
	t.Helper()
	if opts.S3 == nil {
		dir := opts.Blobs
		if dir == "" {
			dir = filepath.Join(opts.Dir, "blobs")
		}
		return listFiles(t, filepath.Join(dir, "o"))
	}
	c := servers.S3Config{Endpoint: opts.S3.Endpoint, Region: opts.S3.Region, Bucket: opts.S3.Bucket, AccessKey: opts.S3.AccessKey, SecretKey: opts.S3.SecretKey}
	cl, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for o := range cl.ListObjectsIter(context.Background(), c.Bucket, minio.ListObjectsOptions{Recursive: true, Prefix: "o/"}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		list = append(list, o.Key)
	}
	return list
}

func listFiles(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			list = append(list, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

// sweepUntilEmpty is sweepNamespace of one that it opens. Clients that were killed keep sessions
// until their leases run out.
func sweepUntilEmpty(t *testing.T, opts bucket.Options) {
	t.Helper()
	opts.Grace, opts.Maintain = time.Nanosecond, -1
	ns, err := bucket.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	db := openDatabase(t, opts)
	defer db.Close()
	sweepNamespace(t, ns, db, opts)
}

// sweepNamespace runs maintenance until no session and no blob that nothing refers to is left,
// and checks that the blob store has the objects of the rest. The namespace has no grace time.
func sweepNamespace(t *testing.T, ns *bucket.Namespace, db *sql.DB, opts bucket.Options) {
	t.Helper()
	const left = `SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM blobs WHERE freed IS NOT NULL)
		+ (SELECT count(*) FROM doomed) + (SELECT count(*) FROM orphans) + (SELECT count(*) FROM attachments)`
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := ns.Maintain(context.Background())
		n := countRows(t, db, left)
		if err == nil && n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("maintenance leaves %d rows: %v", n, err)
		}
	}
	if list, n := listObjects(t, opts), countRows(t, db, `SELECT count(*) FROM blobs WHERE data IS NULL`); len(list) != n {
		t.Errorf("the blob store has %d objects, the database knows %d", len(list), n)
	}
}

// removeAllAndSweep removes all volumes, sweeps, and checks that nothing is left of them.
func removeAllAndSweep(t *testing.T, opts bucket.Options) {
	t.Helper()
	ctx := context.Background()
	b, err := bucket.OpenOrg(ctx, opts, "acme")
	if err != nil {
		t.Fatal(err)
	}
	s := vole.New(b)
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err == nil {
			err = v.Remove(ctx)
		}
		if err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	sweepUntilEmpty(t, opts)
	db := openDatabase(t, opts)
	for _, table := range []string{"volumes", "inodes", "dirents", "xattrs", "chunks", "blobs"} {
		if n := countRows(t, db, "SELECT count(*) FROM "+table); n > 0 {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
	if list := listObjects(t, opts); len(list) > 0 {
		t.Errorf("%d objects are left: %v", len(list), list[0])
	}
}
