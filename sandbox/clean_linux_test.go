package sandbox

import (
	"os"
	"path/filepath"
	"strings"
)

// checkClean checks that nothing of a sandbox is left: no attachment, live row,
// scratch directory, mount, loop device, process or control group.
func (e *env) checkClean() {
	e.t.Helper()
	ctx := testContext(e.t)
	if list, err := e.store.Attachments(ctx); err != nil || len(list) > 0 {
		e.t.Errorf("attachments: %+v, %v", list, err)
	}
	if list, err := e.m.List(ctx, false); err != nil || len(list) > 0 {
		e.t.Errorf("live sandboxes: %+v, %v", list, err)
	}
	all, err := e.m.List(ctx, true)
	if err != nil {
		e.t.Error(err)
	}
	for _, i := range all {
		for _, name := range []string{scratchDir, controlFile} {
			if _, err := os.Lstat(filepath.Join(e.m.sandboxDir(i.ID), name)); !os.IsNotExist(err) {
				e.t.Errorf("%s of %s is left: %v", name, i.Name, err)
			}
		}
		groups, _ := filepath.Glob(cgroupRoot + "/*" + cgroupDir + "/" + i.ID)
		if len(groups) > 0 {
			e.t.Errorf("control groups are left: %v", groups)
		}
		if pids := processesOf(i.ID, e.home); len(pids) > 0 {
			e.t.Errorf("processes of %s are left: %v", i.Name, pids)
		}
	}
	// Those of readers may go a moment after their sandbox.
	waitUntil(e.t, "no loop devices", func() bool { return len(loopDevicesOf(e.home)) == 0 })
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(b), e.home) {
		e.t.Errorf("mounts are left: %v\n%s", err, b)
	}
}

// processesOf lists processes that have a mount of the home, or are in the control
// group of a sandbox. The test itself has neither.
func processesOf(id, home string) []string {
	var found []string
	list, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range list {
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		group, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(mounts), home) || strings.Contains(string(group), id) {
			cmd, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			found = append(found, filepath.Base(dir)+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return found
}
