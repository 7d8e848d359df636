package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRacedTestsExist fails when a pattern of scripts/raced.txt matches no test: a test that was
// renamed would leave the race detector unnoticed. Groups of the conformance suite count as well.
func TestRacedTestsExist(t *testing.T) {
	dir := root(t)
	table, err := os.ReadFile(filepath.Join(dir, "scripts", "raced.txt"))
	if err != nil {
		t.Fatal(err)
	}
	groups := testNamesIn(t, filepath.Join(dir, "conformance"), regexp.MustCompile(`(?m)^\t\{"(\w+)", \w+\},$`))
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for line := range strings.Lines(string(table)) {
		folder, pattern, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		tests := testNamesIn(t, filepath.Join(dir, folder), declaration)
		for _, alternative := range splitAlternatives(pattern) {
			elements := strings.Split(alternative, "/")
			if !anyMatches(tests, elements[0]) {
				t.Errorf("%s: no test matches %s", folder, elements[0])
			}
			if len(elements) == 1 {
				continue
			}
			last := strings.Trim(strings.TrimSuffix(elements[len(elements)-1], "$"), "()")
			for _, group := range strings.Split(last, "|") {
				if !anyMatches(groups, "^"+group+"$") {
					t.Errorf("%s: the conformance suite has no group %s", folder, group)
				}
			}
		}
	}
}

// splitAlternatives splits a regular expression at the bars outside parentheses, as go test does.
func splitAlternatives(pattern string) []string {
	var parts []string
	depth, from := 0, 0
	for i, c := range pattern {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '|' && depth == 0:
			parts = append(parts, pattern[from:i])
			from = i + 1
		}
	}
	return append(parts, pattern[from:])
}

// testNamesIn returns what the first group of a regular expression matches in a folder's files.
func testNamesIn(t *testing.T, folder string, pattern *regexp.Regexp) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", folder, err)
	}
	var names []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range pattern.FindAllSubmatch(source, -1) {
			names = append(names, string(match[1]))
		}
	}
	return names
}

func anyMatches(names []string, pattern string) bool {
	expression := regexp.MustCompile(pattern)
	for _, name := range names {
		if expression.MatchString(name) {
			return true
		}
	}
	return false
}
