//go:build unix

package local_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/fault"
)

// faultStep is one operation whose every system call and SQL statement is made to fail,
// and before and after each of which the process is killed.
type faultStep struct {
	name  string
	setup func(ctx context.Context, s *vole.Store) error
	op    func(ctx context.Context, s *vole.Store) error
	// loose says that directories without files in them may be left half made.
	loose bool
}

func volume(ctx context.Context, s *vole.Store, name string, spec vole.Spec) (*vole.Volume, *vole.FS, error) {
	v, err := s.Create(ctx, name, spec)
	if err != nil {
		return nil, nil, err
	}
	f, err := v.FS(ctx)
	return v, f, err
}

// withTree makes a volume "v" with a quota, some files and a tree.
func withTree(ctx context.Context, s *vole.Store) error {
	_, f, err := volume(ctx, s, "v", vole.Spec{Quota: vole.MiB, Labels: vole.Labels{"k": "v"}})
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(
		f.WriteFile(ctx, "file", []byte("old contents"), 0o644),
		f.WriteFile(ctx, "other", []byte("other"), 0o600),
		f.WriteFile(ctx, "tree/a/b", []byte("b"), 0o644),
		f.WriteFile(ctx, "tree/c", []byte("cc"), 0o644),
		f.Link(ctx, "tree/c", "tree/d"),
		f.Symlink(ctx, "c", "tree/l"),
	)
}

// onFS is a step on the files of the volume of withTree.
func onFS(name string, op func(ctx context.Context, f *vole.FS) error) faultStep {
	return faultStep{name: name, setup: withTree, op: func(ctx context.Context, s *vole.Store) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		return errors.Join(op(ctx, f), f.Close())
	}}
}

func onVolume(name string, op func(ctx context.Context, v *vole.Volume) error) faultStep {
	return faultStep{name: name, setup: withTree, op: func(ctx context.Context, s *vole.Store) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		return op(ctx, v)
	}}
}

func loose(s faultStep) faultStep {
	s.loose = true
	return s
}

func handle(op func(ctx context.Context, h *vole.File) error) func(ctx context.Context, f *vole.FS) error {
	return func(ctx context.Context, f *vole.FS) error {
		h, err := f.Open(ctx, "file", vole.OpenOptions{Write: true})
		if err != nil {
			return err
		}
		return errors.Join(op(ctx, h), h.Close())
	}
}

// withDisk makes a disk volume "v" with some files and a tree.
func withDisk(ctx context.Context, s *vole.Store) error { return fillDisk(ctx, s, 16*vole.MiB) }

// withTinyDisk makes one that is too small for a log of its own.
func withTinyDisk(ctx context.Context, s *vole.Store) error { return fillDisk(ctx, s, 4*vole.MiB) }

func fillDisk(ctx context.Context, s *vole.Store, size vole.Size) error {
	_, f, err := volume(ctx, s, "v", vole.Spec{Kind: vole.KindDisk, Capacity: size})
	if err != nil {
		return err
	}
	return errors.Join(
		f.WriteFile(ctx, "file", []byte("old contents"), 0o644),
		f.WriteFile(ctx, "other", []byte("other"), 0o600),
		f.WriteFile(ctx, "tree/a/b", []byte("b"), 0o644),
		f.Link(ctx, "tree/a/b", "tree/d"),
		f.Close(),
	)
}

// onDisk makes a step one on the disk volume of withDisk.
func onDisk(s faultStep) faultStep {
	s.name, s.setup = "disk: "+s.name, withDisk
	return s
}

func onTinyDisk(s faultStep) faultStep {
	s.name, s.setup = "tiny disk: "+s.name, withTinyDisk
	return s
}

