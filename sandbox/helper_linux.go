package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// Files that the helper is started with, beside those of the command.
const (
	fdPackets = 3
	fdPlan    = 4
	fdHolds   = 5 // of the first disk; the others follow
)

// helper is process 1 of a pid namespace, in a mount namespace of its own. When it
// dies, all it started and mounted goes with it.
type helper struct {
	p    *plan
	conn packets
	dir  string // memory of this mount namespace: the bundle, mount points, the runtime's state

	mounts []string // where the volumes are, as p.Mounts
	reaper *exec.Cmd
	rt     *ociRuntime
	pid    int // of the command

	tree *guestTree // the root file system, but for /proc and /dev
	proc process    // the command
	cwd  *guestFile // its working directory; nil: in /dev, which the helper does not see
}

// runHelperProcess is the main function of a helper. In a new user namespace it starts as
// "unmapped", waits until the supervisor has written the id maps, and executes itself again.
func runHelperProcess(args []string) int {
	dieWithParent()
	if len(args) == 1 && args[0] == "unmapped" {
		// The supervisor has the user namespace's maps written, which only then
		// make this process its root: a new program starts with all capabilities.
		if err := waitUntilReadable(fdPlan); err != nil {
			return 1
		}
		exe, argv := "/proc/self/exe", []string{asHelper}
		fmt.Fprintln(os.Stderr, syscall.Exec(exe, argv, os.Environ()))
		return 1
	}
	if err := setCloseOnExec(fdPackets); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The caller's umask could hide the files made here from other users of the sandbox.
	unix.Umask(0o022)
	conn, err := openPackets(os.NewFile(fdPackets, "supervisor"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	exit, err := executePlan(conn)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) {
			err = driver.Errorf(vole.ErrUnsupported, "sandboxes need Linux 5.12 or newer: %v", err)
		}
		_ = conn.sendPacket(event{Type: "failed", Error: encodeError(err)}, nil) // without a supervisor no one asks
		return 1
	}
	if conn.sendPacket(event{Type: "ended", Exit: exit}, nil) != nil {
		return 1
	}
	return 0
}

func waitUntilReadable(fd int32) error {
	return nolinks.RetryInterrupted(func() error {
		_, err := unix.Poll([]unix.PollFd{{Fd: fd, Events: unix.POLLIN}}, -1)
		return err
	})
}

// executePlan reads the plan from its pipe, prepares the sandbox, starts the container and waits
// for the command. Between create and start the container exists but the command does not run
// yet: that is when its cgroup, its working directory and its program are checked.
func executePlan(conn packets) (exit int, err error) {
	h := &helper{conn: conn, p: &plan{}}
	f := os.NewFile(fdPlan, "plan")
	b, err := io.ReadAll(f)
	f.Close()
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(b, h.p); err != nil {
		return 0, fmt.Errorf("plan: %w", err)
	}
	ctx := context.Background() // the supervisor ends a helper by killing it
	if err := h.prepareSandbox(ctx); err != nil {
		return 0, err
	}
	if h.pid, err = h.rt.createContainer(ctx, h); err != nil {
		return 0, err
	}
	if err := h.enterCgroup(); err != nil {
		return 0, err
	}
	go h.serveRequests(ctx)
	if err := h.checkEnteredWorkdir(); err != nil {
		return 0, err
	}
	// Once started, a runtime can only print why it cannot execute the command.
	if err := h.checkCommand(); err != nil {
		return 0, err
	}
	if err := h.rt.startContainer(ctx, h); err != nil {
		return 0, err
	}
	if err := h.conn.sendPacket(event{Type: "started"}, nil); err != nil {
		return 0, err
	}
	return h.rt.waitCommand(h.pid)
}

// prepareSandbox makes everything that the runtime needs.
func (h *helper) prepareSandbox(ctx context.Context) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := h.hideUnifiedCgroups(); err != nil {
		return err
	}
	if err := h.makeHelperDir(); err != nil {
		return err
	}
	// Before there are mounts that the reaper's namespace would have to give back.
	if err := cmp.Or(h.startReaper(), h.mountDisks(), h.mountVolumes()); err != nil {
		return err
	}
	root, err := h.makeRootFilesystem(ctx)
	if err != nil {
		return err
	}
	mounts, err := h.makeMountTargets(root)
	if err != nil {
		return err
	}
	if err := h.resolveWorkdir(); err != nil {
		return err
	}
	h.rt = newOCIRuntime(h.p.Runtime, h)
	pidNS := fmt.Sprintf("/proc/%d/ns/pid", h.reaper.Process.Pid)
	if h.rt.ownPids {
		pidNS = ""
	} else {
		mounts = nil // the runtime takes the root with all that is mounted in it
	}
	spec, err := buildRuntimeSpec(h.p, h.proc, root, pidNS, mounts)
	if err != nil {
		return err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.dir, "bundle", "config.json"), b, 0o600)
}

