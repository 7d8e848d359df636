package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// testNames are the top-level tests and fuzz targets of packages, as "import/path TestName".
type testNames map[string]bool

// add adds a test, or the test that a subtest belongs to.
func (n testNames) add(pkg, test string) {
	name, _, _ := strings.Cut(test, "/")
	n[pkg+" "+name] = true
}

// save writes the names to a file, one a line.
func (n testNames) save(file string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(n)) {
		fmt.Fprintln(&text, name)
	}
	return os.WriteFile(file, []byte(text.String()), 0o600)
}

// missingTests returns the tests of the module in the working directory that are neither in ran
// nor named in the file that save wrote.
func missingTests(ran testNames, file string) ([]string, error) {
	earlier, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(earlier)) {
		ran[strings.TrimSpace(line)] = true
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...")
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	declared, err := declaredTests(list)
	if err != nil {
		return nil, err
	}
	for name := range ran {
		delete(declared, name)
	}
	return slices.Sorted(maps.Keys(declared)), nil
}

// testDeclaration finds what go test runs; TestMain has another parameter.
var testDeclaration = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(\w+ \*testing\.[TF]\)`)

// declaredTests reads the tests of the packages that go list -json describes.
func declaredTests(list []byte) (testNames, error) {
	declared := testNames{}
	for packages := json.NewDecoder(bytes.NewReader(list)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			return declared, nil
		} else if err != nil {
			return nil, err
		}
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, err
			}
			for _, match := range testDeclaration.FindAllSubmatch(source, -1) {
				declared.add(p.ImportPath, string(match[1]))
			}
		}
	}
}
