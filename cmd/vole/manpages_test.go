package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole/internal/manpages"
)

// writeManpages returns the pages by name.
func writeManpages(t *testing.T) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "man1")
	root := newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard))
	if err := manpages.Write(root, dir, "v1", time.Unix(1_000_000_000, 0).UTC()); err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		pages[entry.Name()] = string(text)
	}
	return pages
}

// TestManpages: each command has a page that has all of its flags, its examples and the
// words of its help, and the pages depend on neither the day nor the environment.
func TestManpages(t *testing.T) {
	pages := writeManpages(t)
	t.Setenv("VOLE_HOME", t.TempDir())
	t.Setenv("VOLE_SERVE_LISTEN", "127.0.0.1:1")
	again := writeManpages(t)
	for name, text := range pages {
		if again[name] != text {
			t.Errorf("%s differs when it is made again", name)
		}
	}
	plain := strings.NewReplacer(`\-`, "-", `\&`, "", `\\`, `\`, "\n", " ")
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
				visit(sub)
			}
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		page := plain.Replace(pages[name])
		if page == "" {
			t.Errorf("no page %s", name)
			return
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(page, "--"+f.Name) {
				t.Errorf("%s lacks --%s", name, f.Name)
			}
		})
		for _, text := range []string{cmd.Short, cmd.Long, cmd.Example} {
			for word := range strings.FieldsSeq(text) {
				if !strings.Contains(page, word) {
					t.Errorf("%s lacks %q of the help", name, word)
				}
			}
		}
	}
	visit(newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard)))
}
