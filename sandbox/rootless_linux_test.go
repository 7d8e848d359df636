package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// rootlessEnv tells the test binary, started again as another user, where it may work.
const rootlessEnv = "VOLE_TEST_ROOTLESS"

// TestRootless runs rootless as a user that is not root.
func TestRootless(t *testing.T) {
	if os.Getenv(rootlessEnv) != "" {
		runUserTests(t)
		return
	}
	exe, dir, cred := "/proc/self/exe", "", (*syscall.Credential)(nil)
	if os.Geteuid() == 0 {
		var err error
		if dir, err = os.MkdirTemp("", "vole-rootless-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		const uid = 54321 // no one's
		b, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		exe = filepath.Join(dir, "test")
		if err := errors.Join(os.WriteFile(exe, b, 0o755), os.Chown(dir, uid, uid), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		for _, name := range Runtimes {
			makeZeroDevice(t, filepath.Join(dir, "zero-"+name)) // for rootlessDevices
		}
		cred = &syscall.Credential{Uid: uid, Gid: uid}
	} else {
		dir = t.TempDir()
	}
	if err := userNamespaces(cred); err != nil {
		t.Skip("users may not make user namespaces here: ", err)
	}
	c := exec.Command(exe, "-test.v", "-test.run", "^TestRootless$", "-test.timeout", "3m")
	c.Env = append(os.Environ(), rootlessEnv+"="+dir, "TMPDIR="+dir, "HOME="+dir)
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestRootless/Run/") {
		t.Skipf("no runtime works rootless:\n%s", out)
	}
	t.Logf("%s", out)
}

// runUserTests is what the other user tests.
func runUserTests(t *testing.T) {
	t.Run("Run", rootlessRun)
	t.Run("HostIsHidden", rootlessHostIsHidden)
	t.Run("Modes", rootlessModes)
	t.Run("Limits", rootlessLimits)
	t.Run("Disk", rootlessDisk)
	t.Run("Rootfs", rootlessRootfs)
	t.Run("Kill", rootlessKill)
	t.Run("WorkdirInProc", func(t *testing.T) { eachRootless(t, checkWorkdirs) })
	t.Run("ImageWorkdirInProc", func(t *testing.T) { eachRootless(t, checkImageWorkdirs) })
	t.Run("OddRoots", func(t *testing.T) { eachRootless(t, checkOddRoots) })
	t.Run("WorkdirSwapped", func(t *testing.T) { eachRootless(t, checkSwappedWorkdir) })
	t.Run("ReaperIsEmpty", func(t *testing.T) { eachRootless(t, checkReaper) })
	t.Run("CommandInProc", func(t *testing.T) { eachRootless(t, checkMagicCommands) })
	t.Run("Devices", rootlessDevices)
	t.Run("Seccomp", func(t *testing.T) { eachRootless(t, checkSeccomp) })
	t.Run("MountIsNotRedirected", func(t *testing.T) { eachRootless(t, checkRedirectedMounts) })
	t.Run("MovedMounts", func(t *testing.T) { eachRootless(t, checkMovedMounts) })
}

func userNamespaces(cred *syscall.Credential) error {
	c := exec.Command("unshare", "-Ur", "true")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	return c.Run()
}

// eachRootless runs fn with every runtime that is installed, as the other user.
func eachRootless(t *testing.T, fn func(t *testing.T, e *env, runtime string)) {
	for _, name := range Runtimes {
		t.Run(name, func(t *testing.T) {
			if _, err := findRuntimeBinary(name); err != nil {
				t.Skip(err)
			}
			fn(t, openEnv(t, filepath.Join(tempHome(t), "home")), name)
		})
	}
}

func rootlessDisk(t *testing.T) {
	e := openEnv(t, filepath.Join(tempHome(t), "home"))
	_, err := e.run(shellConfig(t, "true", "v:/v:kind=disk,size=32M"), "")
	if !errors.Is(err, vole.ErrUnsupported) || !strings.Contains(err.Error(), "only root can mount a disk volume") {
		t.Errorf("%v", err)
	}
	if _, err := e.store.Get(testContext(t), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("the volume is left: %v", err)
	}
}

func rootlessRun(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "id -u; echo x > /v/f; mkdir /v/d; chmod 0 /v/d; cat /v/f; exit 5", "v:/v")
		c.Runtime = runtime
		o, err := e.run(c, "")
		if err != nil || o.ExitCode != 5 || o.out != "0\nx\n" {
			t.Fatalf("%+v, %v", o, err)
		}
		st, err := os.Stat(filepath.Join(e.volumePath("v"), "f"))
		if err != nil || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
			t.Errorf("owner of the file: %+v, %v", st, err)
		}
		c = shellConfig(t, "kill -TERM $$; sleep 5")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 143 {
			t.Errorf("%+v, %v", o, err)
		}
		c.Args = []string{"nosuch"}
		_, err = e.run(c, "")
		if x := (*ExecError)(nil); !errors.As(err, &x) || x.ExitCode != ExitNotFound {
			t.Errorf("%v", err)
		}
		e.checkClean()
		if err := e.store.Remove(testContext(t), "v"); err != nil {
			t.Error(err)
		}
	})
}

