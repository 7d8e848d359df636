package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// containerID is the same in each sandbox, since each has a runtime's state of its own.
const containerID = "vole"

// ociRuntime runs the one container of a helper.
type ociRuntime struct {
	name    string
	r       *runc.Runc
	ownPids bool // makes the command's pid namespace itself
	log     string
}

// newOCIRuntime prepares to run a runtime whose state and log are in the helper's own directory.
func newOCIRuntime(b binary, h *helper) *ociRuntime {
	rt := &ociRuntime{name: b.Name, log: filepath.Join(h.dir, "runtime.log")}
	rt.r = &runc.Runc{Command: b.Path, Root: filepath.Join(h.dir, "rt"), Log: rt.log, LogFormat: runc.JSON}
	switch b.Name {
	case "crun":
		if h.p.CgroupPath == "" {
			rt.r.ExtraArgs = []string{"--cgroup-manager=disabled"}
		}
	case "runsc":
		rt.ownPids = true // its processes are not the host's
		network := "none"
		if h.p.HostNetwork {
			network = "host"
		}
		rt.r.ExtraArgs = []string{"--platform=systrap", "--overlay2=none", "--host-uds=none", "--network=" + network}
		if h.p.CgroupPath == "" {
			rt.r.ExtraArgs = append(rt.r.ExtraArgs, "--ignore-cgroups")
		}
	}
	return rt
}

// createContainer makes the container up to the point where the command could be executed, and
// returns the command's process id in the helper's pid namespace.
func (rt *ociRuntime) createContainer(ctx context.Context, h *helper) (int, error) {
	pidFile := filepath.Join(h.dir, "pid")
	stdio, _ := runc.NewSTDIO() // the helper's own files, which the command inherits; never fails
	opts := &runc.CreateOpts{IO: stdio, PidFile: pidFile}
	var console *consoleSocket
	if h.p.Terminal {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(h.dir, "console"), Net: "unix"})
		if err != nil {
			return 0, err
		}
		defer l.Close()
		console = &consoleSocket{l}
		opts.ConsoleSocket = console
	}
	if err := rt.r.Create(ctx, containerID, filepath.Join(h.dir, "bundle"), opts); err != nil {
		return 0, rt.explainFailure(err, h)
	}
	if console != nil {
		f, err := console.receiveTerminal()
		if err != nil {
			return 0, fmt.Errorf("receive the terminal: %w", err)
		}
		err = h.conn.sendPacket(event{Type: "terminal"}, f)
		f.Close()
		if err != nil {
			return 0, err
		}
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// startContainer has the runtime execute the command.
func (rt *ociRuntime) startContainer(ctx context.Context, h *helper) error {
	if err := rt.r.Start(ctx, containerID); err != nil {
		return rt.explainFailure(err, h)
	}
	return nil
}

// explainFailure turns a failure of the runtime into the error that its log tells.
func (rt *ociRuntime) explainFailure(err error, h *helper) error {
	msg := rt.readLastError()
	if msg == "" {
		msg = err.Error()
	}
	if err := h.checkCommand(); err != nil {
		return err
	}
	if isDeniedExec(msg) {
		return &ExecError{ExitNotExecutable, fmt.Errorf("%q cannot be executed in the sandbox", h.proc.args[0])}
	}
	return fmt.Errorf("%s: %s", rt.name, msg)
}

// isDeniedExec reads in a runtime's message that the command may not be executed, or is
// no program. There is no other way to tell: a mount without exec, the user's rights, or
// formats that the kernel knows decide it.
func isDeniedExec(msg string) bool {
	msg = strings.ToLower(msg)
	return strings.Contains(msg, "exec format error") ||
		strings.Contains(msg, "permission denied") && (strings.Contains(msg, "exec") || strings.Contains(msg, "failed to load"))
}

// readLastError is the last error in the runtime's log, "" when there is none.
func (rt *ociRuntime) readLastError() string {
	b, err := os.ReadFile(rt.log)
	if err != nil {
		return ""
	}
	last := ""
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var line struct{ Level, Msg string }
		if json.Unmarshal(s.Bytes(), &line) == nil && line.Msg != "" && (line.Level == "" || strings.HasPrefix(line.Level, "err") || line.Level == "fatal") {
			last = line.Msg
		}
	}
	return last
}

// waitCommand waits for the command to end and returns its exit code. The command became a
// child of this process when the runtime that created it ended; in the case of runsc,
// the process that is its kernel did, which ends with the command's exit code.
func (rt *ociRuntime) waitCommand(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case ws.Exited():
			return ws.ExitStatus(), nil
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}

// signalCommand sends a signal to the command, by its process id in the helper's namespace.
func (rt *ociRuntime) signalCommand(ctx context.Context, pid int, sig unix.Signal) error {
	if rt.ownPids {
		return rt.r.Kill(ctx, containerID, int(sig), nil)
	}
	if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("kill", err)
	}
	return nil
}

// consoleSocket receives a terminal from the runtime.
// https://github.com/opencontainers/runc/blob/main/docs/terminals.md
type consoleSocket struct{ *net.UnixListener }

// Path implements runc.ConsoleSocket.
func (c *consoleSocket) Path() string { return c.Addr().String() }

// receiveTerminal waits for the runtime to send the terminal's master side as a file descriptor.
func (c *consoleSocket) receiveTerminal() (*os.File, error) {
	// The runtime has connected before it returned.
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	conn, err := c.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	f, err := parseRights(oob[:n])
	if err == nil && f == nil {
		err = errors.New("the runtime sent none")
	}
	return f, err
}

// findRuntimeBinary looks a runtime up: one of Runtimes in $PATH, or a path of one of them.
func findRuntimeBinary(name string) (binary, error) {
	base := filepath.Base(name)
	for _, r := range Runtimes {
		if base != r {
			continue
		}
		p, err := exec.LookPath(name)
		if err != nil && name == base {
			// Not in the PATH of users on some systems.
			p, err = exec.LookPath(filepath.Join("/usr/sbin", name))
		}
		if err != nil {
			return binary{}, driver.Errorf(vole.ErrUnsupported, "the OCI runtime %s is not installed", name)
		}
		p, err = filepath.Abs(p)
		return binary{Name: r, Path: p}, err
	}
	return binary{}, driver.Errorf(vole.ErrInvalid, "unknown runtime %q; use %s, or the path of one", name, strings.Join(Runtimes, ", "))
}
