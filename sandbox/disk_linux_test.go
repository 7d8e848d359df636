package sandbox

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/loop"
)

const diskMount = "kind=disk,size=32M"

// diskEnv is anyEnv on a host that has loop devices.
func diskEnv(t *testing.T) *env {
	t.Helper()
	e := anyEnv(t)
	needLoop(t)
	return e
}

func needLoop(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	dev, err := loop.Attach(f, true)
	if err != nil {
		t.Skip("the kernel gives no loop devices here: ", err)
	}
	dev.Close()
}

// diskImagePath is where a disk volume's image is on the host.
func (e *env) diskImagePath(name string) string {
	return filepath.Join(filepath.Dir(e.volumePath(name)), "disk.raw")
}

// loopDevicesOf lists the loop devices of a home.
func loopDevicesOf(home string) []string {
	var found []string
	list, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range list {
		if b, _ := os.ReadFile(p); strings.Contains(string(b), home) {
			found = append(found, p)
		}
	}
	return found
}

// checkDiskSound checks the file system of a volume that nobody uses.
func (e *env) checkDiskSound(name string) {
	e.t.Helper()
	f, err := os.Open(e.diskImagePath(name))
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	err = ext4.Check(testContext(e.t), f, ext4.CheckOptions{}, func(p ext4.Problem) error {
		e.t.Errorf("%s: %v", name, p)
		return nil
	})
	if err != nil {
		e.t.Error(err)
	}
}

func TestDisk(t *testing.T) {
	needLoop(t)
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		run := func(script string, mounts ...string) string {
			t.Helper()
			c := shellConfig(t, script, mounts...)
			c.Runtime = runtime
			o, err := e.run(c, "")
			if err != nil || o.ExitCode != 0 {
				t.Fatalf("%+v, %v", o, err)
			}
			return o.out
		}
		run("mkdir -p /v/a/b; echo deep > /v/a/b/f; chown 12:34 /v/a", "v:/v:"+diskMount)
		if got := run("cat /v/a/b/f; stat -c %u:%g /v/a; ! touch /v/x 2>/dev/null", "v:/v:ro"); got != "deep\n12:34\n" {
			t.Errorf("%q", got)
		}
		v, err := e.store.Get(testContext(t), "v")
		if err != nil {
			t.Fatal(err)
		}
		if i := v.Info(); i.Used != 5 || i.UsedStale || i.Capacity != 32*vole.MiB {
			t.Errorf("%+v", i)
		}
		// Twice, for writing and for reading; and a part of it.
		run("touch /w/y; ! touch /r/z 2>/dev/null && ls /r/y", "v:/w", "v:/r:ro")
		if got := run("cat /v/b/f; echo new > /s/n", "v:/v:ro,subpath=a", "v:/s:subpath=made/here"); got != "deep\n" {
			t.Errorf("%q", got)
		}
		run("cat /v/made/here/n", "v:/v:mode=existing")
		run("cp /bin/true /v; ! /v/true 2>/dev/null", "v:/v:noexec,nosuid,nodev")
		e.checkClean()
		e.checkDiskSound("v")
	})
}

func TestDiskModes(t *testing.T) {
	e := diskEnv(t)
	e.runShell("true", "v:/v:mode=create,"+diskMount)
	e.runShell("true", "v:/v:"+diskMount)
	e.runShell("true", "odd:/v:kind=disk,size=33333333")
	e.runShell("true", "odd:/v:kind=disk,size=33333333") // is rounded up each time
	for mount, kind := range map[string]error{
		"v:/v:kind=disk,size=64M":        vole.ErrExists,
		"v:/v:kind=dir":                  vole.ErrExists,
		"v:/v:mode=create," + diskMount:  vole.ErrExists,
		"new:/v:kind=disk":               vole.ErrInvalid,
		"new:/v:kind=disk,size=1M":       vole.ErrInvalid,
		"new:/v:kind=disk,mode=existing": vole.ErrNotFound,
	} {
		if _, err := e.run(shellConfig(t, "true", mount), ""); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", mount, err, kind)
		}
	}
	e.checkClean()
}

func TestDiskSubpathEscapes(t *testing.T) {
	e := diskEnv(t)
	e.runShell("ln -s /etc /v/abs; ln -s ../.. /v/up; ln -s loop /v/loop; touch /v/f; ln -s ../nosuch /v/dangling", "v:/v:"+diskMount)
	for sub, kind := range map[string]error{
		"abs": vole.ErrPathEscape, "up": vole.ErrPathEscape, "up/x": vole.ErrPathEscape, "dangling": vole.ErrPathEscape,
		"loop": vole.ErrLoop, "f": vole.ErrNotDir,
	} {
		if _, err := e.run(shellConfig(t, "ls /v", "v:/v:subpath="+sub), ""); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", sub, err, kind)
		}
	}
	e.checkClean()
}

// What was made in vain is gone, and nothing is left mounted.
func TestDiskRollBack(t *testing.T) {
	e := diskEnv(t)
	for name, c := range map[string]Config{
		"a later volume":  shellConfig(t, "true", "new:/a:"+diskMount, "gone:/c:mode=existing"),
		"a later subpath": shellConfig(t, "true", "new:/a:"+diskMount, "new:/b:ro,subpath=nosuch"),
		"the command":     {Args: []string{"nosuch"}, Mounts: shellConfig(t, "", "new:/a:"+diskMount, "new:/b/c:subpath=x/y").Mounts},
	} {
		if _, err := e.run(c, ""); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := e.store.Get(testContext(t), "new"); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("%s: the new volume is left: %v", name, err)
		}
		e.checkClean()
	}
}

