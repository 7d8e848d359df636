package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// No file of Vole, of the runtime or of the caller reaches the command: not the locks
// above all, which would outlive the supervisor in it.
func TestNoFilesLeak(t *testing.T) {
	leak, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		for _, detached := range []bool{false, true} {
			c := shellConfig(t, "for f in /proc/self/fd/*; do readlink $f; done > /v/fds; readlink /proc/self/fd/9 >> /v/fds; true", "v:/v")
			c.Runtime = runtime
			if detached {
				i, err := e.m.Start(testContext(t), c)
				if err != nil {
					t.Fatal(err)
				}
				waitUntil(t, "end", func() bool { return !e.statusOf(i.ID).Live() })
			} else if o, err := e.run(c, "x"); err != nil || o.ExitCode != 0 {
				t.Fatalf("%+v, %v", o, err)
			}
			b, err := os.ReadFile(filepath.Join(e.volumePath("v"), "fds"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "pipe:") && !strings.HasPrefix(line, "host:[") && line != "/dev/null" && line != "/v/fds" && !strings.HasPrefix(line, "/proc/") {
					t.Errorf("detached %v: open file %q", detached, line)
				}
			}
		}
	})
}

// hostAttacks are what an untrusted command tries; each line must fail.
var hostAttacks = []string{
	"touch /x", "touch /usr/x", "touch /etc/x", "mkdir /opt/x", "rm -f /usr/bin/env",
	"mount -t tmpfs none /mnt", "mount -o remount,rw /usr", "mount -o bind,remount,rw /etc", "umount /etc/shadow", "umount -l /proc/keys",
	"unshare -U true", "unshare -m true", "unshare -Ur true", "nsenter -t 1 -m true", "chroot /proc/1/root true",
	"grep -q . /etc/shadow", "grep -q . /etc/gshadow", "ls /etc/ssh/* ", "ls /root/.[a-z]*", "ls /home/*", "ls /run/*.sock /run/docker* /run/systemd /run/user /run/lock", "ls /var/lib/*", "ls /var/run/*",
	"ls /sys/*", "ls /srv/*", "ls /mnt/*", "ls /media/*", "ls /boot", "ls /proc/1/root", "cat /proc/1/environ", "readlink /proc/1/exe", "readlink /proc/1/fd/*",
	"ls /proc/1/map_files", "mknod /tmp/sda b 8 0", "mknod /tmp/mem c 1 1", "head -c1 /dev/mem", "head -c1 /proc/kcore", "grep -q . /proc/kallsyms",
	"echo 1 > /proc/sys/kernel/panic", "echo c > /proc/sysrq-trigger", "echo x > /proc/sys/kernel/core_pattern",
	"kill -9 1; sleep 0.1; kill -0 1 && false", "dmesg", "hostname evil", "date -s 2000-01-01", "ls /dev/sd* /dev/vd* /dev/loop* /dev/fuse",
	"su nobody -s /bin/sh -c 'touch /usr/x'", "find / -xdev -perm -4000 -user root -exec {} --help ; touch /usr/x",
}

func TestHostIsHidden(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		secret := "secret-" + strings.ReplaceAll(runtime, "/", "")
		e.createVolume("other", vole.Spec{})
		if err := os.WriteFile(filepath.Join(e.volumePath("other"), secret), []byte(secret), 0o644); err != nil {
			t.Fatal(err)
		}
		var script strings.Builder
		for i, a := range hostAttacks {
			if runtime == "runsc" && (strings.Contains(a, "unshare") || strings.Contains(a, "mount") || strings.Contains(a, "/proc/1") ||
				strings.Contains(a, "hostname") || strings.Contains(a, "kill") || strings.Contains(a, "/dev/") || strings.Contains(a, "dmesg") || strings.Contains(a, "/sys/")) {
				continue // done to gVisor's own kernel, not to the host's
			}
			fmt.Fprintf(&script, "if ( %s ) >/dev/null 2>&1; then echo 'attack %d works'; fi\n", a, i)
		}
		c := shellConfig(t, script.String(), "mine:/mine")
		c.Runtime = runtime
		o, err := e.run(c, "")
		if err != nil || o.out != "" {
			t.Errorf("%v\n%s", err, o.out)
			for line := range strings.Lines(o.out) {
				var n int
				fmt.Sscanf(line, "attack %d", &n)
				t.Errorf("it works: %s", hostAttacks[n])
			}
		}
		c = shellConfig(t, "find / -name '*"+secret+"*' -not -path '/proc/*' 2>/dev/null; grep -c . /proc/1/mountinfo >/dev/null 2>&1; grep -l "+e.home+" /proc/*/cmdline /proc/*/mountinfo 2>/dev/null | grep -v self; true", "mine:/mine:ro")
		c.Runtime = runtime
		if o, err := e.run(c, ""); err != nil || strings.Contains(o.out, secret) {
			t.Errorf("%+v, %v", o, err)
		}
	})
	for _, p := range []string{"/x", "/usr/x", "/etc/x", "/opt/x"} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s was made on the host", p)
		}
	}
}

