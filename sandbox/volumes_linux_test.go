package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// createVolume makes a volume, and the directory of its files.
func (e *env) createVolume(name string, spec vole.Spec) *vole.Volume {
	e.t.Helper()
	v, err := e.store.Create(testContext(e.t), name, spec)
	if err != nil {
		e.t.Fatal(err)
	}
	a, err := v.Attach(testContext(e.t), vole.AttachOptions{Holder: "test", HostPath: true, ReadOnly: true})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := a.Detach(testContext(e.t)); err != nil {
		e.t.Fatal(err)
	}
	return v
}

// volumePath is where a volume's files are on the host.
func (e *env) volumePath(name string) string {
	e.t.Helper()
	v, err := e.store.Get(testContext(e.t), name)
	if err != nil {
		e.t.Fatal(err)
	}
	return filepath.Join(e.home, "volumes", v.ID(), "data")
}

func TestModes(t *testing.T) {
	e := anyEnv(t)
	run := func(mount string) error {
		_, err := e.run(shellConfig(t, "true", mount), "")
		return err
	}
	if err := run("v:/v:mode=existing"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("existing, missing: %v", err)
	}
	if err := run("v:/v:ro"); !errors.Is(err, vole.ErrNotFound) || !strings.Contains(err.Error(), `"mode=ensure" makes it`) {
		t.Errorf("read-only, missing: %v", err)
	}
	if err := run("v:/v:ro,kind=disk,size=16M"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("read-only disk, missing: %v", err)
	}
	if _, err := e.store.Get(testContext(t), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("a read-only mount made a volume: %v", err)
	}
	if err := run("r:/v:ro,mode=ensure"); err != nil {
		t.Errorf("read-only, to be made: %v", err)
	}
	if err := run("v:/v:mode=create"); err != nil {
		t.Errorf("create, missing: %v", err)
	}
	if err := run("v:/v:mode=create"); !errors.Is(err, vole.ErrExists) {
		t.Errorf("create, there: %v", err)
	}
	if err := run("v:/v:mode=existing"); err != nil {
		t.Errorf("existing, there: %v", err)
	}
	if err := run("w:/v"); err != nil {
		t.Errorf("ensure, missing: %v", err)
	}
	if err := run("w:/v"); err != nil {
		t.Errorf("ensure, there: %v", err)
	}
	if err := run("w:/v:quota=1G"); !errors.Is(err, vole.ErrExists) || !strings.Contains(err.Error(), "quota") {
		t.Errorf("ensure, another quota: %v", err)
	}
	if err := run("w:/v:kind=disk,size=16M"); !errors.Is(err, vole.ErrExists) && !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("ensure, another kind: %v", err)
	}
	if err := run("x:/v:kind=disk"); !errors.Is(err, vole.ErrInvalid) || !strings.Contains(err.Error(), "size") {
		t.Errorf("disk without a size: %v", err)
	}
}

// What one mount makes is there for the others, whatever order they are given or mounted in.
func TestModesInAnyOrder(t *testing.T) {
	e := anyEnv(t)
	for name, options := range map[string][2]string{
		"ensured": {":ro", ""}, "created": {":ro", ":mode=create"}, "both": {"", ":mode=create"},
		"quota": {":ro", ":ro,quota=1G,mode=ensure"}, "kind": {":ro", ":kind=dir"},
	} {
		for i, mounts := range [][]string{
			{"/a" + options[0], "/b" + options[1]}, {"/b" + options[1], "/a" + options[0]},
			{"/b" + options[0], "/a" + options[1]}, {"/a" + options[1], "/b" + options[0]},
		} {
			volume := fmt.Sprintf("%s%d:", name, i)
			e.runShell("true", volume+mounts[0], volume+mounts[1])
		}
	}
	// What is to exist already is not what this call makes.
	for _, c := range []Config{shellConfig(t, "true", "x:/a:mode=existing", "x:/b"), shellConfig(t, "true", "x:/b:mode=existing", "x:/a")} {
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("%v: %v, want ErrNotFound", c.Mounts, err)
		}
		if _, err := e.store.Get(testContext(t), "x"); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("it was made: %v", err)
		}
	}
}

func TestQuotaIsRefused(t *testing.T) {
	e := anyEnv(t)
	e.createVolume("q", vole.Spec{Quota: vole.GiB})
	_, err := e.run(shellConfig(t, "true", "q:/q"), "")
	if !errors.Is(err, vole.ErrUnsupported) || !strings.Contains(err.Error(), "quota") {
		t.Errorf("rw: %v", err)
	}
	e.runShell("ls /q", "q:/q:ro")
	e.checkClean()
}