// One writer or many readers, and nobody else meanwhile.
func TestDiskIsHeld(t *testing.T) {
	e := diskEnv(t)
	ctx := testContext(t)
	start := func(name, mount string) {
		t.Helper()
		c := shellConfig(t, "sleep 60", mount)
		c.Name = name
		if _, err := e.m.Start(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	files := func(readOnly bool) error {
		v, err := e.store.Get(ctx, "v")
		if err != nil {
			t.Fatal(err)
		}
		f, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: readOnly})
		if err == nil {
			err = f.Close()
		}
		return err
	}
	start("writer", "v:/v:"+diskMount)
	_, err := e.run(shellConfig(t, "true", "v:/v:ro"), "")
	for what, err := range map[string]error{"a reader": err, "files": files(true), "removal": e.store.Remove(ctx, "v")} {
		if !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), "sandbox writer") {
			t.Errorf("beside a writer: %s: %v", what, err)
		}
	}
	if err := e.m.Stop(ctx, "writer", 0); err != nil {
		t.Fatal(err)
	}
	start("r1", "v:/v:ro")
	start("r2", "v:/v:ro")
	_, err = e.run(shellConfig(t, "true", "v:/v"), "")
	for what, err := range map[string]error{"a writer": err, "changes": files(false), "removal": e.store.Remove(ctx, "v")} {
		if !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), "sandbox r1") {
			t.Errorf("beside readers: %s: %v", what, err)
		}
	}
	if err := files(true); err != nil {
		t.Errorf("reading beside readers: %v", err)
	}
	for _, name := range []string{"r1", "r2"} {
		if err := e.m.Stop(ctx, name, 0); err != nil {
			t.Fatal(err)
		}
	}
	e.checkClean()
	if err := e.store.Remove(ctx, "v"); err != nil {
		t.Error(err)
	}
}

// Whatever is killed, the kernel unmounts, and the next one has the volume at once.
func TestDiskKill(t *testing.T) {
	for victim := range victims {
		t.Run(victim, func(t *testing.T) {
			e := diskEnv(t)
			c := shellConfig(t, "echo kept > /v/kept; sync /v; touch /up/up; while :; do echo x >> /v/f; done", "v:/v:"+diskMount, "up:/up")
			c.Name = "victim"
			i, err := e.m.Start(testContext(t), c)
			if err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "the command", func() bool { _, err := os.Stat(e.volumePath("up") + "/up"); return err == nil })
			pid := victims[victim](i.PID)
			if pid <= 1 {
				t.Fatal("victim not found")
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "unmounted", func() bool { return len(loopDevicesOf(e.home)) == 0 })
			waitUntil(t, "end", func() bool {
				if err := e.m.Reap(testContext(t)); err != nil {
					t.Fatal(err)
				}
				return !e.statusOf("victim").Live()
			})
			e.checkDiskSound("v")
			if got := e.runShell("cat /v/kept", "v:/v:ro"); got != "kept\n" {
				t.Errorf("%q", got)
			}
			e.checkClean()
			if err := e.store.Remove(testContext(t), "v"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A log that a crash left is replayed before an image is mounted for reading only.
func TestDiskDirtyLog(t *testing.T) {
	e := diskEnv(t)
	e.runShell("echo f > /v/f", "v:/v:"+diskMount)
	c := shellConfig(t, "mkdir /v/logged; sync /v; touch /up/up; sleep 60", "v:/v", "up:/up")
	c.Name = "box"
	if _, err := e.m.Start(testContext(t), c); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the command", func() bool { _, err := os.Stat(e.volumePath("up") + "/up"); return err == nil })
	crashed := copyImage(t, e.diskImagePath("v")) // as a power cut would leave it
	if err := e.m.Stop(testContext(t), "box", 0); err != nil {
		t.Fatal(err)
	}
	v := e.createVolume("w", vole.Spec{Kind: vole.KindDisk, Capacity: 32 * vole.MiB})
	a, err := v.Attach(testContext(t), vole.AttachOptions{Holder: "test", HostPath: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(a.Path(), crashed, 0o600), a.Detach(testContext(t))); err != nil {
		t.Fatal(err)
	}
	if !isLogDirty(e.diskImagePath("w")) {
		t.Fatal("the copy of a mounted image is not dirty")
	}
	if got := e.runShell("cat /w/f; ls -d /w/logged", "w:/w:ro"); got != "f\n/w/logged\n" {
		t.Errorf("%q", got)
	}
	e.checkClean()
}

func copyImage(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An image that the kernel cannot mount says so, and leaves nothing.
func TestDiskDamaged(t *testing.T) {
	e := diskEnv(t)
	v := e.createVolume("v", vole.Spec{Kind: vole.KindDisk, Capacity: 32 * vole.MiB})
	a, err := v.Attach(testContext(t), vole.AttachOptions{Holder: "test", HostPath: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(a.Path(), make([]byte, 32<<20), 0o600), a.Detach(testContext(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := e.run(shellConfig(t, "true", "v:/v"), ""); !errors.Is(err, vole.ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if len(loopDevicesOf(e.home)) > 0 {
		t.Error("a loop device is left")
	}
	e.checkClean()
}
