package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// Without root, control groups can be made in a group of version 2 that is delegated to the
// user: systemd gives its directory and files to the user. Vole makes a group there for each
// sandbox and moves the container into it, so that all runtimes behave the same.

const (
	// processesGroup is the group to which the processes of a delegated one are moved, as
	// none may be in a group that limits others below it.
	// https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint
	processesGroup = "vole-processes"
	groupPrefix    = "vole-"

	groupFile = "cgroup" // in a sandbox's directory: where its group is
)

// findDelegatedCgroup looks for a control group that is delegated to the caller.
func findDelegatedCgroup() cgroups {
	dir := readOwnCgroup()
	if dir == "" {
		return cgroups{}
	}
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(dir, name), unix.W_OK) != nil {
			return cgroups{}
		}
	}
	have := readControllers(dir)
	have.freezer = unix.Access(filepath.Join(dir, "cgroup.freeze"), unix.F_OK) == nil
	have.delegated, have.intrusive = dir, hasForeignProcesses(dir)
	return have
}

// readControllers reads which controllers a control group of version 2 has.
func readControllers(dir string) cgroups {
	list := readFields(filepath.Join(dir, "cgroup.controllers"))
	return cgroups{memory: slices.Contains(list, "memory"), pids: slices.Contains(list, "pids"), cpu: slices.Contains(list, "cpu")}
}

// readOwnCgroup is the directory of this process's control group of version 2, or of the one
// above when Vole has moved it; "": there is none that it can see.
func readOwnCgroup() string {
	if !isCgroup2Mount() {
		return ""
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if own, ok := strings.CutPrefix(line, "0::/"); ok && !slices.Contains(strings.Split(own, "/"), "..") {
			dir := filepath.Join(cgroupRoot, own)
			if filepath.Base(dir) == processesGroup {
				dir = filepath.Dir(dir)
			}
			return dir
		}
	}
	return ""
}