func TestRollBack(t *testing.T) {
	e := anyEnv(t)
	e.createVolume("old", vole.Spec{})
	e.runShell("echo x > /old/x", "old:/old")
	for name, c := range map[string]Config{
		"a later volume": shellConfig(t, "true", "new:/a", "old:/b", "gone:/c:mode=existing"),
		"a subpath":      shellConfig(t, "true", "new:/a", "old:/b:ro,subpath=nosuch"),
		"the command":    {Args: []string{"nosuch"}, Mounts: shellConfig(t, "", "new:/a", "old:/b").Mounts},
	} {
		if _, err := e.run(c, ""); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := e.store.Get(testContext(t), "new"); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("%s: the new volume is left: %v", name, err)
		}
		if got := e.runShell("cat /old/x", "old:/old:ro"); got != "x\n" {
			t.Errorf("%s: the old volume holds %q", name, got)
		}
	}
	e.checkClean()
}

// Of a volume that this run made in vain, what another put into it meanwhile is kept,
// however little it is; what the run itself made there is not a reason to keep it.
func TestRollBackKeepsOthersFiles(t *testing.T) {
	for name, put := range map[string]func(dir string) error{
		"file":           func(dir string) error { return os.WriteFile(dir+"/f", nil, 0o600) },
		"dir":            func(dir string) error { return os.Mkdir(dir+"/d", 0o700) },
		"link":           func(dir string) error { return os.Symlink("nowhere", dir+"/l") },
		"deep":           func(dir string) error { return os.MkdirAll(dir+"/sub/path/d", 0o700) },
		"beside a mount": func(dir string) error { return os.MkdirAll(dir+"/sub/beside", 0o700) },
		"none":           func(dir string) error { return os.MkdirAll(dir+"/sub/path/in/it", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			e := anyEnv(t)
			v := e.createVolume("new", vole.Spec{})
			if err := put(e.volumePath("new")); err != nil {
				t.Fatal(err)
			}
			r := &supervisedSandbox{m: e.m, madeVolumes: []*vole.Volume{v}, c: shellConfig(t, "", "other:/o", "new:/n:subpath=sub/path", "other:/n/in/it")}
			if err := r.removeMadeVolumes(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := e.store.Get(testContext(t), "new"); (name == "none") != errors.Is(err, vole.ErrNotFound) || name != "none" && err != nil {
				t.Errorf("the volume: %v", err)
			}
		})
	}
	e := anyEnv(t)
	c := Config{Args: []string{"nosuch"}, Mounts: shellConfig(t, "", "new:/n:subpath=sub/path", "new2:/n/in/it", "new2:/m/deep").Mounts}
	if _, err := e.run(c, ""); err == nil {
		t.Error("it ran")
	}
	for _, name := range []string{"new", "new2"} {
		if _, err := e.store.Get(testContext(t), name); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func TestParentsBeforeChildren(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "echo c > /x/y/z/f; echo b > /x/y/f; echo a > /x/f", "c:/x/y/z", "a:/x", "b:/x/y")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Fatalf("%+v, %v", o, err)
		}
		for _, name := range []string{"a", "b", "c"} {
			if b, err := os.ReadFile(filepath.Join(e.volumePath(name), "f")); err != nil || string(b) != name+"\n" {
				t.Errorf("volume %s: %q, %v", name, b, err)
			}
		}
	})
}

func TestGuestPaths(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		for _, p := range []string{"/data", "/a/b/c", "/usr/local/share/vole-test/x", "/etc/vole-test", "/opt", "/root/.cache",
			"/tmp", "/tmp/x", "/var/lib/thing", "/home/user", "/run/thing", "/lib/vole-test"} {
			c := shellConfig(t, "echo x > "+p+"/file && ls /usr/bin/env /etc/passwd > /dev/null", "v:"+p)
			c.Runtime = runtime
			if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
				t.Errorf("%s: %+v, %v", p, o, err)
				continue
			}
			if err := os.Remove(filepath.Join(e.volumePath("v"), "file")); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	})
	for _, p := range []string{"/usr/local/share/vole-test", "/etc/vole-test", "/usr/lib/vole-test"} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s was made on the host", p)
		}
	}
}

func TestMountFlags(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		e.createVolume("v", vole.Spec{})
		dir := e.volumePath("v")
		for name, mode := range map[string]os.FileMode{"suid": 0o755 | os.ModeSetuid, "prog": 0o755} {
			b, err := os.ReadFile("/usr/bin/id")
			if err != nil {
				t.Skip(err)
			}
			if err := errors.Join(os.WriteFile(filepath.Join(dir, name), b, 0o755), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
				t.Fatal(err)
			}
		}
		for opt, script := range map[string]string{
			"ro":     "! touch /v/x 2>/dev/null && ! rm /v/prog 2>/dev/null && ! chmod 700 /v/prog 2>/dev/null && /v/prog >/dev/null",
			"noexec": "! /v/prog 2>/dev/null && touch /v/x",
			"rw":     "/v/prog >/dev/null && touch /v/x",
			"nosuid": "grep ' /v ' /proc/mounts | grep -q nosuid",
			"nodev":  "grep ' /v ' /proc/mounts | grep -q nodev",
		} {
			if runtime == "runsc" && strings.HasPrefix(opt, "no") && opt != "noexec" {
				continue // its mounts file does not show them
			}
			c := shellConfig(t, script, "v:/v:"+opt)
			c.Runtime = runtime
			if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
				t.Errorf("%s: %+v, %v", opt, o, err)
			}
		}
		// The same volume, for reading at one place and for writing at another.
		c := shellConfig(t, "touch /w/y && ! touch /r/z 2>/dev/null && ls /r/y", "v:/w", "v:/r:ro")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Errorf("twice: %+v, %v", o, err)
		}
	})
}

