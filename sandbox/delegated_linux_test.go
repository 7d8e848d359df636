package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// delegatedEnv tells the test binary, started again, that control groups of version 2 are
// where they belong; and as another user, where it may work.
const delegatedEnv = "VOLE_TEST_DELEGATED"

// TestDelegated runs sandboxes as a user to whom a control group is delegated as systemd
// does it, in a mount namespace where the groups of version 2 are mounted.
func TestDelegated(t *testing.T) {
	switch os.Getenv(delegatedEnv) {
	case "":
		if os.Geteuid() != 0 {
			t.Skip("to mount control groups takes root")
		}
		c := exec.Command("/proc/self/exe", "-test.run=^TestDelegated$", "-test.v")
		c.Env = append(os.Environ(), delegatedEnv+"=mount")
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		} else if !strings.Contains(string(out), "--- PASS: TestDelegated/Pause/") {
			t.Skipf("nothing ran:\n%s", out)
		}
		t.Logf("%s", out)
	case "mount":
		delegateToUser(t)
	default:
		delegated(t)
	}
}

// delegateToUser runs the test as a user in a control group that is the user's.
func delegateToUser(t *testing.T) {
	if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
		t.Skip("the kernel mounts no control groups of version 2 here: ", err)
	}
	const uid = 54321 // no one's
	cred := &syscall.Credential{Uid: uid, Gid: uid}
	if err := userNamespaces(cred); err != nil {
		t.Skip("users may not make user namespaces here: ", err)
	}
	dir, err := os.MkdirTemp("", "vole-delegated-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(exe, b, 0o755), os.Chown(dir, uid, uid), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(cgroupRoot, fmt.Sprintf("vole-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skip("the kernel lets no control group be made here: ", err)
	}
	defer func() {
		if err := removeCgroupTree(testContext(t), []string{filepath.Join(group, processesGroup), group}); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
		if err := os.Chown(filepath.Join(group, name), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	at, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	c := exec.Command(exe, "-test.v", "-test.run", "^TestDelegated$", "-test.timeout", "3m")
	c.Env = append(os.Environ(), delegatedEnv+"="+dir, "TMPDIR="+dir, "HOME="+dir)
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: cred, UseCgroupFD: true, CgroupFD: int(at.Fd())}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s", out)
}

// delegated is what the user tests.
func delegated(t *testing.T) {
	have := findUsableCgroups()
	if have.delegated == "" || !have.freezer {
		t.Fatalf("nothing is delegated: %+v", have)
	}
	t.Run("Pause", delegatedPause)
	t.Run("Limits", delegatedLimits)
	t.Run("Kill", delegatedKill)
	t.Run("Controllers", delegatedControllers)
	t.Run("PauseFromLeaf", delegatedPause)
	left, err := filepath.Glob(have.delegated + "/" + groupPrefix + "*")
	left = slices.DeleteFunc(left, func(dir string) bool { return filepath.Base(dir) == processesGroup })
	if err != nil || len(left) > 0 {
		t.Errorf("control groups are left: %v, %v", left, err)
	}
}

func delegatedPause(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "while :; do echo x >> /v/f; sleep 0.01; done", "v:/v")
		c.Runtime, c.Name = runtime, "paused"
		other := c
		other.Name, other.Mounts = "other", nil // beside it, in a group of its own
		other.Args = []string{"sleep", "300"}
		i, err := e.m.Start(testContext(t), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.m.Start(testContext(t), other); err != nil {
			t.Fatal(err)
		}
		size := func() int64 {
			st, _ := os.Stat(filepath.Join(e.volumePath("v"), "f"))
			if st == nil {
				return 0
			}
			return st.Size()
		}
		waitUntil(t, "it writes", func() bool { return size() > 0 })
		group := filepath.Join(findUsableCgroups().delegated, groupPrefix+i.ID)
		if len(readFields(filepath.Join(group, "cgroup.procs"))) == 0 {
			t.Error("no process is in its control group")
		}
		if err := e.m.Pause(testContext(t), "paused"); err != nil {
			t.Fatal(err)
		}
		was := size()
		if b := readFields(filepath.Join(group, "cgroup.events")); !strings.Contains(strings.Join(b, " "), "frozen 1") || size() != was {
			t.Errorf("%v, wrote %d bytes more", b, size()-was)
		}
		if err := e.m.Resume(testContext(t), "paused"); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "it goes on", func() bool { return size() > was })
		// One that is paused can be stopped.
		if err := e.m.Pause(testContext(t), "paused"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"paused", "other"} {
			if err := e.m.Stop(testContext(t), name, 5*time.Second); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(group); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the control group is left: %v", err)
		}
		e.checkClean()
	})
}

