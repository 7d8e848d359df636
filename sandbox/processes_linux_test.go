package sandbox

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutCgroups reports whether this process sees no control groups. When it
// returns false, the test has run in one that does.
func withoutCgroups(t *testing.T) bool {
	t.Helper()
	const again = "VOLE_TEST_WITHOUT_CGROUPS"
	if os.Getenv(again) != "" {
		if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", unix.MS_RDONLY, "size=4k"); err != nil {
			t.Fatal(err)
		}
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), again+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	b, err := c.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v\n%s", err, b)
	case strings.Contains(string(b), "--- SKIP"):
		t.Skipf("%s", b)
	case !strings.Contains(string(b), "--- PASS"):
		t.Fatalf("%s", b)
	}
	return false
}

func hostPidMax(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Root's processes have no limit by user, and here no control group has one for them.
func TestProcessesWithoutCgroups(t *testing.T) {
	newEnv(t) // of root
	if !boundsIDs() {
		t.Skip("before Linux 6.14, nothing bounds the processes of root here")
	}
	if !withoutCgroups(t) {
		return
	}
	before := hostPidMax(t)
	for _, name := range []string{"crun", "runc"} {
		if _, err := findRuntimeBinary(name); err != nil {
			continue
		}
		e := newEnv(t)
		start := func(n, times string) (output, error) {
			c := shellConfig(t, `for i in `+times+`; do
				n=0; all=; while [ $n -lt `+n+` ]; do sleep 1000 & all="$all $!"; n=$((n+1)); done
				kill -9 $all; wait
			done 2>/dev/null
			! (echo 100000 >/proc/sys/kernel/pid_max) 2>/dev/null && echo all`)
			c.Runtime = name
			return e.run(c, "")
		}
		if _, err := start("0", ""); err != nil {
			t.Logf("%s without control groups: %v", name, err) // root's runc does not
			continue
		}
		// Ids are used up on the way, and given out again.
		if o, err := start("990", "1 2"); err != nil || o.ExitCode != 0 || o.out != "all\n" {
			t.Errorf("%s: as many as are promised: %+v, %v", name, o, err)
		}
		if o, err := start("1400", "1"); err != nil || o.out != "" {
			t.Errorf("%s: processes without end: %+v, %v", name, o, err)
		}
	}
	if after := hostPidMax(t); after != before {
		t.Errorf("the host's pid_max was %s, is %s", before, after)
	}
}
