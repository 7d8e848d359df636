package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// makeZeroDevice makes a node of /dev/zero that everybody may open. Control groups let a
// sandbox open it, so that only the mount is in the way.
func makeZeroDevice(t *testing.T, name string) {
	t.Helper()
	if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Skip("this host lets root make no device nodes: ", err)
	}
	if err := os.Chmod(name, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Skip("device nodes cannot be opened here: ", err)
	}
	f.Close()
}

// checkDevices has a command open a device node on volume v.
func checkDevices(t *testing.T, e *env, runtime, user string) {
	t.Helper()
	if runtime == "runsc" {
		t.Skip("a node is a device of its own kernel, not of the host's")
	}
	try := func(opts, script string) {
		t.Helper()
		c := shellConfig(t, script, "v:/v"+opts)
		c.Runtime, c.User = runtime, user
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Errorf("user %q, %s: %+v, %v", user, opts, o, err)
		}
	}
	closed := "test -c /v/zero && ! head -c 1 /v/zero 2>/dev/null && ! (: > /v/zero) 2>/dev/null"
	try("", closed)
	try(":nodev", closed)
	try(":ro", closed)
	try(":dev", "head -c 4 /v/zero | tr '\\0' 0 | grep -q 0000")
}

func TestDeviceNodes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		e.createVolume("v", vole.Spec{})
		makeZeroDevice(t, filepath.Join(e.volumePath("v"), "zero"))
		for _, user := range []string{"", "1000"} {
			checkDevices(t, e, runtime, user)
		}
		// A mount beneath another, of a subdirectory.
		e.createVolume("w", vole.Spec{})
		if err := os.Mkdir(filepath.Join(e.volumePath("w"), "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		makeZeroDevice(t, filepath.Join(e.volumePath("w"), "sub", "zero"))
		c := shellConfig(t, "! head -c 1 /v/in/zero 2>/dev/null", "v:/v:dev", "w:/v/in:subpath=sub")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

// rootlessDevices finds nodes that root has made.
func rootlessDevices(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		e.createVolume("v", vole.Spec{})
		err := os.Rename(filepath.Join(os.Getenv(rootlessEnv), "zero-"+runtime), filepath.Join(e.volumePath("v"), "zero"))
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("root made no device node")
		}
		if err != nil {
			t.Fatal(err)
		}
		checkDevices(t, e, runtime, "")
	})
}

// The file system of a disk is mounted without devices, too.
func TestDeviceNodesOnDisk(t *testing.T) {
	e := diskEnv(t)
	e.runShell("true", "d:/v:kind=disk,size=32M")
	for opts, want := range map[string]bool{"": true, ":dev": false, ":ro": true} {
		if got := e.runShell("grep ' /v ' /proc/self/mountinfo", "d:/v"+opts); strings.Contains(got, "nodev") != want {
			t.Errorf("%q: %s", opts, got)
		}
	}
}