var steps = []faultStep{
	onTinyDisk(onVolume("grow", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{Capacity: 20 * vole.MiB})
	})),
	onTinyDisk(onFS("rename over", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "other", "file", vole.RenameOptions{})
	})),
	onTinyDisk(onFS("remove tree", func(ctx context.Context, f *vole.FS) error { return f.RemoveAll(ctx, "tree") })),
	{name: "disk: create", op: func(ctx context.Context, s *vole.Store) error {
		_, err := s.Create(ctx, "new", vole.Spec{Kind: vole.KindDisk, Capacity: 16 * vole.MiB})
		return err
	}},
	onDisk(onVolume("remove", func(ctx context.Context, v *vole.Volume) error { return v.Remove(ctx) })),
	onDisk(onVolume("remove unused", removeUnused)),
	onDisk(onVolume("grow", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{Capacity: 200 * vole.MiB})
	})),
	onDisk(onVolume("attach", func(ctx context.Context, v *vole.Volume) error {
		a, err := v.Attach(ctx, vole.AttachOptions{HostPath: true})
		if err != nil {
			return err
		}
		return a.Detach(ctx)
	})),
	onDisk(onFS("overwrite", func(ctx context.Context, f *vole.FS) error {
		return f.WriteFile(ctx, "file", []byte("new contents, longer"), 0o644)
	})),
	onDisk(onFS("append", handle(func(ctx context.Context, h *vole.File) error {
		_, err := h.Append(ctx, []byte(" and more"))
		return err
	}))),
	onDisk(onFS("truncate", func(ctx context.Context, f *vole.FS) error { return f.Truncate(ctx, "file", 3) })),
	onDisk(onFS("remove tree", func(ctx context.Context, f *vole.FS) error { return f.RemoveAll(ctx, "tree") })),
	onDisk(onFS("rename over", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "other", "file", vole.RenameOptions{})
	})),
	onDisk(onFS("copy tree", func(ctx context.Context, f *vole.FS) error {
		return f.Copy(ctx, "tree", "copy", vole.CopyOptions{})
	})),
	{name: "build", setup: withTree, op: func(ctx context.Context, s *vole.Store) error {
		_, err := s.Build(ctx, "w", vole.Spec{Quota: vole.MiB}, func(v *vole.Volume) error {
			f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
			if err != nil {
				return err
			}
			meta := vole.WriteOptions{Meta: &vole.FileMeta{Mode: 0o640, UID: os.Getuid(), GID: os.Getgid(), Mtime: time.Unix(1000, 0)}}
			_, werr := f.WriteFrom(ctx, "d/small", strings.NewReader("small"), meta)
			_, serr := f.WriteFrom(ctx, "d/beside", strings.NewReader("beside"), meta)
			return errors.Join(werr, serr, f.WriteFile(ctx, "d/large", make([]byte, 300<<10), 0o644), f.Close())
		})
		return err
	}},
	{name: "create", op: func(ctx context.Context, s *vole.Store) error {
		_, err := s.Create(ctx, "new", vole.Spec{Quota: vole.GiB, Labels: vole.Labels{"a": "b"}})
		return err
	}},
	onVolume("remove", func(ctx context.Context, v *vole.Volume) error { return v.Remove(ctx) }),
	onVolume("remove unused", removeUnused),
	onVolume("rename volume", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{Name: "w"})
	}),
	onVolume("relabel", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{SetLabels: vole.Labels{"x": "y"}, RemoveLabels: []string{"k"}})
	}),
	onVolume("set quota", func(ctx context.Context, v *vole.Volume) error {
		return v.Update(ctx, vole.Update{Quota: 2 * vole.MiB})
	}),
	onVolume("measure", func(ctx context.Context, v *vole.Volume) error { _, err := v.Measure(ctx); return err }),
	onVolume("attach", func(ctx context.Context, v *vole.Volume) error {
		a, err := v.Attach(ctx, vole.AttachOptions{HostPath: true, ReadOnly: true})
		if err != nil {
			return err
		}
		return a.Detach(ctx)
	}),
	{name: "attach past the FS", setup: func(ctx context.Context, s *vole.Store) error {
		_, err := s.Create(ctx, "v", vole.Spec{})
		return err
	}, op: func(ctx context.Context, s *vole.Store) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		a, err := v.Attach(ctx, vole.AttachOptions{HostPath: true})
		if err != nil {
			return err
		}
		err = os.WriteFile(filepath.Join(a.Path(), "written"), []byte("past"), 0o644)
		return errors.Join(err, a.Detach(ctx))
	}},
	loose(onFS("write new", func(ctx context.Context, f *vole.FS) error {
		return f.WriteFile(ctx, "p/q/new", []byte("new"), 0o644)
	})),
	onFS("overwrite", func(ctx context.Context, f *vole.FS) error {
		return f.WriteFile(ctx, "file", []byte("new contents, longer"), 0o644)
	}),
	onFS("append", handle(func(ctx context.Context, h *vole.File) error {
		_, err := h.Append(ctx, []byte(" and more"))
		return err
	})),
	onFS("truncate", func(ctx context.Context, f *vole.FS) error { return f.Truncate(ctx, "file", 3) }),
	onFS("remove file", func(ctx context.Context, f *vole.FS) error { return f.Remove(ctx, "file") }),
	onFS("remove tree", func(ctx context.Context, f *vole.FS) error { return f.RemoveAll(ctx, "tree") }),
	onFS("rename over", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "other", "file", vole.RenameOptions{})
	}),
	onFS("rename tree", func(ctx context.Context, f *vole.FS) error {
		return f.Rename(ctx, "tree", "moved", vole.RenameOptions{})
	}),
	onFS("copy over", func(ctx context.Context, f *vole.FS) error {
		return f.Copy(ctx, "other", "file", vole.CopyOptions{})
	}),
	loose(onFS("copy tree", func(ctx context.Context, f *vole.FS) error {
		return f.Copy(ctx, "tree", "into/copy", vole.CopyOptions{})
	})),
	loose(onFS("make directories", func(ctx context.Context, f *vole.FS) error { return f.MkdirAll(ctx, "x/y/z", 0o750) })),
	onFS("link", func(ctx context.Context, f *vole.FS) error { return f.Link(ctx, "file", "second") }),
	onFS("symlink", func(ctx context.Context, f *vole.FS) error { return f.Symlink(ctx, "file", "sym") }),
	onFS("chmod", func(ctx context.Context, f *vole.FS) error { return f.Chmod(ctx, "file", 0o400) }),
}

