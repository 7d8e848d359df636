//go:build linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/internal/profile"
	"golang.org/x/sys/unix"
)

// loginOnTerminal runs vole login on a terminal, types what is given once it asks for the
// key, and returns what the terminal showed.
func loginOnTerminal(t *testing.T, config, url, typed string) (shown string, err error) {
	t.Helper()
	ours, tty := openPty(t)
	cmd := voleCmd(t, filepath.Join(t.TempDir(), "home"), "login", url, "--profile", "p")
	cmd.Env = append(cmd.Env, "VOLE_CONFIG="+config) // and a local home without volumes
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := make(chan string)
	asked := make(chan struct{})
	go func() {
		var out strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			before := strings.Contains(out.String(), "API key for")
			out.Write(buf[:n])
			if !before && strings.Contains(out.String(), "API key for") {
				close(asked)
			}
			if err != nil || strings.Contains(out.String(), "\x00") {
				end <- out.String()
				return
			}
		}
	}()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("login asks for no key")
	}
	for { // the terminal shows nothing any more before the prompt's answer is read
		tio, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if tio.Lflag&unix.ECHO == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := ours.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	tio, terr := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if terr != nil || tio.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal does not show what is typed any more: %v", terr)
	}
	_, _ = tty.Write([]byte{0}) // ends the reading
	return <-end, err
}

func TestLoginOnTerminal(t *testing.T) {
	address, key := startServer(t)
	config := filepath.Join(t.TempDir(), "config.json")

	// Ctrl-C instead of a key.
	shown, err := loginOnTerminal(t, config, address, "vole_half\x03")
	var ee *exec.ExitError
	if !errors.As(err, &ee) || ee.ExitCode() != 130 || strings.Contains(shown, "half") {
		t.Errorf("%v, want exit code 130\n%s", err, shown)
	}
	if _, err := os.Stat(config); err == nil {
		t.Error("an interrupted login left something")
	}

	shown, err = loginOnTerminal(t, config, address, key+"\n")
	if err != nil || strings.Contains(shown, key) || !strings.Contains(shown, "p: organisation default") {
		t.Errorf("%v\n%s", err, shown)
	}
	f, err := profile.Load(config)
	if p := f.Profiles["p"]; err != nil || p.Key != key || p.URL != address || f.Current != "p" {
		t.Errorf("%v, %v", f.Current, err)
	}
}