func TestSubpath(t *testing.T) {
	e := anyEnv(t)
	e.createVolume("v", vole.Spec{})
	dir := e.volumePath("v")
	other := filepath.Join(e.home, "secret")
	for _, err := range []error{
		os.Mkdir(other, 0o755), os.WriteFile(filepath.Join(other, "s"), nil, 0o644),
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("deep\n"), 0o644),
		os.Symlink("a", filepath.Join(dir, "in")), os.Symlink("../../../secret", filepath.Join(dir, "up")),
		os.Symlink(other, filepath.Join(dir, "abs")), os.Symlink("/etc", filepath.Join(dir, "etc")),
		os.Symlink("loop", filepath.Join(dir, "loop")), os.Symlink("../nosuch", filepath.Join(dir, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := e.runShell("cat /v/f", "v:/v:ro,subpath=a/b"); got != "deep\n" {
		t.Errorf("%q", got)
	}
	if got := e.runShell("cat /v/f", "v:/v:ro,subpath=in/b"); got != "deep\n" {
		t.Errorf("through a link inside: %q", got)
	}
	e.runShell("echo n > /v/f", "v:/v:subpath=new/dir")
	if b, err := os.ReadFile(filepath.Join(dir, "new/dir/f")); err != nil || string(b) != "n\n" {
		t.Errorf("made: %q, %v", b, err)
	}
	for sub, kind := range map[string]error{
		"up": vole.ErrPathEscape, "abs": vole.ErrPathEscape, "etc": vole.ErrPathEscape, "abs/x": vole.ErrPathEscape,
		"dangling": vole.ErrPathEscape, "dangling/x": vole.ErrPathEscape, "loop": vole.ErrLoop, "a/b/f": vole.ErrNotDir,
	} {
		if _, err := e.run(shellConfig(t, "ls /v", "v:/v:subpath="+sub), ""); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", sub, err, kind)
		}
	}
	if _, err := e.run(shellConfig(t, "true", "v:/v:ro,subpath=missing"), ""); !errors.Is(err, vole.ErrNotExist) {
		t.Errorf("missing, ro: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), "nosuch")); err == nil {
		t.Error("a directory was made outside the volume")
	}
}

// A link that is swapped while the mount is made must never lead outside.
func TestSubpathRace(t *testing.T) {
	e := anyEnv(t)
	e.createVolume("v", vole.Spec{})
	dir := e.volumePath("v")
	outside := filepath.Join(e.home, "outside")
	if err := errors.Join(os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "secret"), nil, 0o644), os.Mkdir(filepath.Join(dir, "d"), 0o755)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "kept"))
			os.Symlink(outside, filepath.Join(dir, "d"))
			os.Remove(filepath.Join(dir, "d"))
			os.Rename(filepath.Join(dir, "kept"), filepath.Join(dir, "d"))
		}
	}()
	for range 40 {
		var out bytes.Buffer
		_, err := e.m.Run(testContext(t), shellConfig(t, "ls /v", "v:/v:subpath=d"), IO{Stdout: &out})
		if err == nil && strings.Contains(out.String(), "secret") {
			t.Fatal("the sandbox saw what is outside the volume")
		}
	}
	cancel()
	<-done
}

func TestRemovalIsRefusedWhileAttached(t *testing.T) {
	e := anyEnv(t)
	c := shellConfig(t, "sleep 60", "v:/v")
	c.Name = "holder"
	i, err := e.m.Start(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.store.Remove(testContext(t), "v"); !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), "sandbox holder") {
		t.Errorf("remove: %v", err)
	}
	if err := e.m.Pause(testContext(t), i.Name); err != nil {
		t.Error(err)
	}
	if err := e.store.Remove(testContext(t), "v"); !errors.Is(err, vole.ErrInUse) {
		t.Errorf("remove, paused: %v", err)
	}
	if err := e.m.Stop(testContext(t), i.Name, 0); err != nil {
		t.Error(err)
	}
	if err := e.store.Remove(testContext(t), "v"); err != nil {
		t.Errorf("remove, stopped: %v", err)
	}
	e.checkClean()
}
