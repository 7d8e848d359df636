//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPty opens a pseudo-terminal: our end, and the end that is a terminal.
func openPty(t *testing.T) (ours, tty *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
		t.Fatal(err)
	}
	return ours, tty
}

// voleCmd is a vole command on the given home.
func voleCmd(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{
		Path: exe, Args: append([]string{"vole"}, args...), // TestMain goes by the name
		Env: append(os.Environ(), "VOLE_HOME="+home), Dir: filepath.Dir(home),
	}
}

// What is typed on a terminal reaches the program of attach without vole's help, so
// vole must neither end nor pass it on a second time.
func TestAttachTypedInterrupt(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if out, err := voleCmd(t, home, "create", "v").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const program = `trap 'echo INT >>log' INT
echo >ready
i=0
while test $i -lt 30; do sleep 0.05; i=$((i+1)); done
exit 44`
	ours, tty := openPty(t)
	cmd := voleCmd(t, home, "attach", "v", "--", "sh", "-c", program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := ours.Write([]byte{3}); err != nil { // ^C
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 44 {
		t.Errorf("exit code %d, want the program's 44", code)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if got := strings.Count(string(log), "INT"); got != 1 {
		t.Errorf("the program got SIGINT %d times, want once", got)
	}
}

// The bar is drawn on a terminal while a copy runs, and gone when it is done.
func TestProgressBar(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if out, err := voleCmd(t, home, "create", "v").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ours, tty := openPty(t)
	cmd := voleCmd(t, home, "cp", "-", "v:/")
	cmd.Stdin, cmd.Stderr = pr, tty
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	pr.Close()
	go func() {
		// A tar file whose one entry comes in slowly.
		tw := tar.NewWriter(pw)
		tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "slow.bin", Mode: 0o644, Size: 2048})
		for range 4 {
			time.Sleep(200 * time.Millisecond)
			tw.Write(make([]byte, 512))
		}
		tw.Close()
		pw.Close()
	}()
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := ours.Read(buf) // EIO once the last terminal end is closed
		seen.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, seen.Bytes())
	}
	for _, want := range []string{"0 files, ", "copied 1 file, 2KiB in "} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("the terminal did not show %q:\n%q", want, seen.String())
		}
	}
	if stdout.Len() > 0 {
		t.Errorf("standard output: %q", stdout.Bytes())
	}
}
