package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The directories that are the sandbox's own have the modes that programs expect, with
// every runtime and whatever the caller's umask.
func TestOwnDirectories(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		checkModes(t, e, Config{Runtime: runtime}, "/tmp 1777\n/var/tmp 1777\n/root 700\n/run 755\n/var 755\n/home 755\n")
		c := shellConfig(t, "touch /tmp/x /var/tmp/x && ls -A /home /mnt && ! ls /root 2>/dev/null && umask")
		c.Runtime, c.User = runtime, "1000"
		if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
			t.Errorf("another user: %+v, %v", o, err)
		}
		rootModes(t, e, runtime, "1000")
		e.checkClean()
	})
}

// checkModes checks what stat says of directories, in the form "/path mode\n".
func checkModes(t *testing.T, e *env, c Config, want string) {
	t.Helper()
	c.Args = []string{"sh", "-c", "stat -c '%n %a' $(echo \"$1\" | cut -d' ' -f1)", "sh", want}
	if o, err := e.run(c, ""); err != nil || o.out != want {
		t.Errorf("%+v, %v; want %q", o, err, want)
	}
}

// rootModes checks /tmp on a directory and an image that have it, and that lack it.
func rootModes(t *testing.T, e *env, runtime, user string) {
	for _, has := range []bool{false, true} {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh", "stat", "cut", "touch")
		for _, err := range []error{
			os.Chmod(dir, 0o755), exec.Command("chmod", "-R", "go+rX", dir).Run(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if has {
			if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(t.TempDir(), "root.tar")
		if out, err := exec.Command("tar", "-C", dir, "-cf", file, ".").CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		for _, c := range []Config{{Rootfs: dir}, {Image: file}} {
			c.Runtime = runtime
			checkModes(t, e, c, "/tmp 1777\n")
			c.Args, c.User = []string{"touch", "/tmp/x"}, user
			if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
				t.Errorf("%s: %+v, %v", c.describeRoot(), o, err)
			}
		}
		if st, err := os.Stat(filepath.Join(dir, "tmp")); has && (err != nil || st.Mode().Perm() != 0o700 && st.Mode() != os.ModeDir|0o755) {
			t.Errorf("the directory changed: %v, %v", st, err)
		}
	}
}

// rootlessModes is TestOwnDirectories for a user that is not root.
func rootlessModes(t *testing.T) {
	eachRootless(t, func(t *testing.T, e *env, runtime string) {
		checkModes(t, e, Config{Runtime: runtime}, "/tmp 1777\n/var/tmp 1777\n/root 700\n/run 755\n")
		rootModes(t, e, runtime, "")
	})
}
