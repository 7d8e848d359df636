package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var hostPathTests = []test{
	{"SameFiles", testHostPathFiles},
	{"Unclaimed", testHostPathUnclaimed},
	{"QuotaRefused", testHostPathQuota},
	{"Stale", testHostPathStale},
	{"StaleUntilTheLast", testHostPathStaleLast},
	{"StaleAfterClose", testHostPathClose},
}

// hostDir skips unless dir volumes have a path on this host, and makes one.
func (e *env) hostDir(t *testing.T, name string, spec vole.Spec) *vole.Volume {
	t.Helper()
	need(t, e.caps.HostPath && e.caps.Dir, "host paths of dir volumes")
	return e.createSpec(t, name, spec)
}

func testHostPathFiles(t *testing.T, e *env) {
	v := e.hostDir(t, "v", vole.Spec{})
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("d/from-fs", "one")
	a := attach(t, v, vole.AttachOptions{Holder: "h", HostPath: true})
	if !filepath.IsAbs(a.Path()) {
		t.Fatalf("path %q is not absolute", a.Path())
	}
	b, err := os.ReadFile(filepath.Join(a.Path(), "d/from-fs"))
	must(t, "read on the host", err)
	equal(t, "content on the host", string(b), "one")
	must(t, "write on the host", os.WriteFile(filepath.Join(a.Path(), "from-host"), []byte("two"), 0o600))
	f.holds("from-host", "two")
	ro := attach(t, v, vole.AttachOptions{Holder: "r", HostPath: true, ReadOnly: true})
	equal(t, "path of another attachment", ro.Path(), a.Path())
}

func testHostPathUnclaimed(t *testing.T, e *env) {
	if e.caps.HostPath {
		t.Skip("the backend claims host paths")
	}
	v := e.create(t, "v")
	_, err := v.Attach(t.Context(), vole.AttachOptions{Holder: "h", HostPath: true})
	wantErr(t, "attach for the host path", err, vole.ErrUnsupported)
	a := attach(t, v, vole.AttachOptions{Holder: "h"})
	equal(t, "path", a.Path(), "")
}

func testHostPathQuota(t *testing.T, e *env) {
	need(t, e.caps.Quota, "quotas")
	ctx := t.Context()
	v := e.hostDir(t, "v", vole.Spec{Quota: vole.MiB})
	_, err := v.Attach(ctx, vole.AttachOptions{Holder: "h", HostPath: true})
	wantErrOf(t, "writable host path with a quota", err, vole.ErrUnsupported, "attach", "v")
	attach(t, v, vole.AttachOptions{Holder: "reader", HostPath: true, ReadOnly: true})
	attach(t, v, vole.AttachOptions{Holder: "by-fs"})

	w := e.hostDir(t, "w", vole.Spec{})
	a := attach(t, w, vole.AttachOptions{Holder: "the-writer", HostPath: true})
	err = w.Update(ctx, vole.Update{Quota: vole.MiB})
	wantErrOf(t, "quota under a writable host path", err, vole.ErrInUse, "update", "w")
	if err != nil && !strings.Contains(err.Error(), "the-writer") {
		t.Errorf("error %q does not name the holder", err)
	}
	equal(t, "quota after the refused update", must1(t, e, "w").Info().Quota, 0)
	detach(t, a)
	ok(t, "quota after detach", w.Update(ctx, vole.Update{Quota: vole.MiB}))
}

// stale fails t unless v's usage is marked as want.
func stale(t *testing.T, what string, v *vole.Volume, want bool) {
	t.Helper()
	info, err := v.Refresh(t.Context())
	must(t, "refresh", err)
	equal(t, what+": stale", info.UsedStale, want)
}

func plant(t *testing.T, dir, name string, size int) {
	t.Helper()
	must(t, "write on the host", os.WriteFile(filepath.Join(dir, name), []byte(pattern(1, size)), 0o600))
}

func testHostPathStale(t *testing.T, e *env) {
	v := e.hostDir(t, "v", vole.Spec{})
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("f", pattern(1, 1000))

	byFS := attach(t, v, vole.AttachOptions{Holder: "by-fs"})
	reader := attach(t, v, vole.AttachOptions{Holder: "reader", HostPath: true, ReadOnly: true})
	stale(t, "with a reader on the host and a writer by FS", v, false)
	detach(t, byFS)
	detach(t, reader)
	f.used("after those", 1000)

	a := attach(t, v, vole.AttachOptions{Holder: "writer", HostPath: true})
	stale(t, "with a writer on the host", v, true)
	plant(t, a.Path(), "planted", 500)
	must(t, "link on the host", os.Link(filepath.Join(a.Path(), "planted"), filepath.Join(a.Path(), "again")))
	f.write("g", pattern(2, 30)) // the FS stays usable
	info, err := v.Measure(t.Context())
	must(t, "measure", err)
	equal(t, "stale after measuring under a writer", info.UsedStale, true)
	equal(t, "measured under a writer", info.Used, 1530)
	plant(t, a.Path(), "late", 7)
	must(t, "remove on the host", os.Remove(filepath.Join(a.Path(), "f")))
	detach(t, a)
	f.used("after detach", 537)
}

func testHostPathStaleLast(t *testing.T, e *env) {
	v := e.hostDir(t, "v", vole.Spec{})
	a := attach(t, v, vole.AttachOptions{Holder: "a", HostPath: true})
	b := attach(t, v, vole.AttachOptions{Holder: "b", HostPath: true})
	plant(t, a.Path(), "x", 10)
	detach(t, a)
	stale(t, "with one writer left", v, true)
	plant(t, b.Path(), "y", 20)
	detach(t, b)
	e.openFiles(t, v, vole.FSOptions{}).used("after the last detach", 30)
}

// An attachment that ends with its store leaves a figure that is exact or says that
// it is not, and measuring makes it exact.
func testHostPathClose(t *testing.T, e *env) {
	v := e.hostDir(t, "v", vole.Spec{})
	other := e.another(t)
	there, err := other.Get(t.Context(), "v")
	must(t, "get", err)
	a := attach(t, there, vole.AttachOptions{Holder: "a", HostPath: true})
	plant(t, a.Path(), "x", 10)
	must(t, "close", other.Close())
	info, err := v.Refresh(t.Context())
	must(t, "refresh", err)
	if !info.UsedStale && info.Used != 10 {
		t.Errorf("used %d, not stale, want 10", info.Used)
	}
	info, err = v.Measure(t.Context())
	must(t, "measure", err)
	equal(t, "measured", info.Used, 10)
	equal(t, "stale after measuring", info.UsedStale, false)
}
