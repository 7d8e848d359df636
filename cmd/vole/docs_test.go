package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/docs"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/sandbox"
	"github.com/volehq/vole/transfer"
)

// Every key that the CLI prints is in the documentation, which promises to be complete.
func TestJSONIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli-json.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		volumeJSON{}, vole.AttachmentInfo{}, usageJSON{}, entryJSON{}, transferJSON{}, transfer.Stats{}, nameJSON{},
		vole.Finding{}, sandbox.Info{}, sandbox.MountInfo{}, sandbox.ImageInfo{}, versionJSON{}, errorJSON{},
		profileJSON{}, serverJSON{}, api.Key{}, newKeyJSON{}, api.AuditPage{}, api.AuditRecord{}, api.Event{},
		imageJSON{}, problemJSON{}, sizeJSON{}, bucket.ExportResult{}, rebuildJSON{}, sweptJSON{}, firstKeyJSON{},
	} {
		for _, key := range jsonKeys(reflect.TypeOf(v)) {
			if !strings.Contains(string(doc), "`"+key+"`") {
				t.Errorf("docs/cli-json.md does not have %q of %T", key, v)
			}
		}
	}
}

func jsonKeys(typ reflect.Type) (keys []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			keys = append(keys, jsonKeys(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("%v.%s has no name in JSON", typ, f.Name))
		}
		keys = append(keys, name)
	}
	return keys
}

// pageFile is the file of a page, which who has only the binary does not have.
var pageFile = regexp.MustCompile(`\bdocs/|\w\.md\b`)

// topicNamed is how texts name a topic of the help.
var topicNamed = regexp.MustCompile(`vole help ([a-z-]+)`)

// Texts of the help and messages point to topics that there are, and not to files.
func TestTextsPointToTopics(t *testing.T) {
	root := newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard))
	topics := []string{topicsTopic}
	for _, topic := range docs.Topics() {
		topics = append(topics, topic.Name)
		if at, _, err := root.Find([]string{topic.Name}); err != nil || at != root {
			t.Errorf("topic %s is hidden by the command", topic.Name)
		}
	}
	for _, c := range root.Commands() {
		topics = append(topics, c.Name())
	}
	check := func(where, text string) {
		if s := pageFile.FindString(text); s != "" {
			t.Errorf("%s has %q; write 'vole help TOPIC'", where, s)
		}
		for _, m := range topicNamed.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(topics, m[1]) {
				t.Errorf("%s: there is no topic %q", where, m[1])
			}
		}
	}
	for _, topic := range docs.Topics() {
		for _, m := range topicNamed.FindAllStringSubmatch(topic.Render(1000), -1) {
			if !slices.Contains(topics, m[1]) {
				t.Errorf("page %s: there is no topic %q", topic.Name, m[1])
			}
		}
	}
	for _, dir := range []string{".", "../../sandbox", "../../transfer", "../../server", "../../drivers/local", "../../drivers/cloud", "../../drivers/bucket"} {
		forEachString(t, dir, check)
	}
}

// forEachString calls fn with every text in the Go files of a directory that are no tests.
func forEachString(t *testing.T, dir string, fn func(where, text string)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(names), err)
	}
	files := token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				fn(files.Position(lit.Pos()).String(), lit.Value)
			}
			return true
		})
	}
}

// Every exit code is in the documentation and in the topic of the help.
func TestExitCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	help := newExitCodesCmd().Long
	for code := driver.ExitOK; code <= driver.ExitUnavailable; code++ {
		if !strings.Contains(string(doc), fmt.Sprintf("\n| %d | ", code)) {
			t.Errorf("docs/cli.md does not have exit code %d", code)
		}
		if !strings.Contains(help, fmt.Sprintf("\n%5d  ", code)) {
			t.Errorf("vole help exit-codes does not have %d", code)
		}
	}
}
