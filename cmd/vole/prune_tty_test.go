//go:build linux

package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole"
)

// On a terminal prune lists what would go, and asks. Only yes is yes; with --force it does
// not ask.
func TestPruneAsks(t *testing.T) {
	for _, tc := range []struct {
		typed  string
		args   []string
		asks   bool
		remove bool
	}{
		{"y\n", nil, true, true},
		{"YES\n", []string{"-q"}, true, true},
		{"n\n", nil, true, false},
		{"\n", nil, true, false},
		{"\x04", []string{"--json"}, true, false},
		{"perhaps\n", nil, true, false},
		{"", []string{"--force"}, false, true},
	} {
		t.Run(strings.TrimSpace(tc.typed)+strings.Join(tc.args, ""), func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "home")
			s, err := vole.Open(t.Context(), vole.Options{Home: home})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Create(t.Context(), "idle", vole.Spec{}); err != nil {
				t.Fatal(err)
			}
			shown, err := pruneOnTerminal(t, home, tc.typed, tc.args...)
			if err != nil {
				t.Errorf("%v\n%s", err, shown)
			}
			if asks := strings.Contains(shown, "Remove 1 volume, with the 0B in them? [y/N]") && strings.Contains(shown, "LAST USED"); asks != tc.asks {
				t.Errorf("asks: %v\n%s", asks, shown)
			}
			if _, err := s.Get(t.Context(), "idle"); err != nil != tc.remove {
				t.Errorf("%v\n%s", err, shown)
			}
		})
	}
}

// pruneOnTerminal runs vole prune on a terminal on which the answer is typed ahead, and
// returns what the terminal showed.
func pruneOnTerminal(t *testing.T, home, typed string, args ...string) (shown string, err error) {
	t.Helper()
	ours, tty := openPty(t)
	if _, err := ours.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	cmd := voleCmd(t, home, append([]string{"prune", "--unused-for", "0"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	end := make(chan string)
	go func() {
		var out strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(out.String(), "\x00") {
			n, err := ours.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				break
			}
		}
		end <- out.String()
	}()
	err = cmd.Run()
	_, _ = tty.Write([]byte{0}) // ends the reading
	return <-end, err
}
