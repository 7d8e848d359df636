package ext4oracle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lookupTool finds a program of e2fsprogs, also outside the PATH of ordinary users.
func lookupTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	return path, err
}

// RequireTools skips a test if e2fsprogs is not installed.
func RequireTools(t testing.TB) {
	t.Helper()
	for _, name := range []string{"mke2fs", "e2fsck"} {
		if _, err := lookupTool(name); err != nil {
			t.Skip("needs e2fsprogs: ", err)
		}
	}
}

// runTool runs a program of e2fsprogs, and returns its output and exit status.
func runTool(name string, args ...string) (output string, status int, err error) {
	path, err := lookupTool(name)
	if err != nil {
		return "", -1, err
	}
	// Messages are compared with English ones.
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return string(out), exit.ExitCode(), nil
	}
	if err != nil {
		return string(out), -1, fmt.Errorf("%s: %w", name, err)
	}
	return string(out), 0, nil
}

// harmlessFsckLine matches the lines that e2fsck prints for an image without faults. Files
// that were truncated may have a deeper extent tree than necessary, by the kernel too.
var harmlessFsckLine = regexp.MustCompile(`^(e2fsck \d.*|Pass \d[A-Z]?: .*|.*: \d+/\d+ files \(.*\), \d+/\d+ blocks` +
	`|Inode \d+ extent tree \(at level \d\) could be (shorter|narrower)\.  Optimize\? no|\s*)$`)

// FsckStatus runs e2fsck on an image without changing it, and returns whether it found no
// fault, and its output. An image with a journal to recover is not clean.
func FsckStatus(image string) (clean bool, output string) {
	output, status, err := runTool("e2fsck", "-fn", image)
	if err != nil {
		return false, output + err.Error()
	}
	clean = status == 0
	for line := range strings.Lines(output) {
		if !harmlessFsckLine.MatchString(strings.TrimSuffix(line, "\n")) {
			clean = false
		}
	}
	return clean, output
}

// FsckPasses returns whether e2fsck -fn exits with status 0, and its output. It may have
// found problems that it does not count as faults.
func FsckPasses(image string) (ok bool, output string) {
	output, status, err := runTool("e2fsck", "-fn", image)
	return err == nil && status == 0, output
}

// Fsck fails the test unless e2fsck finds no fault in an image.
func Fsck(t testing.TB, image string) {
	t.Helper()
	RequireTools(t)
	if clean, output := FsckStatus(image); !clean {
		t.Errorf("e2fsck of %s:\n%s", image, output)
	}
}

// Repair lets e2fsck recover the journal and repair everything that it can.
func Repair(image string) (output string, err error) {
	output, status, err := runTool("e2fsck", "-fy", image)
	if err == nil && status > 2 {
		err = fmt.Errorf("e2fsck -fy gave up with status %d:\n%s", status, output)
	}
	return output, err
}

// Mke2fs makes an image of a size with mke2fs: ext4 with blocks of 4 KiB unless the
// arguments say otherwise.
func Mke2fs(t testing.TB, image string, size int64, args ...string) {
	t.Helper()
	RequireTools(t)
	if err := TryMke2fs(image, size, args...); err != nil {
		t.Fatal(err)
	}
}

// TryMke2fs is [Mke2fs] for arguments that mke2fs may not know.
func TryMke2fs(image string, size int64, args ...string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !slices.Contains(args, "-t") {
		args = append([]string{"-t", "ext4"}, args...)
	}
	if !slices.Contains(args, "-b") {
		args = append([]string{"-b", "4096"}, args...)
	}
	args = append([]string{"-q", "-F"}, append(args, image)...)
	output, status, err := runTool("mke2fs", args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("mke2fs %q: status %d: %s", args, status, strings.TrimSpace(output))
	}
	return err
}

// DebugfsAll runs several commands of debugfs on an image, with writing enabled.
func DebugfsAll(t testing.TB, image string, commands ...string) string {
	t.Helper()
	if _, err := lookupTool("debugfs"); err != nil {
		t.Skip("needs e2fsprogs: ", err)
	}
	list := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(list, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, status, err := runTool("debugfs", "-w", "-f", list, image)
	if err != nil || status != 0 {
		t.Fatalf("debugfs %q: %v, status %d: %s", commands, err, status, output)
	}
	return output
}

// Debugfs runs one command of debugfs on an image, with writing enabled, to inspect or
// damage it.
func Debugfs(t testing.TB, image, command string) string {
	t.Helper()
	if _, err := lookupTool("debugfs"); err != nil {
		t.Skip("needs e2fsprogs: ", err)
	}
	output, status, err := runTool("debugfs", "-w", "-R", command, image)
	if err != nil || status != 0 {
		t.Fatalf("debugfs %q: %v, status %d: %s", command, err, status, output)
	}
	return output
}
