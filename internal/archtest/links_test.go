package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pageLink matches the target of a link in Markdown, without what follows #.
var pageLink = regexp.MustCompile(`\]\(([^)#\s]+)`)

// TestLinksOfPages: what a page of the documentation links to within the project exists.
func TestLinksOfPages(t *testing.T) {
	links := 0
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		pages, err := filepath.Glob(filepath.Join(root(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range pageLink.FindAllStringSubmatch(string(text), -1) {
				if strings.Contains(m[1], ":") { // of the web
					continue
				}
				links++
				if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
					t.Errorf("%s links to %s, which does not exist", filepath.Base(page), m[1])
				}
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links were found: are they read right?", links)
	}
}