func rootlessHostIsHidden(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		e.createVolume("other", vole.Spec{})
		if err := os.WriteFile(filepath.Join(e.volumePath("other"), "vole-test-secret"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		script := "find / -name vole-test-secret -not -path '/proc/*' 2>/dev/null; touch /usr/x /x 2>/dev/null && echo written; cat /etc/shadow 2>/dev/null;" +
			" unshare -Ur true 2>/dev/null && echo namespace; ls -d " + e.home + " 2>/dev/null; true"
		c := shellConfig(t, script, "v:/v:ro,mode=ensure")
		c.Runtime = runtime
		o, err := e.run(c, "")
		if runtime == "runsc" {
			o.out = strings.ReplaceAll(o.out, "namespace\n", "") // of gVisor's kernel
		}
		if err != nil || o.out != "" {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

func rootlessLimits(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		for what, c := range map[string]Config{"memory": {Memory: 64 * vole.MiB}, "pids": {Pids: 10}, "cpus": {CPUs: 1}} {
			c.Args, c.Runtime = []string{"true"}, runtime
			if _, err := e.run(c, ""); !errors.Is(err, vole.ErrUnsupported) {
				t.Errorf("%s: %v", what, err)
			}
		}
		c := shellConfig(t, "true")
		c.Runtime, c.User = runtime, "nobody"
		if _, err := e.run(c, ""); !findIDRanges().ok && !errors.Is(err, vole.ErrUnsupported) {
			t.Errorf("another user: %v", err)
		}
	})
}

func rootlessRootfs(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh", "cat", "mkdir", "chmod", "id")
		if err := os.Chmod(filepath.Join(dir, "etc"), 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, "etc"), 0o755) })
		c := shellConfig(t, "cat /kept; echo changed > /kept; cat /kept; mkdir /d /d/e; chmod 0 /d; echo x > /etc/x", "v:/v")
		c.Runtime, c.Rootfs = runtime, dir
		if o, err := e.run(c, ""); err != nil || o.out != "as it was\nchanged\n" || o.ExitCode != 0 {
			t.Errorf("%+v, %v", o, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "kept")); err != nil || string(b) != "as it was\n" {
			t.Errorf("%q, %v", b, err)
		}
		file := filepath.Join(t.TempDir(), "root.tar")
		if out, err := exec.Command("tar", "-C", dir, "-cf", file, ".").CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		c.Rootfs, c.Image = "", file
		if o, err := e.run(c, ""); err != nil || o.out != "as it was\nchanged\n" || o.ExitCode != 0 {
			t.Errorf("image: %+v, %v", o, err)
		}
		e.checkClean()
	})
}

func rootlessKill(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		for _, victim := range []string{"supervisor", "helper"} {
			c := shellConfig(t, "sleep 300 & sleep 300", "v:/v")
			c.Runtime, c.Name = runtime, victim
			i, err := e.m.Start(testContext(t), c)
			if err != nil {
				t.Fatal(err)
			}
			pid := i.PID
			if victim == "helper" {
				pid = childOf(pid)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "crash", func() bool { return e.m.Reap(context.Background()) == nil && e.statusOf(victim) == StatusCrashed })
			waitUntil(t, "processes gone", func() bool { return len(processesOf(i.ID, e.home)) == 0 })
			e.checkClean()
		}
		if err := e.store.Remove(testContext(t), "v"); err != nil {
			t.Error(err)
		}
		c := shellConfig(t, "sleep 300", "v:/v")
		c.Runtime, c.Name = runtime, "drained"
		if _, err := e.m.Start(testContext(t), c); err != nil {
			t.Fatal(err)
		}
		if err := e.m.Pause(testContext(t), "drained"); runtime != "runsc" && !errors.Is(err, vole.ErrUnsupported) {
			t.Errorf("pause: %v", err)
		}
		if err := e.m.Stop(testContext(t), "drained", 10*time.Second); err != nil {
			t.Error(err)
		}
		e.checkClean()
	})
}
