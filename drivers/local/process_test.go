//go:build unix

package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/fault"
)

// childFaults are injected into what a child does.
var childFaults fault.Injector

// children are what the test binary does when it is started as another process. Each
// prints a line when it is ready and then waits for its input to end.
var children = map[string]func(ctx context.Context, s *vole.Store, ready func(string)) error{
	"attach": func(ctx context.Context, s *vole.Store, ready func(string)) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		a, err := v.Attach(ctx, vole.AttachOptions{Holder: "the child", HostPath: true})
		if err != nil {
			return err
		}
		ready(a.Path())
		return a.Detach(ctx)
	},
	// fill appends to a file of its own until the quota is reached.
	"fill": func(ctx context.Context, s *vole.Store, ready func(string)) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		ready("")
		h, err := f.Open(ctx, fmt.Sprint("file", os.Getpid()), vole.OpenOptions{Append: true, Create: true})
		for err == nil {
			_, err = h.Append(ctx, make([]byte, 1000))
		}
		if !errors.Is(err, vole.ErrQuota) {
			return err
		}
		return errors.Join(h.Close(), f.Close())
	},
	// build fills a new volume "built", and is not done with it when it says so.
	"build": func(ctx context.Context, s *vole.Store, ready func(string)) error {
		_, err := s.Build(ctx, "built", buildSpec(os.Getenv("VOLE_TEST_KIND")), func(v *vole.Volume) error {
			f, err := v.FS(ctx)
			if err != nil {
				return err
			}
			err = f.WriteFile(ctx, "d/f", make([]byte, 1000), 0o644)
			ready(v.ID())
			return errors.Join(err, f.Close())
		})
		return err
	},
	// measure holds all locks of the volume while it counts, which takes long here.
	"measure": func(ctx context.Context, s *vole.Store, ready func(string)) error {
		v, err := s.Get(ctx, "v")
		if err != nil {
			return err
		}
		var once sync.Once
		childFaults.Set(func(op, _ string, f func() error) error {
			if op == "sql.begin" { // between counting and noting the result
				once.Do(func() { ready("") })
			}
			return f()
		})
		_, err = v.Measure(ctx)
		return err
	},
}

// child is a running process of children.
type child struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
	t   *testing.T
}

func startChild(t *testing.T, what, home string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "VOLE_TEST_CHILD="+what, "VOLE_TEST_HOME="+home)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &child{cmd, in, bufio.NewReader(out), t}
}

// ready waits for the child's line.
func (c *child) ready() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the child said nothing: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *child) goOn() { c.in.Close() }

func (c *child) wait() {
	c.t.Helper()
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("child: %v", err)
	}
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

func beChild(what string) {
	s, err := openFaulty(context.Background(), os.Getenv("VOLE_TEST_HOME"), &childFaults)
	if err == nil {
		err = children[what](context.Background(), s, func(line string) {
			fmt.Println(line)
			io.Copy(io.Discard, os.Stdin)
		})
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, what, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// homeWith opens a home with one volume "v".
func homeWith(t *testing.T, spec vole.Spec) (home string, s *vole.Store, v *vole.Volume) {
	t.Helper()
	home, s, v, _ = faultyHomeWith(t, spec)
	return home, s, v
}

// faultyHomeWith is homeWith for a test that injects faults into what the store does.
func faultyHomeWith(t *testing.T, spec vole.Spec) (home string, s *vole.Store, v *vole.Volume, faults *fault.Injector) {
	t.Helper()
	home, faults = filepath.Join(t.TempDir(), "home"), &fault.Injector{}
	s, err := openFaulty(t.Context(), home, faults)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeChecked(t, s) })
	v, err = s.Create(t.Context(), "v", spec)
	if err != nil {
		t.Fatal(err)
	}
	return home, s, v, faults
}

func TestAttachmentEndsWithItsProcess(t *testing.T) {
	home, s, v := homeWith(t, vole.Spec{})
	ctx := t.Context()
	c := startChild(t, "attach", home)
	path := c.ready()

	err := s.Remove(ctx, "v")
	if !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), `"the child"`) || !strings.Contains(err.Error(), fmt.Sprint(c.cmd.Process.Pid)) {
		t.Fatalf("removing what a child uses: %v", err)
	}
	list, err := v.Attachments(ctx)
	if err != nil || len(list) != 1 || list[0].PID != c.cmd.Process.Pid || time.Since(list[0].Started) > time.Hour {
		t.Fatalf("attachments %+v, %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(path, "past"), make([]byte, 123), 0o644); err != nil {
		t.Fatal(err)
	}
	c.kill()
	if list, err := v.Attachments(ctx); err != nil || len(list) != 0 {
		t.Fatalf("attachments of the dead: %+v, %v", list, err)
	}
	if info, err := v.Refresh(ctx); err != nil || !info.UsedStale {
		t.Errorf("usage %d is not marked as stale, %v", info.Used, err)
	}
	if info, err := v.Measure(ctx); err != nil || info.UsedStale || info.Used != 123 {
		t.Errorf("measured %+v, %v", info, err)
	}
	if err := s.Remove(ctx, "v"); err != nil {
		t.Error(err)
	}
}

func TestDetachMeasures(t *testing.T) {
	home, _, v := homeWith(t, vole.Spec{})
	c := startChild(t, "attach", home)
	if err := os.WriteFile(filepath.Join(c.ready(), "past"), make([]byte, 321), 0o644); err != nil {
		t.Fatal(err)
	}
	c.wait()
	if info, err := v.Refresh(t.Context()); err != nil || info.UsedStale || info.Used != 321 {
		t.Errorf("after detaching: %+v, %v", info, err)
	}
}

