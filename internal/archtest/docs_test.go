package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamedTestsExist fails when SECURITY.md or docs/promises.md names a test, a fuzz
// target or a group of the conformance suite that does not exist. A promise held by a
// test that was renamed or removed is held by nothing.
func TestNamedTestsExist(t *testing.T) {
	dir := root(t)
	declared, groups := map[string]bool{}, map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	group := regexp.MustCompile(`(?m)^\t\{"(\w+)", \w+\},$`)
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declaration.FindAllSubmatch(source, -1) {
			declared[string(match[1])] = true
		}
		if strings.Contains(path, "conformance") {
			for _, match := range group.FindAllSubmatch(source, -1) {
				groups[string(match[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	named := regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w*)(\*?)`)
	namedGroup := regexp.MustCompile(`\bConformance/([A-Z]\w*)`)
	for _, doc := range []string{"SECURITY.md", "docs/promises.md"} {
		text, err := os.ReadFile(filepath.Join(dir, doc))
		if err != nil {
			t.Fatal(err)
		}
		names := named.FindAllSubmatch(text, -1)
		if len(names) < 20 {
			t.Errorf("%s names %d tests: is it read right?", doc, len(names))
		}
		for _, match := range names {
			name, isPrefix := string(match[1]), len(match[2]) > 0
			if !declared[name] && !(isPrefix && anyHasPrefix(declared, name)) {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
		for _, match := range namedGroup.FindAllSubmatch(text, -1) {
			if !groups[string(match[1])] {
				t.Errorf("%s names Conformance/%s, which is no group of the suite", doc, match[1])
			}
		}
	}
}

func anyHasPrefix(names map[string]bool, prefix string) bool {
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
