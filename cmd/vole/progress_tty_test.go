//go:build linux

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vbauerster/mpb/v8/decor"
)

// onTerminal runs a command whose standard error, and standard output unless out is given,
// is a terminal, and returns what that showed.
func onTerminal(t *testing.T, home string, stdin, out *os.File, args ...string) string {
	t.Helper()
	ours, tty := openPty(t)
	cmd := voleCmd(t, home, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2}
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var seen bytes.Buffer
	for buf := make([]byte, 4096); ; {
		n, err := ours.Read(buf) // EIO once the last terminal end is closed
		seen.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("vole %v: %v\n%s", args, err, seen.Bytes())
	}
	return seen.String()
}

// All long commands show on a terminal what they do, and are silent in a pipe.
func TestProgressOfCommands(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	file := func(name string) string { return filepath.Join(dir, name) }
	open := func(name string) *os.File {
		if name == "" {
			return nil
		}
		f, err := os.OpenFile(file(name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if err := os.Mkdir(file("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("tree/big"), bytes.Repeat([]byte("content "), 1<<16), 0o644); err != nil {
		t.Fatal(err)
	}
	const copied = `copied 1 file, 512KiB in `
	for _, test := range []struct {
		args          []string
		in, out, want string
	}{
		{args: []string{"create", "v", "--from", file("tree")}, want: copied},
		{args: []string{"cp", "v:/", "-"}, out: "v.tar", want: copied},
		{args: []string{"create", "w", "--from", file("v.tar")}, want: copied},
		{args: []string{"create", "x", "--from", "-"}, in: "v.tar", want: copied},
		{args: []string{"fs", "put", file("tree/big"), "v:/again"}, want: copied},
		{args: []string{"fs", "put", "-", "v:/again"}, in: "tree/big", want: copied},
		{args: []string{"fs", "get", "v:/again", file("got")}, want: copied},
		{args: []string{"fs", "get", "v:/again", "-"}, out: "got-2", want: copied},
		{args: []string{"create", "d", "--kind", "disk", "--from", file("tree")}, want: copied},
		{args: []string{"disk", "export", "d", file("image")}, want: "copied 1 file, "},
		{args: []string{"disk", "import", file("image"), "e"}, want: "copied 1 file, "},
		{args: []string{"doctor"}, want: "ok: nothing found\r\n"},
	} {
		if shown := onTerminal(t, home, open(test.in), open(test.out), test.args...); !strings.Contains(shown, test.want) {
			t.Errorf("vole %v does not show %q:\n%q", test.args, test.want, shown)
		}
	}
	for _, args := range [][]string{{"fs", "put", file("tree/big"), "v:/again"}, {"fs", "get", "v:/again", file("got")}, {"disk", "export", "d", file("image"), "-q"}} {
		if out, err := voleCmd(t, home, args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("vole %v in a pipe: %v, %q", args, err, out)
		}
	}
}

// The status has the total and an ETA as soon as they are known.
func TestProgressStatus(t *testing.T) {
	for want, fill := range map[string]func(p *progress){
		`^1 file, 300B, [0-9.]+[KMGT]?i?B/s $`:                      func(p *progress) { p.Add(300); p.File("f") },
		`^0 files, 300B of 1.17KiB, [0-9.]+[KMGT]?i?B/s, ETA [0-9]`: func(p *progress) { p.setTotal(1200); p.Add(300) },
		`^0 files, 600B of 1.17KiB, .*, ETA [0-9hms]+ $`:            func(p *progress) { p.setTotal(1200); p.Add(300); p.setPosition(600); p.Add(10) },
		`^0 files, 6B of 6B, .*, ETA 0s $`:                          func(p *progress) { p.measureSource(&bytes.Buffer{}); p.setTotal(6); p.Add(6) },
		`^3 of 4 volumes, ETA [0-9]`:                                func(p *progress) { p.thing = "volume"; p.setCount(3, 4) },
		`^1 of 1 volume, ETA 0s $`:                                  func(p *progress) { p.thing = "volume"; p.setCount(1, 1) },
		`^0 volumes $`:                                              func(p *progress) { p.thing = "volume" },
	} {
		_, tty := openPty(t)
		p := newApp(strings.NewReader(""), &bytes.Buffer{}, tty).newProgress()
		fill(p)
		if got := p.formatStatus(decor.Statistics{}); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%q does not match %q", got, want)
		}
		p.removeBar()
	}
}

// What is read of a file tells how far its unpacking is, whatever comes out of it.
func TestProgressOfSource(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err == nil {
		defer f.Close()
		_, err = f.WriteString("0123456789")
	}
	if err == nil {
		_, err = f.Seek(4, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, tty := openPty(t)
	p := newApp(strings.NewReader(""), &bytes.Buffer{}, tty).newProgress()
	defer p.removeBar()
	r := p.measureSource(f)
	if _, err := r.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	p.Add(1000)
	if p.size.Load() != 6 || p.position.Load() != 2 || p.bytes.Load() != 1000 {
		t.Errorf("%d of %d, %d bytes", p.position.Load(), p.size.Load(), p.bytes.Load())
	}
}