// delegatedLimits wants limits to be set, or said at once not to be possible.
func delegatedLimits(t *testing.T) {
	have := findUsableCgroups()
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		for controller, tt := range map[string]struct {
			c          Config
			has        bool
			file, want string
		}{
			"memory": {Config{Memory: 64 * vole.MiB}, have.memory, "memory.max", "67108864"},
			"pids":   {Config{Pids: 10}, have.pids, "pids.max", "10"},
			"cpu":    {Config{CPUs: 0.5}, have.cpu, "cpu.max", "50000 100000"},
		} {
			tt.c.Args, tt.c.Runtime, tt.c.Name = []string{"sleep", "300"}, runtime, controller
			tt.c.Mounts = shellConfig(t, "", "made:/v").Mounts
			i, err := e.m.Start(testContext(t), tt.c)
			if !tt.has {
				if !errors.Is(err, vole.ErrUnsupported) || !strings.Contains(err.Error(), controller) || !strings.Contains(err.Error(), "Delegate=") {
					t.Errorf("%s: %v", controller, err)
				}
				if _, err := e.store.Get(testContext(t), "made"); !errors.Is(err, vole.ErrNotFound) {
					t.Errorf("%s: the volume was made: %v", controller, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", controller, err)
				continue
			}
			got := strings.Join(readFields(filepath.Join(findUsableCgroups().delegated, groupPrefix+i.ID, tt.file)), " ")
			if got != tt.want {
				t.Errorf("%s is %q, want %q", tt.file, got, tt.want)
			}
			if err := e.m.Stop(testContext(t), controller, time.Second); err != nil {
				t.Error(err)
			}
		}
		e.checkClean()
	})
}

// delegatedControllers has controllers enabled, whichever there are, for groups beside that
// of this process and of another program.
func delegatedControllers(t *testing.T) {
	dir := findUsableCgroups().delegated
	has := readFields(filepath.Join(dir, "cgroup.controllers"))
	if len(has) == 0 {
		t.Skip("the kernel has no controller of version 2 here")
	}
	other := exec.Command("sleep", "300")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	if !findUsableCgroups().intrusive {
		t.Error("another program's process in the group is not seen")
	}
	for range 2 {
		if err := enableControllers(dir, has[:1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := readFields(filepath.Join(dir, "cgroup.subtree_control")); !slices.Contains(got, has[0]) {
		t.Errorf("enabled: %v, want %s", got, has[0])
	}
	if pids := readFields(filepath.Join(dir, processesGroup, "cgroup.procs")); !slices.Contains(pids, fmt.Sprint(os.Getpid())) || !slices.Contains(pids, fmt.Sprint(other.Process.Pid)) {
		t.Errorf("moved: %v", pids)
	}
	if now := findUsableCgroups(); now.delegated != dir || now.intrusive {
		t.Errorf("from within: %+v, want %s", now, dir)
	}
}

// delegatedKill kills the supervisor of a paused sandbox.
func delegatedKill(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		c := shellConfig(t, "sleep 300 & sleep 300")
		c.Runtime, c.Name = runtime, "killed"
		i, err := e.m.Start(testContext(t), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.m.Pause(testContext(t), "killed"), syscall.Kill(i.PID, syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "crash", func() bool { return e.m.Reap(context.Background()) == nil && e.statusOf("killed") == StatusCrashed })
		e.checkClean()
	})
}

// The record of a control group names no other than the sandbox's.
func TestRecordedGroup(t *testing.T) {
	e := openEnv(t, tempHome(t))
	const id = "0190a0a0-0000-7000-8000-000000000000"
	if err := os.Mkdir(e.m.sandboxDir(id), 0o700); err != nil {
		t.Fatal(err)
	}
	for record, ok := range map[string]bool{
		cgroupRoot + "/user.slice/vole-" + id: true,
		cgroupRoot + "/system.slice":          false, "/tmp/vole-" + id: false, "": false, "vole-" + id: false,
		cgroupRoot + "/../../tmp/vole-" + id: false, cgroupRoot + "/vole-" + id + "/": false, cgroupRoot + "/vole-other": false,
	} {
		if err := os.WriteFile(filepath.Join(e.m.sandboxDir(id), groupFile), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := e.m.readRecordedCgroup(id); (got == record) != (ok || record == "") || !ok && got != "" {
			t.Errorf("%q: %q", record, got)
		}
	}
}

func TestLimitSettings(t *testing.T) {
	files, controllers := limits{Memory: 1 << 20, Pids: 7, CPUs: 1.5}.cgroupSettings()
	if files["memory.max"] != "1048576" || files["pids.max"] != "7" || files["cpu.max"] != "150000 100000" || !slices.Equal(controllers, []string{"memory", "pids", "cpu"}) {
		t.Errorf("%v, %v", files, controllers)
	}
	if files, controllers := (limits{NProc: 5}).cgroupSettings(); len(files) > 0 || len(controllers) > 0 {
		t.Errorf("%v, %v", files, controllers)
	}
}
