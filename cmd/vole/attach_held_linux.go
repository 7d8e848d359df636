package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// heldPatience bounds the look at all processes, of which a host may have very many.
	heldPatience = time.Second
	// heldGrace lets processes go that end together with the program.
	heldGrace = 50 * time.Millisecond
	// mostHeld is how many processes are named.
	mostHeld = 5
)

// processesUsing names the processes, but for this one, that use a volume by its path on the
// host, in which there is its id or that of the attachment: what the program left running, or a
// daemon that it has handed the path to. Those of other users are seen by root only.
func processesUsing(volumeID, attachmentID string) []volumeUser {
	if len(findProcessesUsing(volumeID, attachmentID)) == 0 {
		return nil
	}
	time.Sleep(heldGrace)
	return findProcessesUsing(volumeID, attachmentID)
}

// findProcessesUsing is one look at all processes, which names at most mostHeld of them. A mount
// namespace is looked at once, for the first of its processes.
func findProcessesUsing(volumeID, attachmentID string) (list []volumeUser) {
	parts := []string{volumeID, attachmentID}
	deadline := time.Now().Add(heldPatience)
	looked := map[string]bool{} // mount namespaces, the one of this process with them
	if ns, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		looked[ns] = true
	}
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, dir := range processes {
		if time.Now().After(deadline) || len(list) == mostHeld {
			break
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		how := describeOpenUse(dir, parts)
		if how == "" && namespaceMountsVolume(dir, volumeID, attachmentID, looked) {
			how = "has it mounted"
		}
		if comm, err := os.ReadFile(dir + "/comm"); how != "" && err == nil {
			list = append(list, volumeUser{pid, strings.TrimSpace(string(comm)), how, ancestorProcesses(pid)})
		}
	}
	return list
}

// ancestorProcesses lists the processes that a process descends from, its parent first.
func ancestorProcesses(pid int) (list []int) {
	const mostDepth = 1000 // parents change while this looks, so that it could go in circles
	for len(list) < mostDepth {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// The parent is the second field after the name, which may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			break
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil || pid == 0 {
			break
		}
		list = append(list, pid)
	}
	return list
}

// describeOpenUse says how a process uses files of a volume; "": not at all.
func describeOpenUse(dir string, parts []string) string {
	inVolume := func(link string) bool {
		to, err := os.Readlink(link)
		return err == nil && containsAny(to, parts)
	}
	if inVolume(dir+"/cwd") || inVolume(dir+"/root") {
		return "has its working directory in it"
	}
	if inVolume(dir + "/exe") {
		return "is a program of it"
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "" // of another user
	}
	for _, fd := range fds {
		if inVolume(dir + "/fd/" + fd.Name()) {
			return "has files of it open"
		}
	}
	return ""
}

// namespaceMountsVolume reports whether the mount namespace of a process, if it was not looked at
// yet, has a mount of a volume, as a container has. A copy of the attachment's read-only view at
// its own place does not count: a namespace that was copied has one, and the kernel unmounts it
// when the place is removed.
func namespaceMountsVolume(dir, volumeID, attachmentID string, looked map[string]bool) bool {
	ns, err := os.Readlink(dir + "/ns/mnt")
	if err != nil || looked[ns] {
		return false
	}
	looked[ns] = true
	mounts, err := os.ReadFile(dir + "/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		const mountPoint = 4 // field of a line, see proc_pid_mountinfo(5)
		fields := strings.Fields(line)
		if len(fields) > mountPoint && filepath.Base(fields[mountPoint]) != attachmentID && containsAny(line, []string{volumeID, attachmentID}) {
			return true
		}
	}
	return false
}

// containsAny reports whether text has one of the parts.
func containsAny(text string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}
