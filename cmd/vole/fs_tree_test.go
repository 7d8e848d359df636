package main

import (
	"bytes"
	"strings"
	"testing"
)

// A tree is printed in bounded memory: what counts are the directories around the present
// one, not those that were printed.
func TestTreeIsBounded(t *testing.T) {
	home := t.TempDir()
	vole := func(args ...string) (code int, errs string) {
		var out, stderr bytes.Buffer
		code = runCommandLine(append([]string{"--home", home}, args...), strings.NewReader(""), &out, &stderr)
		return code, stderr.String()
	}
	for _, args := range [][]string{
		{"create", "wide"}, {"fs", "mkdir", "-p", "wide:/a/x", "wide:/b/x", "wide:/c/x"},
		{"create", "deep"}, {"fs", "mkdir", "-p", "deep:/a/b/c/d/e"},
	} {
		if code, errs := vole(args...); code != 0 {
			t.Fatalf("%v: %d, %s", args, code, errs)
		}
	}
	was := maxTree
	t.Cleanup(func() { maxTree = was })
	maxTree = 4 * (entrySize + 1)
	if code, errs := vole("fs", "tree", "wide"); code != 0 {
		t.Errorf("wide: %d, %s", code, errs)
	}
	if code, errs := vole("fs", "tree", "deep"); code == 0 || !strings.Contains(errs, "deep:/a/b/c/d") {
		t.Errorf("deep: %d, %s", code, errs)
	}
}
