package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server/internal/accounts"
)

// TestDocsOfSDKs runs the examples of docs/sdks.md with the variables that it names, and
// the versions that it names.
func TestDocsOfSDKs(t *testing.T) {
	t.Parallel()
	page := string(readTestFile(t, filepath.Join("..", "docs", "sdks.md")))
	for _, sdk := range []struct{ heading, packages, version, format, want string }{
		{"E2B", "e2b", "`e2b` 2.51.0", "e2b", "accuracy 0.93\n/runs/1.txt 13\n"},
		{"microsandbox", "msb", "`microsandbox` 0.6.18", "", "accuracy 0.93\n/runs/1.txt 13\n"},
	} {
		t.Run(sdk.heading, func(t *testing.T) {
			if sdk.packages == "msb" && (runtime.GOOS != "linux" || runtime.GOARCH != "amd64") {
				t.Skip("the client has no addon for this kernel and processor")
			}
			packages := npmPackages(t, filepath.Join("testdata", sdk.packages))
			name, version, _ := strings.Cut(strings.ReplaceAll(sdk.version, "`", ""), " ")
			manifest := string(readTestFile(t, filepath.Join(packages, "node_modules", name, "package.json")))
			if !strings.Contains(page, sdk.version) || !strings.Contains(manifest, `"version": "`+version+`"`) {
				t.Errorf("the page does not name the version that is tested, which is not %s", sdk.version)
			}
			_, section, _ := strings.Cut(page, "\n## "+sdk.heading+"\n")
			section, _, _ = strings.Cut(section, "\n## ")
			_, example, _ := strings.Cut(section, "\n```js\n")
			example, _, found := strings.Cut(example, "\n```\n")
			if !found {
				t.Fatal("the page has no example")
			}
			dir := t.TempDir()
			if err := os.Symlink(filepath.Join(packages, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
				t.Fatal(err)
			}
			script := filepath.Join(dir, "example.mjs")
			if err := os.WriteFile(script, []byte(example), 0o600); err != nil {
				t.Fatal(err)
			}
			s := startMSBOf(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}})
			_, key, err := s.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "test", Scopes: accounts.Write, Format: sdk.format})
			if err != nil {
				t.Fatal(err)
			}
			node := exec.CommandContext(t.Context(), "node", script)
			node.Env = append(os.Environ(), variables(t, section, s.url, key, dir)...)
			out, err := node.CombinedOutput()
			if err != nil || string(out) != sdk.want {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// variables returns the environment that the table of a section says.
func variables(t *testing.T, section, url, key, home string) []string {
	t.Helper()
	var env []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z0-9_]+)` \\| `?([^`|]*)").FindAllStringSubmatch(section, -1) {
		name, value := row[1], row[2]
		switch {
		case strings.HasSuffix(name, "_URL"):
			value = url
		case strings.HasSuffix(name, "_KEY"):
			value = key
		case strings.HasSuffix(name, "_HOME"):
			value = home
		}
		env = append(env, name+"="+value)
	}
	if len(env) < 3 {
		t.Fatalf("the table has %q", env)
	}
	return env
}
