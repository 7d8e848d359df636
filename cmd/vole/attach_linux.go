package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// A mount namespace can only be made read-only by a process in it, and Go starts a program directly.
// So vole starts itself in the new namespace, as a helper, which remounts the path and then becomes
// the program by execve: the process id, and with it signals and the exit code, are the program's.

// readOnlyHelper is the hidden first argument that makes vole the helper of attach
// --ro: argv is vole readOnlyHelper PARENT-PID PATH PROGRAM ARG0 ARG...
const readOnlyHelper = "__attach-ro"

// fdHold is the number of the hold on the image of a disk volume, in the program.
const fdHold = 3

// killedWithParent makes the kernel kill the child when vole dies.
func killedWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// makeReadOnly has cmd start in a mount namespace of its own, as a copy of vole that
// makes path read-only there and then becomes the program.
func makeReadOnly(cmd *exec.Cmd, path string) error {
	attr := cmd.SysProcAttr
	attr.Cloneflags = unix.CLONE_NEWNS
	if !mayCreateMounts() {
		// A user namespace gives the right to mount, which the helper drops again.
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	cmd.Args = append([]string{os.Args[0], readOnlyHelper, strconv.Itoa(os.Getpid()), path, cmd.Path}, cmd.Args...)
	cmd.Path = "/proc/self/exe"
	return nil
}

// mayCreateMounts reports whether this process has CAP_SYS_ADMIN.
func mayCreateMounts() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&hdr, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// readOnlyMountError explains why the namespaces could not be made.
func readOnlyMountError(err error) error {
	for _, e := range []error{unix.EPERM, unix.ENOSYS, unix.EINVAL, unix.ENOSPC, unix.EUSERS} {
		if errors.Is(err, e) {
			return driver.Errorf(vole.ErrUnsupported,
				"attach --ro: this host lets you make no mount namespace (%v); run it as root, or allow user namespaces", err)
		}
	}
	return err
}

// runHelperIfAsked does what must happen before anything else of the process: when vole was
// started by itself as a helper, it becomes that helper and does not return.
func runHelperIfAsked() {
	if len(os.Args) < 6 || os.Args[1] != readOnlyHelper {
		return
	}
	// Namespaces, capabilities and the parent's death belong to a thread: execve
	// must happen on the one that has them set.
	runtime.LockOSThread()
	err := execReadOnly(os.Args[2], os.Args[3], os.Args[4], os.Args[5:])
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	a.started = true
	os.Exit(a.reportAndExitCode(err))
}

// execReadOnly makes path read-only for this process and executes the program. The order matters:
// the mount needs the capabilities that are dropped after it, and the signal of the parent's death
// is set last, since execve and a change of credentials clear it. The parent may have died before
// that, which is why its process id is compared at the end.
func execReadOnly(parent, path, program string, argv []string) error {
	// A working directory inside path would still be the writable one beneath.
	wd, wdErr := os.Getwd()
	if err := mountReadOnly(path); err != nil {
		return driver.Errorf(vole.ErrUnsupported, "attach --ro: %s cannot be made read-only here: %v", path, err)
	}
	if wdErr == nil && (wd == path || strings.HasPrefix(wd, path+"/")) {
		if err := os.Chdir(wd); err != nil {
			return err
		}
	}
	if err := reopenHoldReadOnly(path); err != nil {
		return fmt.Errorf("attach --ro: hold the image: %w", err)
	}
	if os.Geteuid() != 0 {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := errors.Join(
			unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), unix.Capset(&hdr, &none[0])); err != nil {
			return fmt.Errorf("attach --ro: drop capabilities: %w", err)
		}
	}
	// execve of the helper gained capabilities in a user namespace, which resets this.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if strconv.Itoa(os.Getppid()) != parent {
		return errors.New("attach --ro: vole has died")
	}
	return programStartError(argv[0], syscall.Exec(program, argv, os.Environ()))
}

// reopenHoldReadOnly opens an inherited hold on the image at path again, by the read-only mount:
// by /proc/self/fd the program could otherwise open the image for writing, as that leads
// to the mount that a file was opened by.
func reopenHoldReadOnly(path string) error {
	var held, st unix.Stat_t
	if unix.Fstat(fdHold, &held) != nil {
		return nil // none: not a disk volume
	}
	image, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(image)
	if err := unix.Fstat(image, &st); err != nil {
		return err
	}
	if st.Dev != held.Dev || st.Ino != held.Ino {
		return nil // descriptor 3 is another file, from the process that started vole
	}
	for {
		// The hold is shared, so that this takes a second one beside it.
		err := unix.Flock(image, unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return unix.Dup3(image, fdHold, 0)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// mountReadOnly binds path onto itself, read-only and without devices, with all that is
// mounted in it, where only this process sees it.
func mountReadOnly(path string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV}
	err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, attr)
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Before Linux 5.12. Flags of the mount may be locked, so those that are set are kept.
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	const keep = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(st.Flags)&keep | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NODEV
	if st.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return unix.Mount("", path, "", flags, "")
}
