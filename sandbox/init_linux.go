package sandbox

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names under which a program starts itself again.
const (
	asHelper     = "vole-sandbox-helper"     // process 1 that sets a sandbox up
	asReaper     = "vole-sandbox-reaper"     // process 1 of the command's pid namespace
	asIDMap      = "vole-sandbox-idmap"      // keeps a user namespace open
	asSupervisor = "vole-sandbox-supervisor" // of a detached sandbox
	asRemover    = "vole-sandbox-remover"    // removes a tree with files of other users
)

// Init must be the first thing in main of every program that runs sandboxes, and in
// TestMain of its tests. When the program was started as one of the helpers of this
// package, Init becomes that and does not return; otherwise it does nothing.
func Init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case asHelper:
		runtime.LockOSThread()
		unix.Exit(runHelperProcess(os.Args[1:]))
	case asReaper:
		runtime.LockOSThread()
		unix.Exit(runReaperProcess())
	case asIDMap:
		dieWithParent()
		os.Stdin.Read(make([]byte, 1)) // until the helper closes the pipe
		unix.Exit(0)
	case asSupervisor:
		unix.Exit(runSupervisorProcess())
	case asRemover:
		unix.Exit(runRemoverProcess(os.Args[1:]))
	}
}

// runRemoverProcess removes directories in the one that it is given open, as root of a user
// namespace.
func runRemoverProcess(dirs []string) int {
	dieWithParent()
	if len(dirs) > 0 && dirs[0] == "unmapped" {
		// The maps are there when the other end of stdin is closed; only a program
		// that is started after that has the capabilities of the namespace's root.
		_, _ = os.Stdin.Read(make([]byte, 1))
		fmt.Fprintln(os.Stderr, syscall.Exec("/proc/self/exe", append([]string{asRemover}, dirs[1:]...), []string{}))
		return 1
	}
	in := os.NewFile(3, "in") // the first of the extra files
	for _, dir := range dirs {
		if err := removeAllIn(in, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

// dieWithParent has the kernel kill this process when the thread that started it ends.
func dieWithParent() {
	// It cannot fail with a valid signal.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// setCloseOnExec has all files from number first on closed when a program is executed,
// so that nothing that this process was started with reaches a sandbox.
func setCloseOnExec(first uint) error {
	return os.NewSyscallError("close_range", unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC))
}

// runReaperProcess is process 1 of the pid namespace in which the command runs. It ignores
// SIGCHLD, which has the kernel collect orphans, and as the command is not process 1,
// signals have their usual effect on it. The command cannot inspect the reaper through
// /proc/1 or ptrace: it is not dumpable, and has capabilities that the command lacks. The
// runtime can, while it still has all rights and resolves paths that an image or a volume
// can lead through /proc/1. So there is nothing there: all that the reaper's namespaces
// hold is an empty directory, and it has no file open but the program it runs.
func runReaperProcess() int {
	signal.Ignore()
	dieWithParent()
	if len(os.Args) > 2 {
		boundedIDs(os.Args[2])
	}
	if err := hideReaper(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Stdout.WriteString("ready\n")
	for fd := range 3 {
		unix.Close(fd)
	}
	for {
		_ = unix.Pause()
	}
}

// reservedIDs are the lowest ids of processes, which the kernel gives out only once
// (RESERVED_PIDS in its kernel/pid.c).
const reservedIDs = 300

// boundedIDs leaves this pid namespace as many ids of processes and threads as most says
// at any time, and at first those that are given out once. That it fails is not an
// error: it is a default, which is left out where nothing enforces it.
func boundedIDs(most string) {
	if n, err := strconv.Atoi(most); err == nil && boundsIDs() {
		_ = os.WriteFile("/proc/sys/kernel/pid_max", []byte(strconv.Itoa(reservedIDs+n)), 0)
	}
}

// boundsIDs reports whether each pid namespace has a bound of its own, as since Linux
// 6.14. Before, there is one for the whole host, which must be left alone.
func boundsIDs() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	n, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && n == 2 && (major > 6 || major == 6 && minor >= 14)
}

// hideReaper leaves the mount namespace, of which this process has a copy for itself,
// with an empty read-only directory, mounted at a path that nothing else uses.
func hideReaper(empty string) error {
	const closed = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, step := range []struct {
		name string
		err  func() error
	}{
		{"prctl", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
		{"mount", func() error { return unix.Mount("tmpfs", empty, "tmpfs", closed, "mode=555,size=4k") }},
		{"chdir", func() error { return unix.Chdir(empty) }},
		// The old root then lies upon the new one, and goes first.
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"umount", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"chdir", func() error { return unix.Chdir("/") }},
	} {
		if err := step.err(); err != nil {
			return os.NewSyscallError(step.name, err)
		}
	}
	return nil
}