// hideUnifiedCgroups hides the second hierarchy of control groups on a host that has the
// first and second at once; crun takes such a host for one of the second only.
func (h *helper) hideUnifiedCgroups() error {
	const unified = "/sys/fs/cgroup/unified"
	if isMountPoint(unified) {
		return mountTmpfs(unified, "size=4k,mode=755")
	}
	return nil
}

func isMountPoint(dir string) bool {
	var st, up unix.Stat_t
	return unix.Lstat(dir, &st) == nil && unix.Lstat(filepath.Dir(dir), &up) == nil && st.Dev != up.Dev
}

func mountTmpfs(dir, opts string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// makeHelperDir mounts the helper's own memory. Its path is short, because runtimes make
// unix sockets there, and it hides nothing that is needed.
func (h *helper) makeHelperDir() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	need := []string{h.p.Home, h.p.Scratch, h.p.Runtime.Path, h.p.Rootfs, h.p.Image, exe}
candidates:
	for _, dir := range []string{"/run", "/tmp", "/mnt", "/media", "/srv"} {
		if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
			continue
		}
		for _, n := range need {
			if real, err := filepath.EvalSymlinks(n); n != "" && (isBeneath(n, dir) || err == nil && isBeneath(real, dir)) {
				continue candidates
			}
		}
		h.dir = dir
		break
	}
	if h.dir == "" {
		return driver.Errorf(vole.ErrUnsupported, "one of /run, /tmp, /mnt, /media and /srv must be a directory that holds nothing of Vole")
	}
	// The volumes' directories must be reachable through the home, not beneath.
	if err := mountTmpfs(h.dir, "mode=700,size=64m"); err != nil {
		return err
	}
	for _, d := range []string{"bundle", "root", "rt", "vol", "empty"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// startReaper starts process 1 of the pid namespace that the command will join. It
// runs from a read-only mount of this program, so that no way to that file can be
// used to change it.
func (h *helper) startReaper() error {
	self := filepath.Join(h.dir, "reaper")
	if err := mountOnItself(self); err != nil {
		return err
	}
	var stderr strings.Builder
	// Go's runtime would keep files of the host's control group open.
	env := []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
	cmd := &exec.Cmd{Path: self, Args: []string{asReaper, filepath.Join(h.dir, "empty")}, Env: env, Stderr: &stderr}
	if n := h.p.Limits.NProc; n > 0 && !h.p.Rootless {
		cmd.Args = append(cmd.Args, fmt.Sprint(n)) // the limit by user exempts root
	}
	flags := uintptr(unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if !h.p.HostNetwork {
		flags |= unix.CLONE_NEWNET
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the sandbox's first process: %w", err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		_ = cmd.Wait()
		return fmt.Errorf("the sandbox's first process did not start: %s", strings.TrimSpace(stderr.String()))
	}
	h.reaper = cmd
	return nil
}

// mountOnItself makes this program appear at a path, read-only; as a copy when its own path
// leads elsewhere by now, as after an upgrade.
func mountOnItself(at string) error {
	running, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer running.Close()
	to, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
	if err != nil {
		return err
	}
	defer to.Close()
	// By its path: the running file is of a mount of the supervisor's namespace.
	if name, err := os.Readlink("/proc/self/exe"); err == nil {
		if exe, err := os.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0); err == nil {
			defer exe.Close()
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
			if isSameFile(exe, running) && bindByPath(exe, at, attr, false) == nil {
				return nil
			}
		}
	}
	_, err = io.Copy(to, running)
	return err
}

// serveRequests answers the supervisor's requests. It returns when the supervisor is gone,
// which ends the sandbox.
func (h *helper) serveRequests(ctx context.Context) {
	for {
		var r request
		if _, err := h.conn.receivePacket(&r); err != nil {
			unix.Exit(1)
		}
		var err error
		switch r.Op {
		case "signal":
			err = h.rt.signalCommand(ctx, h.pid, unix.Signal(r.Signal))
		case "pause":
			err = h.rt.r.Pause(ctx, containerID)
		case "resume":
			err = h.rt.r.Resume(ctx, containerID)
		default:
			err = driver.Errorf(vole.ErrInvalid, "unknown request %q", r.Op)
		}
		if h.conn.sendPacket(event{Type: "answer", Seq: r.Seq, Error: encodeError(err)}, nil) != nil {
			unix.Exit(1)
		}
	}
}
