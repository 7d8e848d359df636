//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// typeIntoBash types lines into an interactive bash that has read no file but our script, and
// returns what it shows. The command show has vole's completion and prints its arguments.
func typeIntoBash(t *testing.T, home string, lines ...string) string {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(filepath.Dir(home), "completion.bash")
	out, err := voleCmd(t, home, "completion", "bash").Output()
	if err == nil {
		err = os.WriteFile(script, out, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	ours, tty := openPty(t)
	cmd := exec.Command(bash, "--norc", "--noprofile", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Dir = filepath.Dir(home)
	cmd.Env = append(os.Environ(), "TERM=dumb", "INPUTRC=/dev/null", "PS1=> ", "HISTFILE=", "VOLE_EXE="+exe, "VOLE_HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	typed := append([]string{
		"set +o emacs; set -o emacs; bind 'set page-completions off'; bind 'set completion-query-items 0'",
		`vole() { (exec -a vole "$VOLE_EXE" "$@"); }`,
		`show() { if [[ $1 == __complete ]]; then vole "$@"; else printf 'words'; printf '<%s>' "$@"; echo; fi; }`,
		". ./completion.bash && complete -o default -F __start_vole show",
	}, lines...)
	if _, err := ours.WriteString(strings.Join(append(typed, "exit"), "\n") + "\n"); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := ours.Read(buf) // EIO once bash has ended
		shown.Write(buf[:n])
		if err != nil {
			break
		}
	}
	_ = cmd.Wait()
	return shown.String()
}

// Completion works in a bash without the package bash-completion: words in quotes and with
// escapes, words that readline breaks at : and =, several words, directories, files.
func TestCompletionInPlainBash(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	for _, args := range [][]string{
		{"create", "alpha", "--label", "team=machine learning"}, {"create", "albatross"},
		{"fs", "mkdir", "-p", "alpha:/dir/with space", "alpha:/dir/it's"},
	} {
		if out, err := voleCmd(t, home, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, d := range []string{"here/one", "here/two"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "here", "tone"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ typed, want string }{
		{"show inspect a\tp\t", "<inspect><alpha>"},
		{"show cp alp\tdi\tw\t x", "<cp><alpha:/dir/with space/><x>"},
		{`show cp "alpha:/dir/wi` + "\t x", `<cp><alpha:/dir/with space/><x>`},
		{"show cp 'alpha:/d\tw\t", "<cp><alpha:/dir/with space/>"},
		{`show cp alpha:/dir/with\ s` + "\t", "<cp><alpha:/dir/with space/>"},
		{"show cp alpha:/dir/i\t", "<cp><alpha:/dir/it's/>"},
		{`show --home "$HOME/none" cp al` + "\t", "<--home><" + os.Getenv("HOME") + "/none><cp><al>"},
		{"show create --kind=di\ts\t", "<create><--kind=disk>"},
		{"show create --kind di\tr\t", "<create><--kind><dir>"},
		{"show run --rootfs here -v alb\tt\t", "<run><--rootfs><here><-v><albatross:/two/>"},
		{"show ls -l te\t=ma\t", "<ls><-l><team=machine learning>"},
		{"show run --rootfs here/t\t", "<run><--rootfs><here/two/>"},
		{"show serve --config here/to\t", "<serve><--config><here/tone>"},
		{"show inspect here/to\t", "<inspect><here/to>"},
		{"show cp here/to\t", "<cp><here/tone>"},
		{"true; show inspect a\tp\t | cat", "<inspect><alpha>"},
		{"show inspect '$(touch ran)' a\tp\t", "<inspect><$(touch ran)><alpha>"},
		{"show inspect $(touch ran; echo x) a\tp\t\x15show not a substitution", "<not><a><substitution>"},
	}
	var lines []string
	for _, test := range tests {
		lines = append(lines, test.typed)
	}
	shown := typeIntoBash(t, home, append(lines, "show fs \t\t")...)
	got := regexp.MustCompile(`(?m)^words(<.*>)\r$`).FindAllStringSubmatch(shown, -1)
	if len(got) != len(tests)+1 {
		t.Fatalf("%d commands, want %d:\n%s", len(got), len(tests)+1, shown)
	}
	for i, test := range tests {
		if got[i][1] != test.want {
			t.Errorf("%q: %s, want %s", test.typed, got[i][1], test.want)
		}
	}
	if !strings.Contains(shown, "\r\nmkdir  (Make directories)") {
		t.Errorf("descriptions are not shown:\n%s", shown)
	}
	if _, err := os.Lstat(filepath.Join(dir, "ran")); err == nil {
		t.Error("completion evaluated the line")
	}
}
