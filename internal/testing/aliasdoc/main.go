// Aliasdoc writes the doc comments of the aliases in types.go of the SDK, from those of the
// types in package driver: go doc shows nothing of a type behind an alias. It runs by
// `go generate` in the top directory; a test compares what it would write with what is there.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run("types.go", "driver"); err != nil {
		fmt.Fprintln(os.Stderr, "aliasdoc:", err)
		os.Exit(1)
	}
}

func run(aliases, driver string) error {
	documented, err := documentAliases(aliases, driver)
	if err != nil {
		return err
	}
	return os.WriteFile(aliases, documented, 0o644)
}

// documentAliases returns the file at path with a doc comment, made from the sources in the
// directory driver, for each alias of a type of package driver.
func documentAliases(path, driver string) ([]byte, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	types, err := readTypes(driver)
	if err != nil {
		return nil, err
	}
	aliases := findAliases(file)
	if len(aliases) == 0 {
		return nil, fmt.Errorf("%s has no aliases", path)
	}
	names := map[string]bool{}
	for _, spec := range aliases {
		names[spec.Name.Name] = true
	}
	var out bytes.Buffer
	copied := 0
	for _, spec := range aliases {
		start := files.Position(spec.Pos()).Offset
		if spec.Doc != nil {
			start = files.Position(spec.Doc.Pos()).Offset
		}
		name := spec.Type.(*ast.SelectorExpr).Sel.Name
		described, known := types.byName[name]
		if !known {
			return nil, fmt.Errorf("%s: package driver has no type %s", files.Position(spec.Pos()), name)
		}
		comment, err := types.comment(described, names)
		if err != nil {
			return nil, err
		}
		if copied > 0 {
			out.WriteByte('\n') // between two aliases
		} else {
			out.Write(source[:start])
		}
		out.Write(comment)
		end := files.Position(spec.End()).Offset
		out.Write(source[files.Position(spec.Pos()).Offset:end])
		out.WriteByte('\n')
		copied = end
	}
	out.Write(source[copied:])
	return format.Source(out.Bytes())
}

// findAliases returns the aliases of types of package driver, which are in one declaration.
func findAliases(file *ast.File) []*ast.TypeSpec {
	var aliases []*ast.TypeSpec
	for _, declaration := range file.Decls {
		group, ok := declaration.(*ast.GenDecl)
		if !ok || group.Tok != token.TYPE {
			continue
		}
		for _, spec := range group.Specs {
			s := spec.(*ast.TypeSpec)
			if of, ok := s.Type.(*ast.SelectorExpr); ok && s.Assign.IsValid() && fmt.Sprint(of.X) == "driver" {
				aliases = append(aliases, s)
			}
		}
	}
	return aliases
}

// typeDocs are the documented types of a package.
type typeDocs struct {
	files  *token.FileSet
	syntax []*ast.File
	byName map[string]*doc.Type
	hidden []*ast.CommentGroup // of fields that other packages do not see
}

func readTypes(dir string) (*typeDocs, error) {
	t := &typeDocs{files: token.NewFileSet(), byName: map[string]*doc.Type{}}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(t.files, path, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		t.syntax = append(t.syntax, file)
	}
	for _, file := range t.syntax {
		ast.Inspect(file, func(node ast.Node) bool {
			if field, ok := node.(*ast.Field); ok && len(field.Names) > 0 && !field.Names[0].IsExported() {
				t.hidden = append(t.hidden, field.Doc, field.Comment)
			}
			return true
		})
	}
	// The documented declarations are copies without the fields that other packages do not see.
	documented, err := doc.NewFromFiles(t.files, t.syntax, "driver", doc.PreserveAST)
	if err != nil {
		return nil, err
	}
	for _, described := range documented.Types {
		t.byName[described.Name] = described
	}
	return t, nil
}

// comment returns the doc comment of a type: its own, its declaration if it is a struct, and
// the heads of its constants, functions and methods.
func (t *typeDocs) comment(described *doc.Type, aliases map[string]bool) ([]byte, error) {
	text := strings.TrimSpace(described.Doc)
	var code bytes.Buffer
	if _, isStruct := described.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType); isStruct {
		declaration := *described.Decl
		declaration.Doc = nil
		if err := t.print(&code, &declaration); err != nil {
			return nil, err
		}
	}
	for _, constants := range described.Consts {
		if err := t.print(&code, constants.Decl); err != nil {
			return nil, err
		}
	}
	for _, method := range described.Methods {
		head := *method.Decl
		head.Body, head.Doc = nil, nil
		if err := t.print(&code, &head); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	for _, line := range strings.Split(qualifyLinks(text, aliases), "\n") {
		fmt.Fprintln(&out, strings.TrimRight("// "+line, " "))
	}
	if code.Len() > 0 {
		fmt.Fprintln(&out, "//")
	}
	for _, line := range strings.Split(strings.TrimRight(code.String(), "\n"), "\n") {
		if code.Len() > 0 {
			fmt.Fprintln(&out, strings.TrimRight("//\t"+line, "\t "))
		}
	}
	return out.Bytes(), nil
}

// print prints a declaration with the comments within it, and an empty line before it.
func (t *typeDocs) print(w *bytes.Buffer, declaration ast.Decl) error {
	if w.Len() > 0 {
		w.WriteByte('\n')
	}
	var comments []*ast.CommentGroup
	for _, file := range t.syntax {
		for _, group := range file.Comments {
			inside := declaration.Pos() <= group.Pos() && group.End() <= declaration.End()
			if (inside || trails(t.files, declaration, group)) && !slices.Contains(t.hidden, group) {
				comments = append(comments, group)
			}
		}
	}
	node := &printer.CommentedNode{Node: declaration, Comments: comments}
	if err := (&printer.Config{Mode: printer.TabIndent | printer.UseSpaces, Tabwidth: 4}).Fprint(w, t.files, node); err != nil {
		return err
	}
	w.WriteByte('\n')
	return nil
}

// trails reports whether a comment ends the last line of a declaration.
func trails(files *token.FileSet, declaration ast.Decl, group *ast.CommentGroup) bool {
	end, at := files.Position(declaration.End()), files.Position(group.Pos())
	return end.Filename == at.Filename && end.Line == at.Line && at.Offset >= end.Offset
}

var link = regexp.MustCompile(`\[(\*?)([A-Z]\w*)((?:\.\w+)?)\]`)

// qualifyLinks makes doc links to names of package driver that have no alias lead there.
func qualifyLinks(text string, aliases map[string]bool) string {
	return link.ReplaceAllStringFunc(text, func(match string) string {
		part := link.FindStringSubmatch(match)
		if aliases[part[2]] {
			return match
		}
		return "[" + part[1] + "driver." + part[2] + part[3] + "]"
	})
}
