package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// idRange is a range of ids that the system lets this user use (subuid(5)).
type idRange struct{ start, count int }

// idRanges are the user and group ranges to map behind the caller's own ids. ok is
// false when there are none, or no programs to map them with.
type idRanges struct {
	uids, gids []idRange
	ok         bool
}

// findIDRanges reads the subordinate ids of the caller, which may stand under its name or its
// number.
func findIDRanges() idRanges {
	names := []string{strconv.Itoa(os.Getuid())}
	if u, err := user.LookupId(names[0]); err == nil {
		names = append(names, u.Username)
	}
	r := idRanges{uids: readIDRanges("/etc/subuid", names), gids: readIDRanges("/etc/subgid", names)}
	_, err1 := exec.LookPath("newuidmap")
	_, err2 := exec.LookPath("newgidmap")
	r.ok = len(r.uids) > 0 && len(r.gids) > 0 && err1 == nil && err2 == nil
	return r
}

// readIDRanges reads the ranges of some names from a file of the form of subuid(5). Lines that are
// malformed are ignored, as newuidmap ignores them.
func readIDRanges(file string, names []string) []idRange {
	b, _ := os.ReadFile(file) // missing: no ranges
	var list []idRange
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || !slices.Contains(names, f[0]) {
			continue
		}
		start, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && start > 0 && count > 0 {
			list = append(list, idRange{start, count})
		}
	}
	return list
}

// mapSingleID makes the caller root of a user namespace, with no one else in it.
func mapSingleID(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
}

// writeIDMaps maps the caller and its ranges into the user namespace of a process.
func (r idRanges) writeIDMaps(ctx context.Context, pid int) error {
	for _, m := range []struct {
		prog   string
		own    int
		ranges []idRange
	}{{"newuidmap", os.Geteuid(), r.uids}, {"newgidmap", os.Getegid(), r.gids}} {
		args := []string{strconv.Itoa(pid), "0", strconv.Itoa(m.own), "1"}
		next := 1
		for _, g := range m.ranges {
			args = append(args, strconv.Itoa(next), strconv.Itoa(g.start), strconv.Itoa(g.count))
			next += g.count
		}
		if out, err := exec.CommandContext(ctx, m.prog, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", m.prog, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// removeSandboxTree removes name beneath the open directory top, which a sandbox may have
// written to, without following links on the way or in the tree. Files that it made as other
// users of its namespace, or without permissions for their owner, can only be removed from
// such a namespace when the caller is not root.
func removeSandboxTree(ctx context.Context, top *os.File, name string) error {
	dir := top
	if parent, _ := path.Split(name); parent != "" {
		var err error
		dir, err = nolinks.OpenDir(top, strings.TrimSuffix(parent, "/"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer dir.Close()
	}
	base := path.Base(name)
	err := removeAllIn(dir, base)
	if err == nil || os.Geteuid() == 0 || !errors.Is(err, os.ErrPermission) {
		return err
	}
	c := exec.CommandContext(ctx, "/proc/self/exe", base)
	c.Args[0] = asRemover
	c.ExtraFiles = []*os.File{dir}
	c.Env = []string{}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ranges := findIDRanges()
	if !ranges.ok {
		mapSingleID(c.SysProcAttr)
		out, err := c.CombinedOutput()
		return withProcessOutput(err, out)
	}
	return removeWithIDMap(ctx, c, ranges)
}

// removeAllIn is os.RemoveAll for a name in an open directory.
func removeAllIn(dir *os.File, name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// RemoveFiles deletes the files of a volume whose removal failed for want of permission
// (id is that of the volume): a sandbox of a user without root may have made them as
// other users, which only a namespace of these can delete. The next opening of the home
// does the rest. ErrInvalid: the volume is not being removed.
func (m *Manager) RemoveFiles(ctx context.Context, id string) error {
	ids, err := m.store.Local().VolumesInRemoval(ctx)
	if err == nil && !slices.Contains(ids, id) {
		err = driver.Errorf(vole.ErrInvalid, "volume %s is not being removed", id)
	}
	if err == nil {
		err = m.removeVolumeFiles(ctx, id)
	}
	return wrapError("remove files of a volume", "", err)
}

// finishRemovals is RemoveFiles for all volumes, for when one was interrupted. What
// fails is tried again the next time.
func (m *Manager) finishRemovals(ctx context.Context) error {
	if os.Geteuid() == 0 {
		return nil // to whom nothing is closed
	}
	ids, err := m.store.Local().VolumesInRemoval(ctx)
	for _, id := range ids {
		_ = m.removeVolumeFiles(ctx, id)
	}
	return err
}

// removeVolumeFiles deletes the directory in which package local keeps a volume.
func (m *Manager) removeVolumeFiles(ctx context.Context, id string) error {
	return removeSandboxTree(ctx, m.store.Local().Directory(), "volumes/"+id)
}

// removeWithIDMap starts the remover in a new user namespace, writes its id maps, and closes its
// standard input, which is the sign for it to begin.
func removeWithIDMap(ctx context.Context, c *exec.Cmd, ranges idRanges) error {
	c.Args = append([]string{asRemover, "unmapped"}, c.Args[1:]...)
	c.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
	var out strings.Builder
	c.Stderr = &out
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	err = ranges.writeIDMaps(ctx, c.Process.Pid)
	if err != nil {
		_ = c.Process.Kill()
	}
	in.Close()
	return cmp.Or(err, withProcessOutput(c.Wait(), []byte(out.String())))
}

func withProcessOutput(err error, out []byte) error {
	if err != nil && len(out) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return err
}
