//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"golang.org/x/term"
)

// hostileText has a sequence for the terminal's title, CSI of C1, overrides of the
// direction of writing, separators, DEL, line ends and a tab.
const hostileText = "\x1b]0;PWNED\x07\u009b31m\u202e\u2066\u2028\u0085\x7f\nFAKE\trow\r\x1b[31m"

// hostileName is also no UTF-8, as names of files may be.
const hostileName = hostileText + "\x9b31m"

// ownSequences are those of the progress display.
var ownSequences = regexp.MustCompile(`\x1b\[(\d*[ABCDJK]|\?25[lh]|0?m|\d+;\d+r)`)

// terminalRun runs vole with its output on a terminal, and returns what that got.
type terminalRun struct {
	ours, tty *os.File
	shown     chan string
}

func newTerminalRun(t *testing.T) *terminalRun {
	ours, tty := openPty(t)
	if _, err := term.MakeRaw(int(tty.Fd())); err != nil { // line ends stay as they are
		t.Fatal(err)
	}
	r := &terminalRun{ours, tty, make(chan string)}
	go func() {
		var out []byte
		buf := make([]byte, 64<<10)
		for {
			n, err := ours.Read(buf)
			if err != nil {
				return
			}
			out = append(out, buf[:n]...)
			if all, ok := bytes.CutSuffix(out, []byte{0}); ok {
				r.shown <- string(all)
				out = nil
			}
		}
	}()
	return r
}

func (r *terminalRun) run(args []string) string {
	runCommandLine(args, strings.NewReader("vole_"+hostileText+"\n"), r.tty, r.tty)
	_, _ = r.tty.Write([]byte{0})
	return <-r.shown
}

// checkInert fails when text has what a terminal acts on.
func checkInert(t *testing.T, args []string, text string) {
	t.Helper()
	text = ownSequences.ReplaceAllString(text, "")
	rest := text
	for len(rest) > 0 {
		r, n := utf8.DecodeRuneInString(rest)
		if r == utf8.RuneError && n == 1 || isControlRune(r) && r != '\n' && r != '\t' {
			t.Errorf("vole %q: %q reaches the terminal\n%q", args, rest[:n], text)
			return
		}
		rest = rest[n:]
	}
	checkLines(t, args, text)
}

// checkLines fails when a value broke a line.
func checkLines(t *testing.T, args []string, text string) {
	t.Helper()
	if strings.Contains(text, "\nFAKE") || strings.Contains(text, "FAKE\trow") {
		t.Errorf("vole %q: a value breaks its line:\n%q", args, text)
	}
}

// runHostile runs each command line on a terminal and into pipes, with --json and
// without, and checks what comes out. It returns all of it.
func runHostile(t *testing.T, lines [][]string) string {
	t.Helper()
	terminal := newTerminalRun(t)
	var all strings.Builder
	for _, line := range lines {
		for _, args := range [][]string{line, append([]string{"--json"}, line...), append([]string{"-q"}, line...)} {
			shown := terminal.run(args)
			checkInert(t, args, shown)
			var stdout, stderr bytes.Buffer
			code := runCommandLine(args, strings.NewReader("vole_x\n"), &stdout, &stderr)
			checkLines(t, args, stdout.String())
			checkInert(t, args, stderr.String())
			if slices.Contains(args, "--json") {
				checkInert(t, args, stdout.String())
				if code == 0 {
					checkJSON(t, args, stdout.Bytes())
				}
			}
			all.WriteString(shown + stdout.String() + stderr.String())
		}
	}
	return all.String()
}

func checkJSON(t *testing.T, args []string, out []byte) {
	t.Helper()
	if len(args) == 1 || slices.ContainsFunc(args, func(s string) bool {
		return strings.HasPrefix(s, "__complete") || s == "help" || s == "exit-codes" || s == "--help" || s == "completion"
	}) {
		return
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var v any
		if err := dec.Decode(&v); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("vole %q: not JSON: %v\n%q", args, err, out)
			return
		}
	}
}

