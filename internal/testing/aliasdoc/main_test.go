package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTypesAreDocumented: go doc of the SDK shows the types that callers fill in as package
// driver documents them.
func TestTypesAreDocumented(t *testing.T) {
	top := filepath.Join("..", "..", "..")
	path := filepath.Join(top, "types.go")
	want, err := documentAliases(path, filepath.Join(top, "driver"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the comments of types.go are not those of package driver; run go generate in the top directory")
	}
}

func TestDocumentAliases(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("driver/driver.go", `package driver

// Spec is a wish. See [Info] and [Caps].
type Spec struct {
	// Size is in bytes.
	Size int64
	hidden int // not shown
	Name string // the name
}

// Info is an answer.
type Info struct{}

// Text is the answer in words.
func (i Info) Text() string { return "" }

// Caps is not aliased.
type Caps struct{}
`)
	path := write("types.go", `package vole

import "example.com/driver"

// Aliases.
type (
	// an old comment
	Spec = driver.Spec
	Info = driver.Info
)

const X = 1
`)
	out, err := documentAliases(path, filepath.Join(dir, "driver"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"// Spec is a wish. See [Info] and [driver.Caps].", "//\t\t// Size is in bytes.", "the name", "Info = driver.Info",
		"//\tfunc (i Info) Text() string", "const X = 1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	for _, bad := range []string{"hidden", "not shown", "old comment"} {
		if strings.Contains(string(out), bad) {
			t.Errorf("%q is in:\n%s", bad, out)
		}
	}
	if err := os.WriteFile(path, out, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := documentAliases(path, filepath.Join(dir, "driver"))
	if err != nil || !bytes.Equal(again, out) {
		t.Errorf("a second run changes the file: %v\n%s", err, again)
	}
}
