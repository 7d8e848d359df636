package sandbox

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	encoding "encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// What leads out of a sandbox, if anything does, is in /proc: the directories, programs
// and open files of other processes, of the runtime's own, and of process 1.
var magicPaths = []string{
	"/proc", "/proc/1/cwd", "/proc/1/root", "/proc/1/task/1/root", "/proc/self/fd/5", "//usr/..//../proc/./1//cwd/",
	"/proc/1/exe", "/proc/1/fd/0", "/proc/1/ns/mnt", "/proc/1/root/proc/self/root", "/proc/self/cwd", "/proc/self/root", "/proc/thread-self/root", "/proc/self/fd",
}

// checkWorkdirs names each as the working directory, and leaves links to it in a volume.
// Like the other checks here, it also runs as a user without root (TestRootless).
func checkWorkdirs(t *testing.T, e *env, runtime string) {
	t.Helper()
	e.createVolume("v", vole.Spec{})
	for i, p := range magicPaths {
		link := "l" + strconv.Itoa(i)
		for _, err := range []error{
			os.Symlink(p, filepath.Join(e.volumePath("v"), link)),
			os.Symlink("../../v/./"+link, filepath.Join(e.volumePath("v"), "again"+link)),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{p, "/v/again" + link} {
			c := shellConfig(t, "touch /v/ran", "v:/v")
			c.Runtime, c.Cwd = runtime, dir
			if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
				t.Errorf("working directory %s (%s): %v", dir, p, err)
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(e.volumePath("v"), "ran")); err == nil {
		t.Error("a command ran")
	}
}

func TestWorkdirInProc(t *testing.T) {
	eachRuntime(t, checkWorkdirs)
}

// checkImageWorkdirs has an image name them, or a link of its own that leads there.
func checkImageWorkdirs(t *testing.T, e *env, runtime string) {
	t.Helper()
	e.createVolume("v", vole.Spec{})
	root := t.TempDir()
	makeRootfs(t, root, "sh", "touch")
	if err := os.Symlink("/proc/1/cwd", filepath.Join(root, "src")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/proc/1/cwd", "/proc/1/root", "proc/self/fd/5", "/src", "/src/x"} {
		c := shellConfig(t, "touch /v/ran", "v:/v")
		c.Runtime, c.Image = runtime, imageOf(t, root, dir)
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("an image's working directory %s: %v", dir, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(e.volumePath("v"), "ran")); err == nil {
		t.Error("a command ran")
	}
}

// imageOf makes an image, as docker save does, of a directory.
func imageOf(t *testing.T, root, workdir string) string {
	t.Helper()
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	if out, err := exec.Command("tar", "-C", root, "-cf", layer, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(layer)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"config.json":   fmt.Sprintf(`{"config":{"WorkingDir":%q},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, workdir, sha256.Sum256(data)),
		"manifest.json": `[{"Config":"config.json","Layers":["layer.tar"]}]`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

func TestImageWorkdirInProc(t *testing.T) {
	eachRuntime(t, checkImageWorkdirs)
}

// Links to places in the sandbox are followed, as are those that leave its root upwards.
func TestWorkdir(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		e.createVolume("v", vole.Spec{})
		for name, target := range map[string]string{"usr": "/usr/lib", "up": "../../../../../../usr", "in": "sub/dir", "gone": "made/here"} {
			if err := os.Symlink(target, filepath.Join(e.volumePath("v"), name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(e.volumePath("v"), "sub/dir"), 0o755), os.WriteFile(filepath.Join(e.volumePath("v"), "f"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string]string{
			"/v/usr": "/usr/lib", "/v/up": "/usr", "/v/in": "/v/sub/dir", "/v/gone": "/v/made/here", "/v/new/dir": "/v/new/dir",
			"/tmp/x": "/tmp/x", "/dev/shm": "/dev/shm", "/dev": "/dev", "/": "/", "": "/",
		} {
			c := shellConfig(t, "pwd -P", "v:/v")
			c.Runtime, c.Cwd = runtime, dir
			if o, err := e.run(c, ""); err != nil || o.out != want+"\n" {
				t.Errorf("%s: %+v, %v; want %s", dir, o, err, want)
			}
		}
		for dir, kind := range map[string]error{
			"/v/f": vole.ErrNotDir, "/v/f/x": vole.ErrNotDir, "/usr/nosuch": vole.ErrNotExist,
			"/dev/fd": vole.ErrInvalid, "/dev/fd/5": vole.ErrInvalid, "/dev/stdin": vole.ErrInvalid, "/dev/shm/x": vole.ErrInvalid,
		} {
			c := shellConfig(t, "true", "v:/v")
			c.Runtime, c.Cwd = runtime, dir
			if _, err := e.run(c, ""); !errors.Is(err, kind) {
				t.Errorf("%s: %v, want %v", dir, err, kind)
			}
		}
		e.checkClean()
	})
}

// slowRuntime makes a runtime that runs a script before it makes a container, and so
// after all that was checked by then.
func slowRuntime(t *testing.T, e *env, runtime, script string) string {
	t.Helper()
	real, err := findRuntimeBinary(runtime)
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp(e.home, "runtime-")
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, runtime)
	text := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' create '*)\n%s\n;; esac\nexec %s \"$@\"\n", script, real.Path)
	if err := os.WriteFile(p, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// checkSwappedWorkdir changes the working directory after it was resolved and before the
// runtime enters it, as another sandbox may. The command must not run.
func checkSwappedWorkdir(t *testing.T, e *env, runtime string) {
	t.Helper()
	if runtime == "runsc" {
		t.Skip("it enters directories of its own kernel only")
	}
	e.createVolume("v", vole.Spec{})
	src := filepath.Join(e.volumePath("v"), "src")
	targets := append([]string{"/usr", "/v/other", "/nosuch", "/dev/fd", "/proc/self/fd/3/..", "/proc/self/fd/7", "/proc/self/cwd"}, magicPaths...)
	if err := os.Mkdir(filepath.Join(e.volumePath("v"), "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := errors.Join(os.RemoveAll(src), os.Mkdir(src, 0o755)); err != nil {
			t.Fatal(err)
		}
		c := shellConfig(t, "touch /v/ran; pwd -P; ls -a . ../..", "v:/v")
		c.Runtime, c.Cwd = slowRuntime(t, e, runtime, fmt.Sprintf("rmdir %s && ln -s %s %s", src, target, src)), "/v/src"
		o, err := e.run(c, "")
		if st, lerr := os.Lstat(src); lerr != nil || st.Mode()&os.ModeSymlink == 0 {
			t.Fatalf("nothing was swapped: %v, %v", st, lerr)
		}
		if _, ran := os.Lstat(filepath.Join(e.volumePath("v"), "ran")); err == nil || ran == nil {
			t.Fatalf("swapped for %s: %v\n%s", target, err, o.out)
		}
	}
	e.checkClean()
}

func TestWorkdirSwapped(t *testing.T) {
	eachRuntime(t, checkSwappedWorkdir)
}

// checkReaper looks at process 1 of a sandbox with the rights that a runtime has: there
// must be nothing of the host in it.
func checkReaper(t *testing.T, e *env, runtime string) {
	t.Helper()
	if runtime == "runsc" {
		t.Skip("process 1 of its sandboxes is of its own kernel")
	}
	c := shellConfig(t, "sleep 60", "v:/v")
	c.Runtime, c.Name = runtime, "looked-at"
	i, err := e.m.Start(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.m.Stop(testContext(t), "looked-at", 0) })
	proc := fmt.Sprintf("/proc/%d", reaperOf(t, i.PID))
	for _, dir := range []string{"cwd", "root", "cwd/..", "root/../..", "cwd/../../proc"} {
		if list, err := os.ReadDir(proc + "/" + dir); len(list) > 0 || err == nil && strings.HasSuffix(dir, "proc") {
			t.Errorf("%s has %v", dir, list)
		}
	}
	if err := os.WriteFile(proc+"/root/x", nil, 0o644); err == nil {
		t.Error("its root can be written to")
	}
	b, err := os.ReadFile(proc + "/mountinfo")
	if err != nil || strings.Count(string(b), "\n") != 1 || !strings.Contains(string(b), " / / ro,") {
		t.Errorf("mounts: %v\n%s", err, b)
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(proc + "/fd/" + fd.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			t.Errorf("open file %s: %s", fd.Name(), to)
		}
	}
	if f, err := os.OpenFile(proc+"/exe", os.O_WRONLY, 0); err == nil {
		f.Close()
		t.Error("its program can be written to")
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		own, err1 := os.Readlink("/proc/self/ns/" + ns)
		its, err2 := os.Readlink(proc + "/ns/" + ns)
		if ns == "pid" {
			its, err2 = os.Readlink(proc + "/ns/pid_for_children")
		}
		if err1 != nil || err2 != nil || own == its {
			t.Errorf("namespace %s: %s, here %s: %v, %v", ns, its, own, err2, err1)
		}
	}
}

// reaperOf finds process 1 of the sandbox of a supervisor.
func reaperOf(t *testing.T, supervisor int) int {
	t.Helper()
	helper := childOf(supervisor)
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(helper), "-f", "^"+asReaper).Output()
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || err2 != nil {
		t.Fatalf("no reaper among the children of %d: %v, %v", helper, err, err2)
	}
	return pid
}

func TestReaperIsEmpty(t *testing.T) {
	eachRuntime(t, checkReaper)
}

// checkMagicCommands has programs lie behind the links of /proc.
func checkMagicCommands(t *testing.T, e *env, runtime string) {
	t.Helper()
	e.createVolume("v", vole.Spec{})
	if err := os.Symlink("/proc/1/root/bin/sh", filepath.Join(e.volumePath("v"), "sh")); err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{
		"script": "#!/proc/1/root/bin/sh\n", "noline": "#! /proc/self/exe", "long": "#!/proc/self/exe " + strings.Repeat("x", 300),
		"blank": "#!/v/a\u0085b", "relative": "#!../proc/self/exe\n", "twice": "#!/v/script\n", "thrice": "#!/v/twice\n", "elf32": programNeeding("/proc/self/exe"),
	}
	names := []string{"/proc/1/root/bin/sh", "/proc/self/exe", "/v/sh", "../../proc/1/exe", "/dev/fd/3"}
	for name, text := range scripts {
		names = append(names, "/v/"+name)
		if err := os.WriteFile(filepath.Join(e.volumePath("v"), name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/proc/self/exe", filepath.Join(e.volumePath("v"), "a\u0085b")); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		c := shellConfig(t, "true", "v:/v")
		c.Args, c.Runtime, c.Cwd = []string{name, "-c", "touch /v/ran"}, runtime, "/v"
		_, err := e.run(c, "")
		if x := (*ExecError)(nil); !errors.As(err, &x) || x.ExitCode != ExitNotExecutable {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, list := range []string{"/proc/1/root/bin:/proc/self/fd:/v", "proc/1/root/bin:../proc/1/root/bin"} {
		c := shellConfig(t, "true", "v:/v")
		c.Args, c.Runtime, c.Env = []string{"sh", "-c", "true"}, runtime, []string{"PATH=" + list}
		_, err := e.run(c, "")
		if x := (*ExecError)(nil); !errors.As(err, &x) || x.ExitCode != ExitNotExecutable {
			t.Errorf("PATH=%s: %v", list, err)
		}
	}
}

// programNeeding makes what is needed of a 32-bit program with a dynamic linker.
func programNeeding(linker string) string {
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header32{Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: uint32(elf.EV_CURRENT), Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: 1},
		elf.Prog32{Type: uint32(elf.PT_INTERP), Off: 52 + 32, Filesz: uint32(len(linker) + 1)},
		[]byte(linker + "\x00"),
	} {
		_ = encoding.Write(&b, encoding.LittleEndian, part) // a buffer takes all
	}
	return b.String()
}

func TestCommandInProc(t *testing.T) {
	eachRuntime(t, checkMagicCommands)
}

// checkRedirectedMounts has a link in one volume stand where another is to be mounted.
func checkRedirectedMounts(t *testing.T, e *env, runtime string) {
	t.Helper()
	e.createVolume("a", vole.Spec{})
	e.createVolume("b", vole.Spec{})
	targets := []string{"/usr", "/tmp", "sub", "../other", "/dev", "nosuch", "/proc/1/cwd", "/proc/self/fd/5"}
	for i, target := range targets {
		link := "l" + strconv.Itoa(i)
		if err := os.Symlink(target, filepath.Join(e.volumePath("a"), link)); err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"/a/" + link, "/a/" + link + "/x"} {
			c := shellConfig(t, "touch /a/ran", "a:/a", "b:"+at)
			c.Runtime = runtime
			if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
				t.Errorf("mount on %s, a link to %s: %v", at, target, err)
			}
		}
	}
	for _, name := range []string{"ran", "nosuch"} {
		if _, err := os.Lstat(filepath.Join(e.volumePath("a"), name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

func TestMountIsNotRedirected(t *testing.T) {
	eachRuntime(t, checkRedirectedMounts)
}

// checkMovedMounts has somebody who sees a whole volume move directories out of the part
// that a sandbox sees, with a mount in one and a process in the other.
func checkMovedMounts(t *testing.T, e *env, runtime string) {
	t.Helper()
	e.createVolume("a", vole.Spec{})
	e.createVolume("b", vole.Spec{})
	a := e.volumePath("a")
	for _, dir := range []string{"sub/p/b", "sub/d/e", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(a, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := shellConfig(t, `out() { for up in .. ../.. ../../..; do ls -d $up/elsewhere $up/sub; done; } 2>/dev/null
		cd /a/p/b || exit
		(cd /a/d/e && touch /a/ready && until test -e /a/moved; do sleep 0.01; done; out) &
		until test -e /a/moved; do sleep 0.01; done
		out; wait; test ! -e /a/p && touch /b/kept && ls`, "a:/a:subpath=sub", "b:/a/p/b", "b:/b")
	c.Runtime = runtime
	moved := make(chan error, 1)
	go func() {
		for _, err := os.Lstat(filepath.Join(a, "sub/ready")); err != nil; _, err = os.Lstat(filepath.Join(a, "sub/ready")) {
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		moved <- errors.Join(
			os.Rename(filepath.Join(a, "sub/p"), filepath.Join(a, "elsewhere/p")),
			os.Rename(filepath.Join(a, "sub/d/e"), filepath.Join(a, "elsewhere/e")),
			os.WriteFile(filepath.Join(a, "sub/moved"), nil, 0o644))
	}()
	o, err := e.run(c, "")
	if err != nil || o.ExitCode != 0 || o.out != "kept\n" {
		t.Fatalf("%+v, %v", o, err)
	}
	if err := <-moved; err != nil {
		t.Error(err)
	}
}

func TestMovedMounts(t *testing.T) {
	eachRuntime(t, checkMovedMounts)
}

// The links of a root redirect mounts, but only to places that a volume may have.
func TestMountsThroughLinksOfTheRoot(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e *env, runtime string) {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh", "cat", "touch")
		for name, target := range map[string]string{
			"in": "etc/in", "dangling": "/no/such/yet", "dev1": "/dev", "dev2": "/dev/shm/x", "proc1": "/proc/1/cwd", "psys": "proc/sys", "loop": "loop",
			"etc/file": "../kept",
		} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		for at, real := range map[string]string{"/in": "/etc/in", "/dangling": "/no/such/yet", "/in/x": "/etc/in/x"} {
			c := shellConfig(t, "touch "+real+"/f && cat "+at+"/f", "v:"+at)
			c.Runtime, c.Rootfs = runtime, dir
			if o, err := e.run(c, ""); err != nil || o.ExitCode != 0 {
				t.Errorf("%s: %+v, %v", at, o, err)
			}
		}
		for at, kind := range map[string]error{
			"/dev1": vole.ErrInvalid, "/dev1/x": vole.ErrInvalid, "/dev2": vole.ErrInvalid, "/proc1": vole.ErrInvalid, "/psys": vole.ErrInvalid, "/loop/x": vole.ErrLoop,
			"/kept": vole.ErrNotDir, "/kept/x": vole.ErrNotDir, "/etc/file": vole.ErrNotDir,
		} {
			c := shellConfig(t, "true", "v:"+at)
			c.Runtime, c.Rootfs = runtime, dir
			if _, err := e.run(c, ""); !errors.Is(err, kind) {
				t.Errorf("%s: %v, want %v", at, err, kind)
			}
		}
		e.checkClean()
	})
}

// What a runtime finds by itself in a root must be what it takes it for.
func TestOddRoots(t *testing.T) {
	eachRuntime(t, checkOddRoots)
}

func checkOddRoots(t *testing.T, e *env, runtime string) {
	t.Helper()
	for name, make := range map[string]func(p string) error{
		"proc":       func(p string) error { return os.Symlink("/etc", p) },
		"dev":        func(p string) error { return os.Symlink("../../../../etc", p) },
		"etc/passwd": func(p string) error { return unix.Mkfifo(p, 0o644) },
		"etc/group":  func(p string) error { return os.Mkdir(p, 0o755) },
		// Open for ever, where the runtime looks.
		"etc/../etc/passwd": func(p string) error { return os.Symlink("/proc/self/fd/0", p) },
		"etc/./passwd":      func(p string) error { return os.Symlink("/dev/ptmx", p) },
	} {
		dir := t.TempDir()
		makeRootfs(t, dir, "sh")
		p := filepath.Join(dir, name)
		if err := errors.Join(os.RemoveAll(p), make(p)); err != nil {
			t.Fatal(err)
		}
		c := shellConfig(t, "true")
		c.Runtime, c.Rootfs = runtime, dir
		if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A volume can bring them, too, after the user was looked up.
	e.createVolume("etc", vole.Spec{})
	if err := unix.Mkfifo(filepath.Join(e.volumePath("etc"), "passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := shellConfig(t, "true", "etc:/etc")
	c.Runtime = runtime
	if _, err := e.run(c, ""); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("a fifo in a volume: %v", err)
	}
}

// A working directory that was made is no reason to keep a volume that was made in vain.
func TestRollBackOfWorkdir(t *testing.T) {
	e := anyEnv(t)
	c := shellConfig(t, "true", "v:/v")
	c.Args, c.Cwd = []string{"nosuch"}, "/v/a/b"
	if _, err := e.run(c, ""); err == nil {
		t.Error("it ran")
	}
	if _, err := e.store.Get(testContext(t), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("the volume is left: %v", err)
	}
}
