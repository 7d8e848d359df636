package conformance

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

// files is one open volume with the short forms of calls that tests make all the
// time. The short forms end the test when they fail: they prepare and verify, and are not
// themselves under test.
type files struct {
	*vole.FS
	t   *testing.T
	ctx context.Context
	e   *env
	vol *vole.Volume
}

// files makes a volume of the harness's spec and opens it.
func (e *env) files(t *testing.T) *files {
	t.Helper()
	return e.openFiles(t, e.create(t, "vol"), vole.FSOptions{})
}

// openFiles opens a volume's files; they are closed when t ends.
func (e *env) openFiles(t *testing.T, v *vole.Volume, opts vole.FSOptions) *files {
	t.Helper()
	f, err := v.OpenFS(t.Context(), opts)
	if err != nil {
		t.Fatalf("open %s: %v", v.Name(), err)
	}
	t.Cleanup(func() { f.Close() }) // tests of Close look at its error
	return &files{FS: f, t: t, ctx: t.Context(), e: e, vol: v}
}

// beside opens the volume's files once more. A disk image has one writer: there it
// is f itself.
func (f *files) beside(opts vole.FSOptions) *files {
	f.t.Helper()
	if f.e.h.Spec.Kind == vole.KindDisk {
		return f
	}
	return f.e.openFiles(f.t, f.vol, opts)
}

// write writes a file with mode 0644.
func (f *files) write(p, data string) {
	f.t.Helper()
	must(f.t, "write "+p, f.WriteFile(f.ctx, p, []byte(data), 0o644))
}

func (f *files) read(p string) string {
	f.t.Helper()
	b, err := f.ReadFile(f.ctx, p)
	must(f.t, "read "+p, err)
	return string(b)
}

// holds fails the test unless the file at p holds data.
func (f *files) holds(p, data string) {
	f.t.Helper()
	b, err := f.ReadFile(f.ctx, p)
	if err != nil {
		f.t.Errorf("read %s: %v", p, err)
		return
	}
	if string(b) != data {
		f.t.Errorf("%s holds %d bytes %.60q, want %d bytes %.60q", p, len(b), b, len(data), data)
	}
}

func (f *files) mkdir(p string) {
	f.t.Helper()
	must(f.t, "mkdir "+p, f.MkdirAll(f.ctx, p, 0o755))
}

func (f *files) symlink(target, p string) {
	f.t.Helper()
	must(f.t, "symlink "+p, f.Symlink(f.ctx, target, p))
}

func (f *files) link(target, p string) {
	f.t.Helper()
	must(f.t, "link "+p, f.Link(f.ctx, target, p))
}

func (f *files) remove(p string) {
	f.t.Helper()
	must(f.t, "remove "+p, f.Remove(f.ctx, p))
}

// open opens a file, which is closed when the test ends.
func (f *files) open(p string, opts vole.OpenOptions) *vole.File {
	f.t.Helper()
	h, err := f.Open(f.ctx, p, opts)
	must(f.t, "open "+p, err)
	f.t.Cleanup(func() { h.Close() })
	return h
}

func (f *files) lstat(p string) vole.Entry {
	f.t.Helper()
	e, err := f.Lstat(f.ctx, p)
	must(f.t, "lstat "+p, err)
	return e
}

func (f *files) stat(p string) vole.Entry {
	f.t.Helper()
	e, err := f.Stat(f.ctx, p)
	must(f.t, "stat "+p, err)
	return e
}

func (f *files) readlink(p string) string {
	f.t.Helper()
	s, err := f.Readlink(f.ctx, p)
	must(f.t, "readlink "+p, err)
	return s
}

func (f *files) isLink(p, target string) {
	f.t.Helper()
	got, err := f.Readlink(f.ctx, p)
	if err != nil || got != target {
		f.t.Errorf("readlink %s: %q, %v, want %q", p, got, err, target)
	}
}

// exists fails the test unless p's being there is want.
func (f *files) exists(p string, want bool) {
	f.t.Helper()
	is, err := f.Exists(f.ctx, p)
	if err != nil || is != want {
		f.t.Errorf("exists %s: %v, %v, want %v", p, is, err, want)
	}
}

// names returns the names in a directory, sorted.
func (f *files) names(p string) []string {
	f.t.Helper()
	list, err := f.ReadDir(f.ctx, p)
	must(f.t, "list "+p, err)
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name
	}
	return names
}

func (f *files) hasNames(p string, want ...string) {
	f.t.Helper()
	if got := f.names(p); !slices.Equal(got, want) {
		f.t.Errorf("%s lists %q, want %q", p, got, want)
	}
}

// tree is the content of a volume as text by path, so that two can be compared.
type tree = treemodel.Tree

// tree takes down everything that the volume holds but for access times, change
// times and storage, which may change by looking.
func (f *files) tree() tree {
	f.t.Helper()
	all := tree{}
	f.treeInto(all, ".")
	return all
}

func (f *files) treeInto(all tree, dir string) {
	f.t.Helper()
	list, err := f.ReadDir(f.ctx, dir)
	must(f.t, "list "+dir, err)
	for _, e := range list {
		p := path.Join(dir, e.Name)
		all[p] = f.describe(p, e)
		if e.IsDir() {
			f.treeInto(all, p)
		}
	}
}

func (f *files) describe(p string, e vole.Entry) string {
	f.t.Helper()
	s := fmt.Sprintf("%v uid=%d gid=%d", e.Mode, e.UID, e.GID)
	switch e.Mode.Type() {
	case 0:
		s += fmt.Sprintf(" size=%d links=%d mtime=%d", e.Size, e.Nlink, e.Mtime.UnixNano())
		if e.Size <= 16<<20 {
			s += " data=" + treemodel.Digest([]byte(f.read(p)))
		}
	case fs.ModeSymlink:
		s += " to=" + f.readlink(p)
	}
	return s
}

// unchanged fails the test when the volume is not as before.
func (f *files) unchanged(what string, before tree) {
	f.t.Helper()
	if d := before.Diff(f.tree()); d != "" {
		f.t.Errorf("%s changed the volume:%s", what, d)
	}
}

// used fails the test unless the volume holds exactly want bytes, by every figure
// that tells.
func (f *files) used(what string, want int64) {
	f.t.Helper()
	s, err := f.Statfs(f.ctx)
	must(f.t, "statfs", err)
	if s.Used != want {
		f.t.Errorf("%s: statfs says %d bytes are used, want %d", what, s.Used, want)
	}
	info, err := f.vol.Refresh(f.ctx)
	must(f.t, "refresh", err)
	if int64(info.Used) != want || info.UsedStale {
		f.t.Errorf("%s: the volume uses %d bytes (stale: %v), want %d", what, info.Used, info.UsedStale, want)
	}
}

// pattern is n bytes in which every place differs from its neighbours and from the
// same place under another seed.
func pattern(seed, n int) string {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x>>8) | 1 // never zero: holes are told from data
	}
	return string(b)
}
