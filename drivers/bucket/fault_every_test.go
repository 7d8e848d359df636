package bucket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	hooks "github.com/volehq/vole/internal/fault"
)

// A faultStep is one operation whose every SQL statement and system call is made to fail.
type faultStep struct {
	name string
	op   func(ctx context.Context, s *vole.Store) error
}

// onFiles is a step on the files of the volume that faultSetup makes.
func onFiles(name string, op func(ctx context.Context, f *vole.FS) error) faultStep {
	return onVolume(name, func(ctx context.Context, v *vole.Volume) error {
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		return errors.Join(op(ctx, f), f.Close())
	})
}

func onVolume(name string, op func(ctx context.Context, v *vole.Volume) error) faultStep {
	return faultStep{name, func(ctx context.Context, s *vole.Store) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		return op(ctx, v)
	}}
}

func onHandle(name, path string, opts vole.OpenOptions, op func(ctx context.Context, h *vole.File) error) faultStep {
	return onFiles(name, func(ctx context.Context, f *vole.FS) error {
		h, err := f.Open(ctx, path, opts)
		if err != nil {
			return err
		}
		return errors.Join(op(ctx, h), h.Close())
	})
}

var faultSteps = []faultStep{
	{"create", func(ctx context.Context, s *vole.Store) error {
		_, err := s.Create(ctx, "new", vole.Spec{Quota: vole.GiB, Labels: vole.Labels{"a": "b"}})
		return err
	}},
	{"build", func(ctx context.Context, s *vole.Store) error {
		_, err := s.Build(ctx, "new", vole.Spec{}, func(v *vole.Volume) error {
			f, err := v.FS(ctx)
			if err != nil {
				return err
			}
			return errors.Join(f.WriteFile(ctx, "x", pattern(5, 30<<10), 0o644), f.Close())
		})
		return err
	}},
	onVolume("clone", func(ctx context.Context, v *vole.Volume) error {
		_, err := v.Clone(ctx, "new", vole.Spec{})
		return err
	}),
	onVolume("remove volume", func(ctx context.Context, v *vole.Volume) error { return v.Remove(ctx) }),
	onVolume("remove unused volume", func(ctx context.Context, v *vole.Volume) error {
		return v.RemoveUnused(ctx, time.Now().Add(time.Hour))
	}),
	onVolume("rename volume", func(ctx context.Context, v *vole.Volume) error { return v.Update(ctx, vole.Update{Name: "w"}) }),
	onVolume("set quota", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{Quota: 2 * vole.MiB})
	}),
	onVolume("attach", func(ctx context.Context, v *vole.Volume) error {
		a, err := v.Attach(ctx, vole.AttachOptions{Exclusive: true})
		if err != nil {
			return err
		}
		return a.Detach(ctx)
	}),
	onFiles("write small", func(ctx context.Context, f *vole.FS) error { return f.WriteFile(ctx, "p/q/new", []byte("new"), 0o644) }),
	onFiles("write large", func(ctx context.Context, f *vole.FS) error {
		return writeStream(ctx, f, "large", pattern(6, 300<<10))
	}),
	onHandle("overwrite", "large", vole.OpenOptions{Write: true}, func(ctx context.Context, h *vole.File) error {
		_, err := h.WriteAt(ctx, pattern(7, 30<<10), 50<<10)
		return errors.Join(err, h.Sync(ctx))
	}),
	onHandle("append small", "file", vole.OpenOptions{Append: true}, func(ctx context.Context, h *vole.File) error {
		_, err := h.Append(ctx, []byte(" and more"))
		return err
	}),
	onHandle("append large", "large", vole.OpenOptions{Append: true}, func(ctx context.Context, h *vole.File) error {
		_, err := h.Append(ctx, pattern(8, 50<<10))
		return err
	}),
	onHandle("truncate", "large", vole.OpenOptions{Write: true}, func(ctx context.Context, h *vole.File) error { return h.Truncate(ctx, 12345) }),
	onHandle("punch", "large", vole.OpenOptions{Write: true}, func(ctx context.Context, h *vole.File) error { return h.PunchHole(ctx, 1000, 2000) }),
	onFiles("remove open", func(ctx context.Context, f *vole.FS) error {
		h, err := f.Open(ctx, "large", vole.OpenOptions{})
		if err != nil {
			return err
		}
		err = f.Remove(ctx, "large")
		return errors.Join(err, h.Close())
	}),
	onFiles("rename over", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "file", "large", vole.RenameOptions{})
	}),
	onFiles("rename tree", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "tree", "moved", vole.RenameOptions{})
	}),
	onFiles("remove tree", func(ctx context.Context, f *vole.FS) error { return f.RemoveAll(ctx, "tree") }),
	onFiles("copy tree", func(ctx context.Context, f *vole.FS) error {
		return f.Copy(ctx, "tree", "into/copy", vole.CopyOptions{})
	}),
	onFiles("copy over", func(ctx context.Context, f *vole.FS) error { return f.Copy(ctx, "large", "file", vole.CopyOptions{}) }),
	onFiles("link", func(ctx context.Context, f *vole.FS) error { return f.Link(ctx, "file", "second") }),
	onFiles("set attribute", func(ctx context.Context, f *vole.FS) error { return f.Setxattr(ctx, "file", "user.k", []byte("v")) }),
	{"sweep", nil}, // see run
}

