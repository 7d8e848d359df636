// Package docs has the documentation in this directory, which the binary carries, and makes
// text for terminals of it. A Topic is one file; 'vole help' shows it. The pages are written for
// GitHub first; the renderer knows the part of Markdown that they use, and a test checks that it
// leaves no marks.
package docs

import (
	"embed"
	"path"
	"strings"
)

//go:embed *.md
var files embed.FS

// Topic is a page of the documentation.
type Topic struct {
	Name   string // as the user asks for it
	Title  string
	Source string // the page, in Markdown
}

// otherNames are the names of topics whose file is named like a command, the help on which
// goes first.
var otherNames = map[string]string{"bucket": "namespaces"}

// Topics returns all topics, ordered by the names of their files.
func Topics() []Topic {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // an embedded directory is always there
	}
	list := make([]Topic, 0, len(entries))
	for _, e := range entries {
		source, err := files.ReadFile(e.Name())
		if err != nil {
			panic(err)
		}
		title, _, _ := strings.Cut(strings.TrimPrefix(string(source), "# "), "\n")
		list = append(list, Topic{topicOfLink(e.Name()), stripMarkup(title), string(source)})
	}
	return list
}

// topicOfLink returns the name of the topic of a file.
func topicOfLink(file string) string {
	name := strings.TrimSuffix(path.Base(file), ".md")
	if other, ok := otherNames[name]; ok {
		return other
	}
	return name
}
