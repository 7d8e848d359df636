package main

import (
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
			bad, _ := run(strings.NewReader(c.in), &out)
			if bad != c.bad || !strings.Contains(out.String(), c.want) {
				t.Errorf("bad = %v, want %v; output %q, want %q in it", bad, c.bad, out.String(), c.want)
			}
		})
	}
}
