package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDir is the group above those of all sandboxes.
const cgroupDir = "/vole"

// cgroups says which limits control groups can enforce for this process.
type cgroups struct {
	memory, pids, cpu, freezer bool

	// delegated is the directory of the control group that is delegated to a caller
	// without root. "": the runtime makes groups below cgroupDir as root, or there are none.
	delegated string
	// intrusive: to limit memory, processes or processors, other processes of the caller's
	// must be moved to another group first.
	intrusive bool
}

func (c cgroups) hasAnyLimit() bool { return c.memory || c.pids || c.cpu || c.freezer }

// findUsableCgroups finds the controllers that this process may use. Only root may make
// groups, or a user to whom one is delegated.
func findUsableCgroups() cgroups {
	if os.Geteuid() != 0 {
		return findDelegatedCgroup()
	}
	if unix.Access(cgroupRoot, unix.W_OK) != nil {
		return cgroups{}
	}
	if isCgroup2Mount() {
		have := readControllers(cgroupRoot)
		have.freezer = true
		return have
	}
	v1 := func(name string) bool {
		dir := filepath.Join(cgroupRoot, name)
		return unix.Access(dir, unix.W_OK) == nil && unix.Access(filepath.Join(dir, "cgroup.procs"), unix.F_OK) == nil
	}
	return cgroups{memory: v1("memory"), pids: v1("pids"), cpu: v1("cpu"), freezer: v1("freezer")}
}

// planLimits decides which limits to set. A limit that the caller asked for and that cannot
// be enforced is an error; a default is left out.
func planLimits(config Config, have cgroups) (limits, error) {
	var planned limits
	switch {
	case config.Memory > 0 && !have.memory:
		return planned, have.explainUnavailable("a limit on memory", "memory")
	case config.Memory > 0:
		planned.Memory = int64(config.Memory)
	case config.Memory == 0 && have.memory && !have.intrusive:
		planned.Memory = readHostMemory() / 2
	}
	switch {
	case config.Pids > 0 && !have.pids:
		return planned, have.explainUnavailable("a limit on processes", "pids")
	case config.Pids > 0:
		planned.Pids = config.Pids
	case config.Pids == 0 && have.pids && !have.intrusive:
		planned.Pids = DefaultPids
	case config.Pids == 0:
		// In a user namespace it counts this sandbox's processes only. Elsewhere the
		// kernel exempts root, for whom the helper bounds the ids of processes.
		planned.NProc = DefaultPids
	}
	if config.CPUs > 0 && !have.cpu {
		return planned, have.explainUnavailable("a limit on processors", "cpu")
	}
	planned.CPUs = config.CPUs
	return planned, nil
}

// checkEnforceable says at once, before anything is made, that a limit cannot be enforced.
func (c *Config) checkEnforceable() error {
	_, err := planLimits(*c, findUsableCgroups())
	return err
}

// readHostMemory returns the memory of this host in bytes, 0 when unknown.
func readHostMemory() int64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return int64(si.Totalram) * int64(si.Unit)
}

// cgroupsOf lists the directories of a sandbox's control groups: with version 1 one for each
// controller.
func cgroupsOf(id string) ([]string, error) {
	var dirs []string
	for _, parent := range []string{cgroupRoot + cgroupDir, cgroupRoot + "/*" + cgroupDir} {
		list, err := filepath.Glob(filepath.Join(parent, id))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, list...)
	}
	return dirs, nil
}

// removeSandboxCgroups ends what still runs in a sandbox's control groups and removes them.
func removeSandboxCgroups(ctx context.Context, id string) error {
	dirs, err := cgroupsOf(id)
	if err != nil {
		return err
	}
	return removeCgroupTree(ctx, dirs)
}

// removeCgroupTree ends what runs in control groups and removes them. Frozen processes die only
// when they are thawed.
func removeCgroupTree(ctx context.Context, dirs []string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var left []string
		for _, d := range dirs {
			thawCgroup(d)
			killCgroup(d)
			if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				left = append(left, d)
			}
		}
		if dirs = left; len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return driver.Errorf(ctx.Err(), "control group %s is still in use", left[0])
		case <-time.After(pause):
		}
	}
}

// thawCgroup lets the processes of a control group run. Errors do not matter: most groups
// cannot freeze.
func thawCgroup(dir string) {
	_ = writeExistingFile(filepath.Join(dir, "freezer.state"), "THAWED")
	_ = writeExistingFile(filepath.Join(dir, "cgroup.freeze"), "0")
}

// killCgroup kills all processes of a control group, one by one where the kernel has no
// cgroup.kill (before 5.14). Processes that start at that moment are left: callers repeat it.
func killCgroup(dir string) {
	if writeExistingFile(filepath.Join(dir, "cgroup.kill"), "1") == nil {
		return
	}
	for _, f := range readFields(filepath.Join(dir, "cgroup.procs")) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func writeExistingFile(file, s string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}