func buildSpec(kind string) vole.Spec {
	if kind == string(vole.KindDisk) {
		return vole.Spec{Kind: vole.KindDisk, Capacity: 16 * vole.MiB}
	}
	return vole.Spec{}
}

// TestKilledBuilder makes sure that a volume of which the builder died is gone, and
// leaves one alone whose builder lives.
func TestKilledBuilder(t *testing.T) {
	for _, kind := range []vole.Kind{vole.KindDir, vole.KindDisk} {
		t.Run(string(kind), func(t *testing.T) {
			t.Setenv("VOLE_TEST_KIND", string(kind))
			home, s, _ := homeWith(t, vole.Spec{})
			c := startChild(t, "build", home)
			id := c.ready()
			spec := buildSpec(string(kind))
			if _, err := s.Create(t.Context(), "built", spec); !errors.Is(err, vole.ErrExists) {
				t.Errorf("the name of a draft: %v", err)
			}
			again, err := vole.Open(t.Context(), vole.Options{Home: home}) // recovers the dead
			if err != nil {
				t.Fatal(err)
			}
			closeChecked(t, again)
			if _, err := os.Stat(filepath.Join(home, "volumes", id)); err != nil {
				t.Errorf("the draft of a live process: %v", err)
			}
			c.kill()
			v, err := s.Create(t.Context(), "built", spec)
			if err != nil {
				t.Fatalf("the name of a dead draft: %v", err)
			}
			if _, err := os.Stat(filepath.Join(home, "volumes", id)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the dead draft's directory: %v", err)
			}
			if err := v.Remove(t.Context()); err != nil {
				t.Error(err)
			}
			startChild(t, "build", home).wait()
			f, err := must1(t, s, "built").FS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b, err := f.ReadFile(t.Context(), "d/f"); err != nil || len(b) != 1000 {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func must1(t *testing.T, s *vole.Store, name string) *vole.Volume {
	t.Helper()
	v, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestQuotaAmongProcesses lets several processes write until nothing fits.
func TestQuotaAmongProcesses(t *testing.T) {
	const quota = 500_500
	home, _, v := homeWith(t, vole.Spec{Quota: quota})
	var cs []*child
	for range 4 {
		c := startChild(t, "fill", home)
		c.ready()
		cs = append(cs, c)
	}
	for _, c := range cs {
		c.goOn()
	}
	for _, c := range cs {
		c.wait()
	}
	info, err := v.Refresh(t.Context())
	if err != nil || info.UsedStale || info.Used != quota/1000*1000 {
		t.Errorf("used %d, stale %v, %v; want %d", info.Used, info.UsedStale, err, quota/1000*1000)
	}
	if real, err := v.Measure(t.Context()); err != nil || real.Used != info.Used {
		t.Errorf("measured %d, %v; the counter said %d", real.Used, err, info.Used)
	}
}

// TestKilledWriterWithQuota makes sure that a quota is not kept by a figure that a
// killed process left behind.
func TestKilledWriterWithQuota(t *testing.T) {
	home, s, v := homeWith(t, vole.Spec{Quota: 1 << 30})
	ctx := t.Context()
	c := startChild(t, "fill", home)
	c.ready()
	c.goOn()
	for size := int64(0); size < 5000; {
		info, err := v.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		size = int64(info.Used)
	}
	c.kill()
	if info, err := v.Refresh(ctx); err != nil || info.Used < 5000 {
		t.Errorf("%+v, %v", info, err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile(ctx, "mine", make([]byte, 77), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := v.Refresh(ctx)
	if err != nil || info.UsedStale {
		t.Errorf("after another has begun to write: %+v, %v", info, err)
	}
	if real, err := v.Measure(ctx); err != nil || real.Used != info.Used {
		t.Errorf("measured %d, %v; the counter said %d", real.Used, err, info.Used)
	}
	if err := errors.Join(f.Close(), s.Remove(ctx, "v")); err != nil {
		t.Error(err)
	}
}

// TestHeldLock makes a volume wait for a process that holds it, and no other.
func TestHeldLock(t *testing.T) {
	home, s, v := homeWith(t, vole.Spec{})
	ctx := t.Context()
	other, err := s.Create(ctx, "other", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.WriteFile(ctx, "x", nil, 0); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "measure", home)
	c.ready()

	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = f.WriteFile(short, "y", nil, 0)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", c.cmd.Process.Pid)) {
		t.Errorf("writing to a volume that is held: %v", err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("gave up after %v", d)
	}
	of, err := other.FS(ctx)
	if err == nil {
		err = errors.Join(of.WriteFile(ctx, "y", nil, 0), of.Close())
	}
	if err != nil {
		t.Errorf("another volume: %v", err)
	}
	if _, err := f.ReadFile(ctx, "x"); err != nil {
		t.Errorf("reading from the held volume: %v", err)
	}
	c.wait()
	if err := f.WriteFile(ctx, "y", nil, 0); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

// TestNoDescriptorLeaks looks at what a child of a process with everything open inherits.
func TestNoDescriptorLeaks(t *testing.T) {
	home, _, v := homeWith(t, vole.Spec{})
	ctx := t.Context()
	a, err := v.Attach(ctx, vole.AttachOptions{HostPath: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Detach(ctx)
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := f.Open(ctx, "x", vole.OpenOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc")
	}
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), home) {
		t.Errorf("a child inherits descriptors of the home:\n%s", out)
	}
	// The test can only fail if there is something to inherit.
	own, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range own {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		found = found || strings.HasPrefix(target, home)
	}
	if !found {
		t.Error("this process has nothing of the home open")
	}
}
