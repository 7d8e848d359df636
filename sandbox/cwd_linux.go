package sandbox

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// The runtime enters the working directory by its path, with all rights and among the
// magic links of /proc, and another sandbox may change a volume at that very moment. So
// the helper resolves the path first, and when the runtime has entered it, and before
// the command is executed, looks at where it got to.

// devDirs are the directories that the runtime makes in /dev. All else there may be a
// link to /proc, as /dev/fd is.
var devDirs = []string{"/dev", "/dev/shm", "/dev/pts", "/dev/mqueue"}

// resolveWorkdir opens the working directory, made if it is missing, and replaces its path by
// one without links.
func (h *helper) resolveWorkdir() error {
	name := h.proc.cwd
	if slices.Contains(devDirs, name) {
		return nil
	}
	dir, err := h.tree.resolvePath(name, lookup{create: true})
	if err != nil {
		return explainWorkdir(name, err)
	}
	if dir.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		dir.Close()
		return explainWorkdir(name, unix.ENOTDIR)
	}
	// It stays open, so that its inode keeps its number.
	h.proc.cwd, h.cwd = dir.path, &dir
	return nil
}

// explainWorkdir says why a working directory cannot be used, by the error of resolving it.
func explainWorkdir(name string, err error) error {
	switch {
	case isMountedByRuntime(err):
		return driver.Errorf(vole.ErrInvalid, "the working directory %s %v; use another", name, err)
	case errors.Is(err, unix.ENOTDIR):
		return driver.Errorf(vole.ErrNotDir, "the working directory %s is not a directory", name)
	case errors.Is(err, unix.EROFS):
		return driver.Errorf(vole.ErrNotExist, "the working directory %s is not in the sandbox, where it cannot be made", name)
	case errors.Is(err, unix.ELOOP):
		return driver.Errorf(vole.ErrLoop, "the working directory %s: too many links", name)
	}
	return fmt.Errorf("the working directory %s: %w", name, err)
}

// checkEnteredWorkdir makes sure that the process which will execute the command, and which the
// runtime has stopped just before that, stands in the working directory that the helper
// resolved, in a mount of its own root.
func (h *helper) checkEnteredWorkdir() error {
	if h.rt.ownPids {
		return nil // no process of the host ever enters it
	}
	dir, err := os.OpenFile(fmt.Sprintf("/proc/%d/cwd", h.pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	var in unix.Statfs_t
	if err := cmp.Or(unix.Fstat(int(dir.Fd()), &st), unix.Fstatfs(int(dir.Fd()), &in)); err != nil {
		return err
	}
	own, err := h.isReachableMount(dir)
	if err != nil {
		return err
	}
	if !own || in.Type == unix.PROC_SUPER_MAGIC || h.cwd != nil && (st.Dev != h.cwd.stat.Dev || st.Ino != h.cwd.stat.Ino) {
		return driver.Errorf(vole.ErrInUse, "the working directory %s changed while the sandbox started; try again", h.proc.cwd)
	}
	return nil
}

// isReachableMount reports whether an open file is of a mount that the command can reach from
// its root: the kernel lists those, and no others, in its mountinfo (proc_pid_mountinfo(5)).
func (h *helper) isReachableMount(f *os.File) (bool, error) {
	id, err := readMountID(f)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.pid))
	if err != nil {
		return false, err
	}
	prefix := []byte(strconv.FormatUint(id, 10) + " ")
	for line := range bytes.Lines(b) {
		if bytes.HasPrefix(line, prefix) {
			return true, nil
		}
	}
	return false, nil
}
