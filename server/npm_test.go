package server

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// npmPackages installs what the package-lock.json in dir pins, once for each lock, and
// returns the folder that has node_modules. It is outside the tree and stays, so that
// only the first run needs the registry.
func npmPackages(t *testing.T, dir string) string {
	t.Helper()
	for _, cmd := range []string{"node", "npm"} {
		if _, err := exec.LookPath(cmd); err != nil {
			t.Skip("needs node and npm")
		}
	}
	lock := readTestFile(t, filepath.Join(dir, "package-lock.json"))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // there is no home
	}
	sum := sha256.Sum256(lock)
	have := filepath.Join(cache, "vole-npm", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(have); err == nil {
		return have
	}
	if err := os.MkdirAll(filepath.Dir(have), 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(have), "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	for _, name := range []string{"package.json", "package-lock.json"} {
		if err := os.WriteFile(filepath.Join(tmp, name), readTestFile(t, filepath.Join(dir, name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing of what is installed runs here; the client's own code runs in the test.
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = tmp
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(tmp, have); err != nil {
		if _, serr := os.Stat(have); serr != nil { // else another test was quicker
			t.Fatal(err)
		}
	}
	return have
}

func readTestFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
