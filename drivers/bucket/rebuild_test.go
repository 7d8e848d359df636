package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// losable are namespaces whose database can be lost.
var losable = []struct {
	name  string
	fresh func(t *testing.T) bucket.Options
	lose  func(t *testing.T, o *bucket.Options)
}{
	{"SQLite", engines[0].fresh, func(t *testing.T, o *bucket.Options) {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(filepath.Join(o.Dir, "namespace.db"+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}},
	{"PostgreSQL", engines[1].fresh, func(t *testing.T, o *bucket.Options) { o.Database = servers.PG(t) }},
}

// withoutMaintenance are opts of a namespace that does nothing by itself.
func withoutMaintenance(o bucket.Options) bucket.Options {
	o.Maintain = -1
	return o
}

func openNS(t *testing.T, o bucket.Options) *bucket.Namespace {
	t.Helper()
	ns, err := bucket.Open(t.Context(), withoutMaintenance(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// openOrg opens an organisation of a namespace, which is made when it is missing.
func openOrg(t *testing.T, ns *bucket.Namespace, org string) *vole.Store {
	t.Helper()
	if err := ns.CreateOrg(t.Context(), org); err != nil && !errors.Is(err, driver.ErrExists) {
		t.Fatal(err)
	}
	b, err := ns.Org(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return vole.New(b)
}

func mustGet[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mustSucceed(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func makeVolume(t *testing.T, s *vole.Store, name string, spec vole.Spec) (*vole.Volume, *vole.FS) {
	t.Helper()
	v := mustGet(s.Create(t.Context(), name, spec))(t)
	f := mustGet(v.FS(t.Context()))(t)
	t.Cleanup(func() { f.Close() })
	return v, f
}

// createEveryKind makes one of each that a volume may hold.
func createEveryKind(t *testing.T, f *vole.FS) {
	t.Helper()
	ctx := t.Context()
	at := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	mustSucceed(t,
		f.MkdirAll(ctx, "a/b/c", 0o750),
		f.WriteFile(ctx, "small", []byte("few bytes"), 0o600),
		f.WriteFile(ctx, "empty", nil, 0o644),
		f.WriteFile(ctx, "a/large", bytes.Repeat([]byte("0123456789abcde\n"), 1<<16), 0o644),
		f.WriteFile(ctx, "a/huge", bytes.Repeat([]byte{1, 2, 3, 0}, 9<<18), 0o644), // two chunks
		f.WriteFile(ctx, "a/b/odd \xff\xfe\n<&>", []byte("odd"), 0o644),
		f.Link(ctx, "a/large", "a/b/linked"),
		f.Symlink(ctx, "../a/large", "a/link"),
		f.Symlink(ctx, "nowhere", "dangling"),
		f.Mknod(ctx, "fifo", fs.ModeNamedPipe|0o644, 0),
		f.Mknod(ctx, "dev", fs.ModeDevice|fs.ModeCharDevice|0o600, 0x103),
		f.Chmod(ctx, "a/b", 0o700|fs.ModeSticky|fs.ModeSetgid),
		f.Chown(ctx, "a/b/c", 12, 4_000_000_000),
		f.Setxattr(ctx, "a/large", "user.note", []byte{0, 1, 2}),
		f.Setxattr(ctx, "a", "user.none", nil),
		f.Copy(ctx, "a/large", "a/copy", vole.CopyOptions{}),
	)
	h := mustGet(f.Open(ctx, "sparse", vole.OpenOptions{Create: true}))(t)
	for _, off := range []int64{5 << 20, 100, 1 << 30} {
		mustGet(h.WriteAt(ctx, []byte(strings.Repeat("x", 70_000)), off))(t)
	}
	mustSucceed(t, h.PunchHole(ctx, 5<<20+5000, 20_000), h.Truncate(ctx, 2<<30), h.Close())
	gone := mustGet(f.Open(ctx, "unlinked", vole.OpenOptions{Create: true}))(t)
	mustGet(gone.WriteAt(ctx, make([]byte, 50_000), 0))(t)
	mustSucceed(t, gone.Sync(ctx), f.Remove(ctx, "unlinked"))
	t.Cleanup(func() { gone.Close() })
	for i := range 30 {
		mustSucceed(t, f.WriteFile(ctx, fmt.Sprintf("many/%03d", i), []byte(fmt.Sprint(i)), 0o644))
	}
	mustSucceed(t, f.Chtimes(ctx, "a/large", at, at.Add(time.Hour)), f.Chtimes(ctx, "many", at, at), f.Sync(ctx))
}

// describeTree returns a line of all there is to know of each file, by path.
func describeTree(t *testing.T, f *vole.FS) map[string]string {
	t.Helper()
	ctx := t.Context()
	tree := map[string]string{}
	var walk func(path string)
	walk = func(path string) {
		e := mustGet(f.Lstat(ctx, path))(t)
		e.Name = ""
		line := fmt.Sprintf("%+v", e)
		switch {
		case e.Mode.IsDir():
			for _, c := range mustGet(f.ReadDir(ctx, path))(t) {
				walk(path + "/" + c.Name)
			}
		case e.Mode&fs.ModeSymlink != 0:
			line += mustGet(f.Readlink(ctx, path))(t)
		case e.Mode.IsRegular():
			line += contentOf(t, f, path)
		}
		if e.Mode&fs.ModeSymlink == 0 {
			names := mustGet(f.Listxattr(ctx, path))(t)
			for _, n := range names {
				line += fmt.Sprintf(" %s=%x", n, mustGet(f.Getxattr(ctx, path, n))(t))
			}
		}
		tree[path] = line
	}
	walk("/")
	return tree
}

// contentOf describes the data of a file, and where its holes are.
func contentOf(t *testing.T, f *vole.FS, path string) string {
	ctx := t.Context()
	h := mustGet(f.Open(ctx, path, vole.OpenOptions{}))(t)
	defer h.Close()
	said := ""
	for off := int64(0); ; {
		start, end, err := h.NextData(ctx, off)
		if err != nil {
			return fmt.Sprint(path, err)
		}
		if start == end {
			return said
		}
		data := make([]byte, end-start)
		n, err := h.ReadAt(ctx, data, start)
		said += fmt.Sprintf(" [%d %d) %x %v", start, end, checksumOf(data[:n]), err)
		off = end
	}
}

func checksumOf(p []byte) (n uint64) {
	n = 14695981039346656037 // FNV-1a
	for _, b := range p {
		n = (n ^ uint64(b)) * 1099511628211
	}
	return n
}

func sameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			t.Errorf("%q:\n got %s\nwant %s", p, got[p], want[p])
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q is new", p)
		}
	}
}

// noFinding is a report that takes each finding for a failure.
func noFinding(t *testing.T) func(driver.Finding) error {
	return func(f driver.Finding) error {
		t.Errorf("found %+v", f)
		return nil
	}
}

func sortedCodes(list []driver.Finding) (s []string) {
	for _, f := range list {
		s = append(s, f.Code)
	}
	return s
}

// mustAuditNamespace audits a namespace.
func mustAuditNamespace(t *testing.T, ns *bucket.Namespace) {
	t.Helper()
	if err := ns.Audit(t.Context(), driver.CheckOptions{}, noFinding(t)); err != nil {
		t.Error(err)
	}
}

func TestRebuild(t *testing.T) {
	for _, e := range losable {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			ns := openNS(t, opts)
			acme, other := openOrg(t, ns, "acme"), openOrg(t, ns, "other")
			mustSucceed(t, ns.CreateOrg(ctx, "empty"))
			v, f := makeVolume(t, acme, "data", vole.Spec{Quota: 4 * vole.GiB, Labels: vole.Labels{"team": "ml", "x": ""}})
			createEveryKind(t, f)
			clone := mustGet(v.Clone(ctx, "clone", vole.Spec{}))(t)
			_, g := makeVolume(t, other, "data", vole.Spec{})
			mustSucceed(t, g.WriteFile(ctx, "f", []byte(strings.Repeat("other", 10_000)), 0o644))
			draft := mustGet(acme.Create(ctx, "draft", vole.Spec{Draft: true}))(t)
			want, wantOther := describeTree(t, f), describeTree(t, g)

			res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t)
			if res.Exported != 3 || res.Unchanged != 0 || res.Size == 0 {
				t.Errorf("%+v", res)
			}
			res = mustGet(ns.Export(ctx, bucket.ExportOptions{All: true}))(t)
			if res.Exported != 3 || res.Unchanged != 0 || res.Removed != 0 {
				t.Errorf("again: %+v", res)
			}
			info, cloneInfo := mustGet(v.Refresh(ctx))(t), mustGet(clone.Refresh(ctx))(t)
			if _, err := bucket.Rebuild(ctx, opts, noFinding(t)); !errors.Is(err, driver.ErrExists) {
				t.Errorf("over a database: %v", err)
			}
			mustSucceed(t, f.Close(), g.Close(), acme.Close(), other.Close(), ns.Close())
			_ = draft

			e.lose(t, &opts)
			got := mustGet(bucket.Rebuild(ctx, opts, noFinding(t)))(t)
			if got.Orgs != 3 || got.Volumes != 3 || got.Damaged+got.Lost != 0 || got.Files == 0 {
				t.Errorf("%+v", got)
			}
			ns = openNS(t, opts)
			mustAuditNamespace(t, ns)
			mustSucceed(t, ns.Maintain(ctx)) // the file without a name goes
			mustAuditNamespace(t, ns)
			if orgs := mustGet(ns.Orgs(ctx))(t); !slices.Equal(orgs, []string{"acme", "empty", "other"}) {
				t.Errorf("organisations %q", orgs)
			}
			acme, other = openOrg(t, ns, "acme"), openOrg(t, ns, "other")
			v = mustGet(acme.Get(ctx, "data"))(t)
			now := v.Info()
			now.Generation, info.Generation = 0, 0                   // it goes on, but from where does not matter
			now.LastUsed, info.LastUsed = info.Updated, info.Updated // TestRebuiltVolumesCountFromNow
			if info.Used -= 50_000; fmt.Sprint(now) != fmt.Sprint(info) {
				t.Errorf("volume\n got %+v\nwant %+v", now, info)
			}
			if now := mustGet(acme.Get(ctx, "clone"))(t).Info(); now.Used != cloneInfo.Used-50_000 {
				t.Errorf("clone\n got %+v\nwant %+v", now, cloneInfo)
			}
			f = mustGet(v.FS(ctx))(t)
			sameTree(t, describeTree(t, f), want)
			g = mustGet(mustGet(other.Get(ctx, "data"))(t).FS(ctx))(t)
			sameTree(t, describeTree(t, g), wantOther)
			mustSucceed(t, f.WriteFile(ctx, "small", []byte("new"), 0o644)) // and all goes on
			if res := mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t); res.Exported != 3 {
				t.Errorf("after it: %+v", res)
			}
		})
	}
}

// TestExportWhileWritten: two files that are only ever changed by one rename each are
// exported as one commit left them.
func TestExportWhileWritten(t *testing.T) {
	for _, e := range losable {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			opts := e.fresh(t)
			ns := openNS(t, opts)
			acme := openOrg(t, ns, "acme")
			_, f := makeVolume(t, acme, "v", vole.Spec{})
			for i := range 200 {
				mustSucceed(t, f.WriteFile(ctx, fmt.Sprintf("d/%03d", i), []byte("x"), 0o644))
			}
			// Either name leads to the directory, always one of them.
			mustSucceed(t, f.MkdirAll(ctx, "here", 0o755), f.WriteFile(ctx, "here/size", []byte("0"), 0o644))
			stop, done := context.WithCancel(ctx)
			defer done()
			ended := make(chan error, 1)
			go func() {
				names := []string{"here", "there"}
				for i := 0; stop.Err() == nil; i++ {
					data := bytes.Repeat([]byte{byte(i)}, 20_000+i)
					err := errors.Join(f.WriteFile(ctx, names[i%2]+"/size", data, 0o644),
						f.Rename(ctx, names[i%2], names[(i+1)%2], vole.RenameOptions{}))
					if err != nil {
						ended <- err
						return
					}
				}
				ended <- nil
			}()
			exported := 0
			for end := time.Now().Add(30 * time.Second); exported < 3 && time.Now().Before(end); {
				exported += mustGet(ns.Export(ctx, bucket.ExportOptions{}))(t).Exported
			}
			done()
			mustSucceed(t, <-ended)
			if exported < 3 {
				t.Errorf("%d exports", exported)
			}
			mustSucceed(t, f.Close(), acme.Close(), ns.Close())
			e.lose(t, &opts)
			mustGet(bucket.Rebuild(ctx, opts, noFinding(t)))(t)
			ns = openNS(t, opts)
			mustAuditNamespace(t, ns)
			f = mustGet(mustGet(openOrg(t, ns, "acme").Get(ctx, "v"))(t).FS(ctx))(t)
			list := mustGet(f.ReadDir(ctx, "/"))(t)
			if len(list) != 2 {
				t.Fatalf("%+v", list)
			}
			data := mustGet(f.ReadFile(ctx, list[1].Name+"/size"))(t)
			if i := len(data) - 20_000; len(data) != 1 && (i < 0 || bytes.Count(data, []byte{byte(i)}) != len(data)) {
				t.Errorf("%d bytes of another kind", len(data))
			}
		})
	}
}
