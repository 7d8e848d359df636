package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSkips(t *testing.T) {
	const pass = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
	skip := func(why string) string {
		return `{"Action":"output","Package":"p","Test":"T","Output":"    a_test.go:3: ` + why + `\n"}
{"Action":"skip","Package":"p","Test":"T"}
`
	}
	for _, c := range []struct {
		name, in, want string
		bad            bool
	}{
		{"pass", pass, "ok  \tp\t0.1s\n", false},
		{"excused", skip("gVisor is not installed") + pass, "gVisor is not installed", false},
		{"needs root", skip("needs root") + pass, "needs root  <-- must run here", true},
		{"no reason", skip("") + pass, "must run here", true},
		{"failure", `{"Action":"output","Package":"p","Test":"T","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p"}
` + pass, "boom\n", true},
		{"nothing ran", "make: *** no rule\n", "make: *** no rule", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			bad, _ := filterEvents(strings.NewReader(c.in), &out, testNames{})
			if bad != c.bad || !strings.Contains(out.String(), c.want) {
				t.Errorf("bad = %v, want %v; output %q, want %q in it", bad, c.bad, out.String(), c.want)
			}
		})
	}
}

// TestMissingTests: a test that neither part of the gate ran is named.
func TestMissingTests(t *testing.T) {
	const pkg = "github.com/volehq/vole/internal/testing/skips"
	first, second := testNames{}, testNames{}
	file := filepath.Join(t.TempDir(), "first")
	first.add(pkg, "TestSkips/pass")
	if err := first.save(file); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != pkg+" TestSkips\n" {
		t.Fatalf("saved %q, %v", data, err)
	}
	if missing, err := missingTests(second, file); err != nil || !slices.Equal(missing, []string{pkg + " TestMissingTests"}) {
		t.Errorf("missing %v, %v", missing, err)
	}
	second.add(pkg, "TestMissingTests")
	if missing, err := missingTests(second, file); err != nil || len(missing) > 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
}