// A home beneath a directory that is shown is hidden in it, as are files that the
// host's ordinary users may not read.
func TestSecretsInShownDirectories(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/opt", "vole-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home := filepath.Join(dir, "deep", "home")
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.MkdirAll(home, 0o755), os.Mkdir(filepath.Join(dir, "closed"), 0o700),
		os.WriteFile(filepath.Join(dir, "open"), []byte("open\n"), 0o644), os.WriteFile(filepath.Join(dir, "private"), []byte("private\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "closed", "f"), []byte("private\n"), 0o644), os.WriteFile(filepath.Join(dir, "deep", "private"), []byte("private\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "nobody"), []byte("private\n"), 0o600), os.Chown(filepath.Join(dir, "nobody"), 65534, 65534),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "deep", "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, runtime := range Runtimes {
		t.Run(runtime, func(t *testing.T) {
			if _, err := findRuntimeBinary(runtime); err != nil {
				t.Skip(err)
			}
			e := openEnv(t, home)
			script := fmt.Sprintf("cd %s; cat open; cat private closed/f deep/private nobody; ls -A deep deep/home; echo; chmod 777 . ; touch new", dir)
			c := shellConfig(t, script, "v:/v")
			c.Runtime = runtime
			o, err := e.run(c, "")
			if err != nil || strings.Contains(o.out, "private\n") && !strings.Contains(o.out, "deep:\nhome\nprivate\n") || !strings.HasPrefix(o.out, "open\n") ||
				strings.Contains(o.out, "catalog.db") || strings.Contains(o.out, "socket") || strings.Count(o.out, "private") > 1 {
				t.Errorf("%v\n%s\n%s", err, o.out, o.err)
			}
		})
	}
}

// Where owners cannot be mapped, /etc is a copy of what all may read.
func TestCopyOfOpenFiles(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for name, mode := range map[string]os.FileMode{"open": 0o644, "private": 0o600, "group": 0o640, "closed/f": 0o644, "dir/f": 0o444, "big": 0o644} {
		f := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(name), 0o600), os.Chmod(f, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(src, "closed"), 0o750), os.Truncate(filepath.Join(src, "big"), maxCopyFile+1),
		os.Symlink("private", filepath.Join(src, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := (&hostView{}).copyPublicFiles(src, dst); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("find", dst, "-mindepth", "1", "-printf", "%P:%m ").Output()
	got := strings.Fields(string(out))
	slices.Sort(got)
	if want := []string{"dir/f:444", "dir:755", "link:777", "open:444"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// So is it when a volume stands where /etc has no directory, which has its entries shown
// one by one.
func TestCopyOfEntries(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/etc", "vole-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	root := t.TempDir()
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "closed"), 0o700), os.Mkdir(filepath.Join(dir, "dir"), 0o755), os.Mkdir(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "open"), []byte("open"), 0o644), os.WriteFile(filepath.Join(dir, "private"), []byte("private"), 0o600),
		os.WriteFile(filepath.Join(dir, "closed", "f"), []byte("private"), 0o644), os.WriteFile(filepath.Join(dir, "dir", "private"), []byte("private"), 0o640),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	v := &hostView{root: root, asRoot: true, mountPoints: []string{filepath.Join(dir, "nosuch")}}
	if err := v.showHostPath(dir, fs.ModeDir); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("grep", "-rho", ".*", root).Output()
	if err != nil || string(out) != "open\n" {
		t.Errorf("%v: %q", err, out)
	}
}

func TestNetwork(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		interfaces := func(n Network) []string {
			c := shellConfig(t, "tail -n +3 /proc/net/dev | cut -d: -f1")
			c.Runtime, c.Network = runtime, n
			o, err := e.run(c, "")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Fields(o.out)
		}
		if got := interfaces(NetworkNone); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("none: %v", got)
		}
		if runtime == "runsc" {
			return
		}
		list, err := net.Interfaces()
		if got := interfaces(NetworkHost); err != nil || len(got) < len(list) {
			t.Errorf("host: %v, %v", got, err)
		}
	})
	e := anyEnv(t)
	if _, err := e.run(Config{Args: []string{"true"}, Network: "bridge"}, ""); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("unknown network: %v", err)
	}
}