// faultSetup makes what the steps work on.
func faultSetup(ctx context.Context, s *vole.Store) error {
	v, err := s.Create(ctx, "v", vole.Spec{Quota: 100 * vole.MiB, Labels: vole.Labels{"k": "v"}})
	if err != nil {
		return err
	}
	f, err := v.FS(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		f.WriteFile(ctx, "gone", pattern(1, 60<<10), 0o644),
		f.Remove(ctx, "gone"), // for the sweep
		f.WriteFile(ctx, "file", []byte("old contents"), 0o644),
		f.WriteFile(ctx, "other", []byte("other"), 0o600),
		f.WriteFile(ctx, "large", pattern(2, 100<<10), 0o644),
		f.WriteFile(ctx, "tree/a/b", pattern(3, 40<<10), 0o644),
		f.WriteFile(ctx, "tree/c", []byte("cc"), 0o644),
		f.Link(ctx, "tree/c", "tree/d"),
		f.Symlink(ctx, "c", "tree/l"),
		f.Close(),
	)
}

func faultOptions(dir string) bucket.Options {
	return bucket.Options{Dir: dir, Maintain: -1}
}

// run opens the namespace, and runs the step while the hook is set.
func (st faultStep) run(ctx context.Context, dir string, hook hooks.Hook) error {
	faults := &hooks.Injector{}
	opts := bucket.WithFaults(faultOptions(dir), faults)
	if st.op == nil {
		opts.Grace = time.Nanosecond
		ns, err := bucket.Open(ctx, opts)
		if err != nil {
			return err
		}
		faults.Set(hook)
		return errors.Join(ns.Maintain(ctx), ns.Close())
	}
	b, err := bucket.OpenOrg(ctx, opts, "acme")
	if err != nil {
		return err
	}
	s := vole.New(b)
	faults.Set(hook)
	return errors.Join(st.op(ctx, s), s.Close())
}

// reopen opens the namespace without faults, for a sweep without a grace time.
func reopen(t *testing.T, dir string) *bucket.Namespace {
	t.Helper()
	opts := faultOptions(dir)
	opts.Grace = time.Nanosecond
	ns, err := bucket.Open(t.Context(), opts)
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	return ns
}

func mustClose(t *testing.T, ns *bucket.Namespace) {
	t.Helper()
	if err := ns.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// readState describes everything that users see of a namespace. checked: it must be sound.
func readState(t *testing.T, ns *bucket.Namespace, when string, checked bool) map[string]string {
	t.Helper()
	ctx := t.Context()
	b, err := ns.Org(ctx, "acme")
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	s := vole.New(b)
	if checked {
		mustAuditClean(t, s, when)
	}
	out := map[string]string{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		i := v.Info()
		out[i.Name] = fmt.Sprintf("%v %v %v", i.Quota, i.Labels, i.Used)
		f, err := v.FS(ctx)
		if err != nil {
			t.Fatal(err)
		}
		err = fs.WalkDir(f.Std(ctx), ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, err := f.Lstat(ctx, p)
			var data []byte
			if err == nil && e.Mode.IsRegular() {
				data, err = f.ReadFile(ctx, p)
			}
			attrs, xerr := f.Listxattr(ctx, p)
			out[i.Name+":"+p] = fmt.Sprintf("%v %d %v %d %x", e.Mode, e.Nlink, attrs, len(data), sha256.Sum256(data))
			return errors.Join(err, xerr)
		})
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return out
}

func formatState(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "  %s = %s\n", k, m[k])
	}
	return b.String()
}