// state describes everything that users see of a home.
func state(t *testing.T, home string, loose bool) map[string]string {
	t.Helper()
	ctx := t.Context()
	s, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	defer closeChecked(t, s)
	out := map[string]string{}
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		i := v.Info()
		out[i.Name] = fmt.Sprintf("%v %v %v", i.Kind, i.Quota, i.Labels)
		f, err := v.FS(ctx)
		if err != nil {
			t.Fatalf("open %s: %v", i.Name, err)
		}
		err = fs.WalkDir(f.Std(ctx), ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && loose {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			e := info.Sys().(vole.Entry)
			data := ""
			if e.Mode.IsRegular() {
				b, err := f.ReadFile(ctx, p)
				if err != nil {
					return err
				}
				data = string(b)
			}
			out[i.Name+":"+p] = fmt.Sprintf("%v %d %q", e.Mode, e.Nlink*b2u(!d.IsDir()), data)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// closeChecked closes a store having made sure that nothing in the home is wrong.
func closeChecked(t *testing.T, s *vole.Store) {
	t.Helper()
	ctx := context.Background()
	if err := s.Check(ctx, vole.CheckOptions{}, func(f vole.Finding) error {
		t.Errorf("check: %s %s %s", f.Code, f.Path, f.Detail)
		return nil
	}); err != nil {
		t.Errorf("check: %v", err)
	}
	if list, err := s.Attachments(ctx); err != nil || len(list) > 0 {
		t.Errorf("attachments left: %v, %v", list, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func removeUnused(ctx context.Context, v *vole.Volume) error {
	return v.RemoveUnused(ctx, v.Info().LastUsed)
}

// openFaulty opens a home into whose operations the test injects faults.
func openFaulty(ctx context.Context, home string, faults *fault.Injector) (*vole.Store, error) {
	b, err := local.Open(ctx, home, local.WithFaults(local.Options{}, faults))
	if err != nil {
		return nil, err
	}
	return vole.New(b), nil
}

// setUp makes a home in which the step can run.
func (st faultStep) setUp(t *testing.T) (home string) {
	t.Helper()
	home = filepath.Join(t.TempDir(), "template")
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	if st.setup != nil {
		err = st.setup(t.Context(), s)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return home
}

// run runs the step on a home that is set up, with the hook in place of each operation.
func (st faultStep) run(ctx context.Context, home string, hook fault.Hook) error {
	faults := &fault.Injector{}
	s, err := openFaulty(ctx, home, faults)
	if err != nil {
		return err
	}
	faults.Set(hook)
	err = errors.Join(st.op(ctx, s), s.Close())
	return err
}

// prepare returns a home that is set up for a step, the states before and after the step,
// and how many operations of it can fail.
func prepare(t *testing.T, st faultStep) (template string, before, after map[string]string, faults int) {
	t.Helper()
	template = st.setUp(t)
	home := copyHome(t, template)
	before = state(t, home, st.loose)
	var n atomic.Int64
	err := st.run(t.Context(), home, func(op, what string, f func() error) error {
		n.Add(1)
		return f()
	})
	if err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	if n.Load() == 0 {
		t.Fatal("the step does nothing that could fail")
	}
	return template, before, state(t, home, st.loose), int(n.Load())
}

// judge checks what a step left: with success what it says, otherwise that or nothing.
func judge(t *testing.T, what string, home string, st faultStep, before, after map[string]string, succeeded bool) {
	t.Helper()
	failed := t.Failed()
	got := state(t, home, st.loose)
	if !failed && t.Failed() {
		t.Errorf("that was %s", what)
	}
	if maps.Equal(got, after) || !succeeded && maps.Equal(got, before) {
		return
	}
	t.Errorf("%s (success %v) left\n%s\nbefore it was\n%s\nand it should be\n%s", what, succeeded, show(got), show(before), show(after))
}

func show(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "  %s = %s\n", k, m[k])
	}
	return b.String()
}

// TestEveryFault fails every operation of every step once, with EIO and with ENOSPC.
func TestEveryFault(t *testing.T) {
	var tried atomic.Int64
	t.Run("steps", func(t *testing.T) {
		for _, st := range steps {
			t.Run(st.name, func(t *testing.T) {
				t.Parallel()
				template, before, after, faults := prepare(t, st)
				for name, errno := range map[string]syscall.Errno{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC} {
					for i := range int64(faults) {
						t.Run(fmt.Sprint(name, " at ", i), func(t *testing.T) {
							t.Parallel()
							tried.Add(1)
							failAt(t, st, template, before, after, i+1, errno)
						})
					}
				}
			})
		}
	})
	t.Logf("%d faults in %d steps", tried.Load(), len(steps))
}

// failAt runs a step on a copy of template, its nth operation failing.
func failAt(t *testing.T, st faultStep, template string, before, after map[string]string, nth int64, errno syscall.Errno) {
	home := copyHome(t, template)
	var n atomic.Int64
	var where string
	err := st.run(t.Context(), home, func(op, what string, f func() error) error {
		if n.Add(1) == nth {
			where = op + " " + what
			return errno
		}
		return f()
	})
	judge(t, where, home, st, before, after, err == nil)
}

// TestEveryKill kills the process before and after every operation of every step.
func TestEveryKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts hundreds of processes; -short is set")
	}
	for i, st := range steps {
		t.Run(st.name, func(t *testing.T) {
			t.Parallel()
			template, before, after, faults := prepare(t, st)
			for _, when := range []string{"before", "after"} {
				for n := range faults {
					home := copyHome(t, template)
					err := killedAt(t, i, home, when, n+1)
					judge(t, fmt.Sprintf("killed %s operation %d", when, n+1), home, st, before, after, err == nil)
					os.RemoveAll(filepath.Dir(home)) // hundreds of them would fill a tmpfs
				}
			}
		})
	}
}

// killedAt runs a step in a process that kills itself, and returns nil if the step
// had succeeded before it came to that.
func killedAt(t *testing.T, step int, home, when string, n int) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "VOLE_TEST_KILL="+fmt.Sprintf("%d %s %d %s", step, when, n, home))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Sys().(syscall.WaitStatus).Signaled() {
		// It was to die or to succeed. The count of operations may vary by a few,
		// with what runs in the background, so it may also end by itself.
		t.Fatalf("the process failed by itself: %v\n%s", err, out)
	}
	return err
}

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if spec := os.Getenv("VOLE_TEST_KILL"); spec != "" {
		dieInStep(spec)
	}
	if what := os.Getenv("VOLE_TEST_CHILD"); what != "" {
		beChild(what)
	}
	os.Exit(m.Run())
}

func dieInStep(spec string) {
	f := strings.SplitN(spec, " ", 4)
	st, _ := strconv.Atoi(f[0])
	at, _ := strconv.ParseInt(f[2], 10, 64)
	kill := func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	var n atomic.Int64
	err := steps[st].run(context.Background(), f[3], func(op, what string, do func() error) error {
		if n.Add(1) != at {
			return do()
		}
		if f[1] == "before" {
			kill()
		}
		err := do()
		kill()
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