func TestPrivileges(t *testing.T) {
	for _, name := range []string{"crun", "runc"} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			if _, err := findRuntimeBinary(name); err != nil {
				t.Skip(err)
			}
			c := shellConfig(t, "grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapPrm|CapAmb):' /proc/self/status | tr -d '\\t\\n'")
			c.Runtime = name
			if o, err := e.run(c, ""); err != nil || o.out != "CapPrm:00000000000405fbCapBnd:00000000000405fbCapAmb:0000000000000000NoNewPrivs:1Seccomp:2" {
				t.Errorf("root: %+v, %v", o, err)
			}
			c.User = "nobody"
			if o, err := e.run(c, ""); err != nil || !strings.HasPrefix(o.out, "CapPrm:0000000000000000CapBnd:0000000000000000") {
				t.Errorf("nobody: %+v, %v", o, err)
			}
		})
	}
}

// makeRootfs makes a small root file system of the host's programs.
func makeRootfs(t *testing.T, dir string, programs ...string) {
	t.Helper()
	copyTo := func(src string) {
		b, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(dir, src)
		if err := errors.Join(os.MkdirAll(filepath.Dir(dst), 0o755), os.WriteFile(dst, b, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range programs {
		path, err := exec.LookPath(p)
		if err != nil {
			t.Skip(err)
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		copyTo(real)
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "bin", p); real != "/bin/"+p {
			if err := os.Symlink(real, want); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("ldd", real).Output()
		if err != nil {
			t.Skip("ldd: ", err)
		}
		for _, f := range strings.Fields(string(out)) {
			if strings.HasPrefix(f, "/") {
				copyTo(f)
			}
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nstaff:x:8:\nmore:x:9:ann\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "kept"), []byte("as it was\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestRootfs(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh", "cat", "id", "rm", "ls")
		before := listEntries(t, dir)
		c := shellConfig(t, "cat /kept; echo changed > /kept; rm /etc/group; cat /kept; echo v > /data/x; ls -d /usr/share /home 2>/dev/null", "v:/data")
		c.Runtime, c.Rootfs = runtime, dir
		o, err := e.run(c, "")
		if err != nil || o.out != "as it was\nchanged\n" {
			t.Errorf("%+v, %v", o, err)
		}
		if after := listEntries(t, dir); after != before {
			t.Errorf("the directory changed from\n%s to\n%s", before, after)
		}
		c = shellConfig(t, "id; echo $HOME")
		c.Runtime, c.Rootfs, c.User = runtime, dir, "ann"
		if o, err := e.run(c, ""); err != nil || !strings.HasPrefix(o.out, "uid=7(ann) gid=8(staff) groups=8(staff),9(more)") {
			t.Errorf("%+v, %v", o, err)
		}
		c.Rootfs = e.home
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("the home as root: %v", err)
		}
		c.Rootfs = "/"
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("/ as root: %v", err)
		}
		c.Rootfs = dir + "/kept"
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrNotDir) {
			t.Errorf("a file as root: %v", err)
		}
		e.checkClean()
	})
}

func listEntries(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%p %y %m %s %T@ %l\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestImage(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh", "cat", "id", "ls")
		file := filepath.Join(t.TempDir(), "root.tar.gz")
		if out, err := exec.Command("tar", "-C", dir, "-czf", file, ".").CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		c := shellConfig(t, "cat /kept; echo changed > /kept; cat /kept; echo v > /data/x; id -u", "v:/data")
		c.Runtime, c.Image = runtime, file
		for range 2 {
			if o, err := e.run(c, ""); err != nil || o.out != "as it was\nchanged\n0\n" {
				t.Errorf("%+v, %v", o, err)
			}
		}
		c = Config{Image: file, Runtime: runtime}
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("no command: %v", err)
		}
		if err := os.Truncate(file, 1000); err != nil {
			t.Fatal(err)
		}
		c.Args = []string{"true"}
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("cut image: %v", err)
		}
		e.checkClean()
	})
}
