//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// completeIn runs a shell on our completion script for it and some lines, with a command
// vole, and returns what it prints. The lines begin in an empty directory.
func completeIn(t *testing.T, shell, home, lines string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skip("there is no " + shell + " here")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script, err := voleCmd(t, home, "completion", shell).Output()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "script"), script, 0o644)
	}
	if err == nil {
		err = os.Symlink(exe, filepath.Join(dir, "vole"))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := voleCmd(t, home) // for its environment
	cmd.Path, cmd.Args, cmd.Dir = path, []string{shell, "-c", lines}, dir
	if shell == "zsh" {
		cmd.Args = []string{shell, "-f", "-c", lines}
	}
	cmd.Env = append(cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "VOLE_HOME="+home, "WHERE="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "ran")); err == nil {
		t.Errorf("completion evaluated the line:\n%s", lines)
	}
	return string(out)
}

// No key for completion runs what is in the line, in quotes or without.
func TestCompletionEvaluatesNothing(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	if out, err := voleCmd(t, home, "create", "alpha").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("fish", func(t *testing.T) {
		lines := []string{
			`'(touch ran)' al`, `'$(touch ran)' al`, `(touch ran) al`, `\(touch\ ran\) al`, `';touch ran;' al`, `--home $WHERE al`, `al`,
		}
		script := "source ./script\n"
		for _, line := range lines {
			script += "complete -C " + "'vole inspect " + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(line) + "'\n"
		}
		if out := completeIn(t, "fish", home, script); out != strings.Repeat("alpha\n", len(lines)) {
			t.Errorf("it offers %q", out)
		}
	})
	t.Run("zsh", func(t *testing.T) {
		lines := []string{
			`'$(touch ran)' al`, "'`touch ran`' al", `';touch' ran al`, `'>' ran al`, `'*(e:"touch ran":)' al`, `--home '$WHERE' al`, `--home '"${WHERE}"' al`, `'"al'`, `al`,
		}
		// What zsh's own completion has, of which the script is a part.
		script := "compdef() { }; compadd() { }; _describe() { print -r -- ${(P)2}; }; . ./script\n"
		for _, line := range lines {
			script += "words=(vole inspect " + line + "); CURRENT=$#words; _vole\n"
		}
		if out := completeIn(t, "zsh", home, script); out != strings.Repeat("alpha\n", len(lines)) {
			t.Errorf("it offers %q", out)
		}
	})
}