func isCgroup2Mount() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hasForeignProcesses reports whether there are processes in a control group that are not
// of this program.
func hasForeignProcesses(dir string) bool {
	self, err := os.Stat("/proc/self/exe")
	for _, pid := range readFields(filepath.Join(dir, "cgroup.procs")) {
		exe, perr := os.Stat(filepath.Join("/proc", pid, "exe"))
		if err != nil || perr == nil && !os.SameFile(self, exe) || perr != nil && !errors.Is(perr, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

func readFields(file string) []string {
	b, _ := os.ReadFile(file) // missing: none
	return strings.Fields(string(b))
}

// explainUnavailable returns the reason why no control group can be made, and the remedy.
func (c cgroups) explainUnavailable(what, controller string) error {
	switch {
	case os.Geteuid() == 0:
		return driver.Errorf(vole.ErrUnsupported, "%s needs a control group, which cannot be made here: %s is not writable, or lacks it", what, cgroupRoot)
	case c.delegated != "":
		return driver.Errorf(vole.ErrUnsupported,
			"%s needs the controller %q, which the control group %s has not got delegated; an administrator can have it delegated with Delegate=cpu memory pids in the unit user@.service",
			what, controller, c.delegated)
	case !isCgroup2Mount():
		return driver.Errorf(vole.ErrUnsupported, "%s needs a control group; this host has those of version 1, which only root can make: run it as root", what)
	}
	return driver.Errorf(vole.ErrUnsupported,
		"%s needs a control group that is delegated to you; run it as 'systemd-run --user --scope -p Delegate=yes -- vole run ...', or as root", what)
}

// makeSandboxCgroup makes the control group of a sandbox, with its limits, in the delegated one.
// It is recorded first, so that it is found when this process dies.
func (m *Manager) makeSandboxCgroup(id string, have cgroups, l limits) (string, error) {
	dir := filepath.Join(have.delegated, groupPrefix+id)
	if err := m.createSandboxFile(id+"/"+groupFile, []byte(dir)); err != nil {
		return "", err
	}
	if err := writeCgroupLimits(have.delegated, dir, l); err != nil {
		return "", fmt.Errorf("control group %s: %w", dir, err)
	}
	return dir, nil
}

// planSandboxCgroup says which control group the runtime is to make, or which was made for it.
func (m *Manager) planSandboxCgroup(id string, have cgroups, l limits) (forRuntime, made string, err error) {
	switch {
	case have.delegated != "":
		made, err = m.makeSandboxCgroup(id, have, l)
	case have.hasAnyLimit():
		forRuntime = cgroupDir + "/" + id
	}
	return forRuntime, made, err
}

// writeCgroupLimits makes a control group in another, with limits.
func writeCgroupLimits(parent, dir string, l limits) error {
	settings, controllers := l.cgroupSettings()
	if err := enableControllers(parent, controllers); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for file, value := range settings {
		if err := writeExistingFile(filepath.Join(dir, file), value); err != nil {
			return err
		}
	}
	return nil
}

// cgroupSettings are what to write into the files of a control group of version 2, and the
// controllers that they need.
func (l limits) cgroupSettings() (files map[string]string, controllers []string) {
	files = map[string]string{}
	if l.Memory > 0 {
		files["memory.max"] = strconv.FormatInt(l.Memory, 10)
		controllers = append(controllers, "memory")
	}
	if l.Pids > 0 {
		files["pids.max"] = strconv.FormatInt(l.Pids, 10)
		controllers = append(controllers, "pids")
	}
	if l.CPUs > 0 {
		files["cpu.max"] = fmt.Sprintf("%d %d", int64(l.CPUs*cpuPeriod), cpuPeriod)
		controllers = append(controllers, "cpu")
	}
	return files, controllers
}

// enableControllers lets the groups in a control group have controllers, for which its
// processes are moved to a group of their own.
func enableControllers(dir string, controllers []string) error {
	enabled := readFields(filepath.Join(dir, "cgroup.subtree_control"))
	var add []string
	for _, c := range controllers {
		if !slices.Contains(enabled, c) {
			add = append(add, "+"+c)
		}
	}
	if len(add) == 0 {
		return nil
	}
	leaf := filepath.Join(dir, processesGroup)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	const tries = 20 // processes may be starting others all the while
	var err error
	for range tries {
		if err := moveProcesses(readFields(filepath.Join(dir, "cgroup.procs")), leaf); err != nil {
			return err
		}
		err = writeExistingFile(filepath.Join(dir, "cgroup.subtree_control"), strings.Join(add, " "))
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// moveProcesses moves processes to a control group. Those that ended are no matter.
func moveProcesses(pids []string, dir string) error {
	for _, pid := range pids {
		if err := writeExistingFile(filepath.Join(dir, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// enterCgroup puts into the sandbox's control group all that the runtime has started, before
// the command is executed. The helper sees its own pid namespace in /proc.
func (h *helper) enterCgroup() error {
	if h.p.Group == "" {
		return nil
	}
	list, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var pids []string
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && pid != h.reaper.Process.Pid {
			pids = append(pids, e.Name())
		}
	}
	if err := moveProcesses(pids, h.p.Group); err != nil {
		return fmt.Errorf("enter the control group %s: %w", h.p.Group, err)
	}
	return nil
}

// freezeCgroup freezes or thaws the processes of a control group, and waits until they are.
func freezeCgroup(ctx context.Context, dir string, frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	if err := writeExistingFile(filepath.Join(dir, "cgroup.freeze"), value); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		events := readFields(filepath.Join(dir, "cgroup.events"))
		if i := slices.Index(events, "frozen"); i < 0 || i+1 >= len(events) || events[i+1] == value {
			return nil
		}
		select {
		case <-ctx.Done():
			return driver.Errorf(ctx.Err(), "the processes of the control group %s do not stop", dir)
		case <-time.After(pause):
		}
	}
}

// maxGroupPath is more than a path in the file system of control groups has.
const maxGroupPath = 4 << 10

// readRecordedCgroup returns the control group that was made for a sandbox; "": none. The
// home's owner can write the record, and may have no rights over other groups, so only a
// group with the sandbox's own name is accepted.
func (m *Manager) readRecordedCgroup(id string) string {
	b, err := m.readSandboxFile(id+"/"+groupFile, maxGroupPath)
	dir := string(b)
	if err != nil || dir != filepath.Clean(dir) || !strings.HasPrefix(dir, cgroupRoot+"/") || filepath.Base(dir) != groupPrefix+id {
		return ""
	}
	return dir
}

// removeRecordedCgroup removes the control group that was made for a sandbox.
func (m *Manager) removeRecordedCgroup(ctx context.Context, id string) error {
	dir := m.readRecordedCgroup(id)
	if dir == "" {
		return nil
	}
	if _, err := os.Lstat(dir); err != nil {
		return nil // removed, or of a mount namespace that this process does not see
	}
	return removeCgroupTree(ctx, []string{dir})
}
