package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/volehq/vole/sandbox"
)

// The index of a home's images may be of anybody: an image stays one line.
func TestImageNamesStayOneLine(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		var out bytes.Buffer
		a := newApp(nil, nil, nil)
		a.quiet = quiet
		a.stdout = &screen{w: &out, json: &a.json}
		if err := a.printImages([]sandbox.ImageInfo{{Name: "a\nother\tb", Size: 1}}, nil); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "\nother") || !strings.Contains(out.String(), `"a\nother\tb"`) {
			t.Errorf("quiet %v: %q", quiet, out.String())
		}
	}
}