// hostileHome makes a home with hostile text in every column that a user or a sandbox
// can fill, and more, and names of files that only the kernel checks.
func hostileHome(t *testing.T) (home string) {
	home = filepath.Join(t.TempDir(), "home")
	ctx := t.Context()
	store, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	for _, name := range []string{"v", "w", "x"} {
		vol, err := store.Create(ctx, name, vole.Spec{Labels: vole.Labels{"k": "value"}})
		if err != nil {
			t.Fatal(err)
		}
		f, err := vol.FS(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.WriteFile(ctx, "d/f", []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if name == "w" {
			fillHostile(t, filepath.Join(home, "volumes", vol.Info().ID, "data", "d"))
		}
		att, err := vol.Attach(ctx, vole.AttachOptions{Holder: "holder"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { att.Detach(ctx) })
	}
	hostileImage(t, home)
	execSQL(t, home, `UPDATE volumes SET labels = json_object('k', ?)`, hostileText)
	execSQL(t, home, `UPDATE attachments SET holder = ?, host = ?`, hostileText, hostileText)
	execSQL(t, home, `INSERT INTO sandboxes VALUES ('019ab3c4-0000-7000-8000-000000000001', ?, 'stopped', json_array(?), ?, ?, 1,
		json_array(json_object('volume', ?, 'path', ?)), 1, 1, ?, 1, 1, 1)`,
		hostileText, hostileText, "dir:"+hostileText, hostileText, hostileText, hostileText, hostileText)
	return home
}

func fillHostile(t *testing.T, dir string) {
	for _, name := range []string{hostileName, "\x1b[2J", "\nFAKE\trow", "\"quoted\"", "\u202egnp.exe", "tab\there"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "link"+name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "dir"+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// localLines are command lines for a hostile home. Every command is among them or among
// those for a server.
func localLines(dir string) [][]string {
	e := hostileName
	lines := [][]string{
		{}, {e}, {"--" + e}, {"--profile", e, "ls"}, {"--home", e, "ls"}, {"--timeout", e, "ls"},
		{"ls"}, {"ls", "--kind", e}, {"ls", "-l", e}, {"ls", "--cursor", e}, {"ls", "--limit", "1"},
		{"prune", "--unused-for", "0s", "--dry-run"}, {"prune", "--unused-for", e}, {"prune", "-l", e, "--dry-run"}, {"ls", "--unused-for", e},
		{"ls", "--name", e}, {"ls", "--sort", e}, {"ls", "--format", "{{" + e}, {"ls", "--format", "{{.Name}} {{.Labels}}"}, {"inspect", "w", "--format", "{{.}}"},
		{"inspect", "w"}, {"inspect", e}, {"df"}, {"df", e}, {"doctor"}, {"ps"}, {"ps", "-a"}, {"image", "ls"}, {"image", "rm", e},
		{"rm", "w"}, {"rm", e}, {"rename", "w", e}, {"clone", "w", e}, {"clone", e, "n"}, {"set", "w", "-l", e}, {"set", e, "-l", "a=b"}, {"create", e},
		{"create", "n", "--from", e}, {"create", "n", "--quota", e},
		{"fs", e}, {"fs", "ls", "w:/d"}, {"fs", "ls", "-la", "w:/d"}, {"fs", "ls", "w:/" + e}, {"fs", "tree", "w"},
		{"fs", "tree", "w:/d/dir" + e}, {"fs", "stat", "w:/d/" + e, "w:/d/link" + e}, {"fs", "cat", "w:/no" + e},
		{"fs", "get", "w:/no" + e}, {"fs", "put", e, "w:/d"}, {"fs", "mkdir", "w:/d/" + e}, {"fs", "mv", "w:/d/" + e, "w:/d/dir" + e},
		{"fs", "rm", "w:/d/dir\nFAKE\trow", "w:/no" + e},
		{"cp", "w:/d", dir}, {"cp", "w:/d/" + e, filepath.Join(dir, e, e)}, {"cp", e, "w:/"}, {"cp", e + ":/", "w:/"},
		{"disk", "check", e}, {"disk", "dump", e}, {"disk", "grow", e, "1G"}, {"disk", "import", e, "n"}, {"disk", "export", "w", filepath.Join(dir, e)},
		{"run", "-v", e + ":/x", "--", "true"}, {"run", "--runtime", e, "--", "true"}, {"run", "--image", e, "--", "true"},
		{"logs", e}, {"logs", hostileText}, {"pause", e}, {"resume", e}, {"stop", e}, {"attach", "v", "--holder", e, "--", "true"}, {"attach", "v", "--", e},
		{"serve", "--listen", e, "--dir", filepath.Join(dir, "ns")}, {"serve", "--config", e}, {"serve", "--oidc-issuer", e},
		{"serve", "--log-level", e}, {"serve", "--backend", e},
		{"serve", "key", "create", e, "--dir", filepath.Join(dir, "ns")}, {"serve", "key", "create", "--operator", "--name", e, "--dir", e}, {"serve", "key", "create", "o", "--scope", e},
		{"login", e}, {"login", "http://" + e}, {"logout", e}, {"profile", "add", e, "--home", e}, {"profile", "ls"}, {"profile", "show"}, {"profile", "show", e},
		{"profile", "use", e}, {"profile", "rm", e}, {"key", "ls"}, {"org", "ls"}, {"org", "rm", e}, {"key", "create", "k", "--org", e, "--scope", "read"}, {"audit"}, {"watch"}, {"version"},
		{"bucket", "check", "--dir", filepath.Join(dir, e)}, {"bucket", "export", "--dir", filepath.Join(dir, e)},
		{"bucket", "rebuild", "--dir", filepath.Join(dir, e)}, {"bucket", "sweep", "--dir", filepath.Join(dir, e)},
		{"completion", "bash"}, {"completion", e}, {"help", e}, {"help", "ls"}, {"ls", "--help"}, {"help", "exit-codes"}, {"exit-codes"},
	}
	for _, words := range []string{"inspect ", "fs ls w:/d/", "cp w:/d/", "logs ", "profile use ", "ls --profile ", "rm "} {
		args := strings.Split(words, " ")
		lines = append(lines, append([]string{"__complete"}, args...))
	}
	return lines
}

// hostileImage has the cache of images name one by hostile text.
func hostileImage(t *testing.T, home string) {
	t.Helper()
	digest := "sha256:" + strings.Repeat("0", 64)
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"digest": digest, "size": 1, "annotations": map[string]string{"org.opencontainers.image.ref.name": hostileText}}}})
	if err == nil {
		err = os.MkdirAll(filepath.Join(home, "images"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "images", "index.json"), index, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostileHome has every command show what hostile text a home may hold, on a
// terminal and into a pipe.
func TestHostileHome(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VOLE_HOME", hostileHome(t))
	t.Setenv("VOLE_CONFIG", filepath.Join(dir, "config.json"))
	profiles := map[string]any{"current": "p", "profiles": map[string]any{
		"p": map[string]string{"home": "/" + hostileText}, "q": map[string]string{"url": "http://127.0.0.1:1", "key": "vole_x", "org": hostileText}}}
	text, err := json.Marshal(profiles)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	out := runHostile(t, localLines(filepath.Join(dir, "out")))
	for _, shown := range []string{`"\x1b]0;PWNED\a\u009b31m\u202e`, `"\nFAKE\trow"`, `"\"quoted\""`, `\u001b]0;PWNED\u0007\u009b31m\u202e`} {
		if !strings.Contains(out, shown) {
			t.Errorf("nothing shows %s", shown)
		}
	}
}

// TestHostileLinesAreComplete fails when a command is neither among the command lines
// for a home nor among those for a server.
func TestHostileLinesAreComplete(t *testing.T) {
	lines := append(localLines(""), serverLines("", "")...)
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		for _, c := range cmd.Commands() {
			visit(c, append(slices.Clone(path), c.Name()))
		}
		if !cmd.HasSubCommands() && !slices.ContainsFunc(lines, func(line []string) bool { return len(line) >= len(path) && slices.Equal(line[:len(path)], path) }) {
			t.Errorf("vole %s is not tried", strings.Join(path, " "))
		}
	}
	visit(newRootCmd(newApp(nil, io.Discard, io.Discard)), nil)
}

// TestPipeKeepsValues has the values that break no line come through a pipe unchanged.
func TestPipeKeepsValues(t *testing.T) {
	t.Setenv("VOLE_HOME", hostileHome(t))
	for _, line := range [][]string{{"fs", "ls", "w:/d"}, {"fs", "ls", "-l", "w:/d"}, {"fs", "tree", "w:/"}} {
		var stdout bytes.Buffer
		if code := runCommandLine(line, strings.NewReader(""), &stdout, io.Discard); code != 0 {
			t.Errorf("vole %q: exit code %d", line, code)
		}
		for _, name := range []string{"\x1b[2J", "link\x1b[2J", "\u202egnp.exe", `"tab\there"`} {
			if !strings.Contains(stdout.String(), name+"\n") && !strings.Contains(stdout.String(), name+" ") {
				t.Errorf("vole %q: no %q in\n%q", line, name, stdout.String())
			}
		}
	}
}

// TestScreen writes byte by byte, so that runes come in parts.
func TestScreen(t *testing.T) {
	for text, want := range map[string]string{
		"plain äö ├── 👩\u200d🚒\n": "plain äö ├── 👩\u200d🚒\n",
		"\x1b[31m\x9b\u009b":      `\x1b[31m\x9b\u009b`,
		"\u202ex\u2028\xe2\x80":   `\u202ex\u2028\xe2\x80`,
		"a\tb\rc\U000e0041":       "a\tb" + `\rc\U000e0041`,
	} {
		var out bytes.Buffer
		asJSON := false
		s := &screen{w: &out, terminal: true, json: &asJSON}
		for i := range len(text) {
			if n, err := s.Write([]byte{text[i]}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := s.flushPartialRune(); err != nil || out.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, out.String(), err, want)
		}
	}
	var out bytes.Buffer
	asJSON := true
	enc := json.NewEncoder(&screen{w: &out, json: &asJSON})
	in := hostileText + "\U000e0041"
	if err := enc.Encode(in); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in {
		t.Errorf("%q, %v; want %q", back, err, in)
	}
	checkInert(t, nil, out.String())
}

func FuzzScreen(f *testing.F) {
	f.Add([]byte(hostileName), 3)
	f.Add([]byte("\xf0\x9f\x91\xa9\u200d"), 1)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		at = max(0, min(at, len(text)))
		var out bytes.Buffer
		asJSON := false
		s := &screen{w: &out, terminal: true, json: &asJSON}
		for _, part := range [][]byte{text[:at], text[at:]} {
			if _, err := s.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.flushPartialRune(); err != nil {
			t.Fatal(err)
		}
		if needsEscape(out.String(), func(r rune) bool { return r == '\n' || r == '\t' }) {
			t.Errorf("%q becomes %q", text, out.String())
		}
		if !needsEscape(string(text), func(r rune) bool { return r == '\n' || r == '\t' }) && out.String() != string(text) {
			t.Errorf("%q is changed to %q", text, out.String())
		}
	})
}
