package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWords refuses the names in the last column of the table of words in
// ARCHITECTURE.md, for types, functions and methods: each hid several different things.
func TestWords(t *testing.T) {
	instead := readWords(t)
	if len(instead) < 15 {
		t.Fatalf("ARCHITECTURE.md refuses %d words: is its table read right?", len(instead))
	}
	eachDeclaration(t, func(position token.Position, name string) {
		if word := instead[name]; word != "" {
			t.Errorf("%s: the name %s hides what it stands for; the word is %s (see Words in ARCHITECTURE.md)", position, name, word)
		}
	})
}

// readWords maps each refused name to the word that the table has for it.
func readWords(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n| concept | word | not |\n|---|---|---|\n")
	if !found {
		t.Fatal("ARCHITECTURE.md has no table of words")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	instead := map[string]string{}
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if len(cells) != 3 {
			t.Fatalf("not a row of three cells: %s", row)
		}
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(cells[2], -1) {
			instead[name] = cells[1]
		}
	}
	return instead
}

// eachDeclaration calls visit for each type, function and method of the module, those of
// tests included.
func eachDeclaration(t *testing.T, visit func(position token.Position, name string)) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil || ast.IsGenerated(file) {
			return err
		}
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				visit(files.Position(d.Pos()), d.Name.Name)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, isType := spec.(*ast.TypeSpec); isType {
						visit(files.Position(s.Pos()), s.Name.Name)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