// TestEveryFault fails every operation of every step once. The result is the state before or
// after the step, and the sweep leaves nothing that is not referred to.
func TestEveryFault(t *testing.T) {
	t.Parallel()
	made := filepath.Join(memoryDir(t), "made")
	if err := (faultStep{op: faultSetup}).run(t.Context(), made, nil); err != nil {
		t.Fatal(err)
	}
	ns := reopen(t, copyDir(t, made))
	before := readState(t, ns, "after the setup", true)
	mustClose(t, ns)
	var total atomic.Int64
	t.Cleanup(func() { t.Logf("%d faults", total.Load()) })
	for _, st := range faultSteps {
		t.Run(st.name, func(t *testing.T) {
			t.Parallel()
			var faults atomic.Int64
			dir := copyDir(t, made)
			err := st.run(t.Context(), dir, func(_, _ string, f func() error) error { faults.Add(1); return f() })
			if err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			ns := reopen(t, dir)
			after := readState(t, ns, "without a fault", true)
			mustClose(t, ns)
			for i := int64(0); i < faults.Load() && !t.Failed(); i++ {
				st.injectFault(t, copyDir(t, made), i, before, after)
			}
			total.Add(faults.Load())
		})
	}
}

// injectFault runs the step in a namespace that is in the state before, with fault i, and checks
// what it leaves.
func (st faultStep) injectFault(t *testing.T, dir string, i int64, before, after map[string]string) {
	t.Helper()
	defer os.RemoveAll(dir) // not when the test ends: there are many
	var n atomic.Int64
	where := ""
	err := st.run(t.Context(), dir, func(op, what string, f func() error) error {
		if n.Add(1) == i+1 {
			where = op + " " + what
			return []syscall.Errno{syscall.EIO, syscall.ENOSPC}[i%2]
		}
		return f()
	})
	when := fmt.Sprintf("fault %d at %s, error %v", i, where, err)
	ns := reopen(t, dir)
	defer mustClose(t, ns)
	got := readState(t, ns, when, i%4 == 0)
	db := openDatabase(t, faultOptions(dir))
	defer db.Close()
	expireLeases(t, db)
	sweepNamespace(t, ns, db, faultOptions(dir))
	late := readState(t, ns, "swept after "+when, true)
	if !maps.Equal(late, after) && (err == nil || !maps.Equal(late, before)) {
		t.Errorf("%s: left\n%s\nit was\n%s\nand was to be\n%s", when, formatState(late), formatState(before), formatState(after))
	}
	// Only how much a volume holds may follow later, when a tree is removed.
	withoutSizes(got)
	if withoutSizes(late); !maps.Equal(got, late) {
		t.Errorf("%s: left\n%s\nand after the sweep there is\n%s", when, formatState(got), formatState(late))
	}
}

// writeStream writes a file whose size is not known before, and so in several blobs.
func writeStream(ctx context.Context, f *vole.FS, path string, data []byte) error {
	_, err := f.WriteFrom(ctx, path, io.LimitReader(bytes.NewReader(data), int64(len(data))), vole.WriteOptions{})
	return err
}

// withoutSizes takes out of a state how much the volumes hold.
func withoutSizes(m map[string]string) {
	for k, v := range m {
		if !strings.Contains(k, ":") {
			m[k] = v[:strings.LastIndexByte(v, ' ')]
		}
	}
}

// expireLeases lets the leases run out of jobs and sessions that could not be ended.
func expireLeases(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, table := range []string{"jobs", "sessions"} {
		if _, err := db.ExecContext(t.Context(), `UPDATE `+table+` SET expires = 0`); err != nil {
			t.Fatal(err)
		}
	}
}

// memoryDir is a directory in memory where there is such: that a disk syncs tells nothing here.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vole-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(memoryDir(t), "namespace")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}
