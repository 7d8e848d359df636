package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var labelTests = []test{
	{"Selectors", testSelectors},
	{"SelectorPages", testSelectorPages},
	{"HostileValues", testHostileLabels},
	{"NotShared", testLabelsNotShared},
	{"Extremes", testLabelExtremes},
}

func selector(t *testing.T, s string) vole.Selector {
	t.Helper()
	sel, err := vole.ParseSelector(s)
	must(t, "selector "+s, err)
	return sel
}

func (e *env) labelled(t *testing.T, name string, l vole.Labels) {
	t.Helper()
	spec := e.cheapest()
	spec.Labels = l
	e.createSpec(t, name, spec)
}

func testSelectors(t *testing.T, e *env) {
	e.labelled(t, "none", nil)
	e.labelled(t, "ml", vole.Labels{"team": "ml"})
	e.labelled(t, "ops", vole.Labels{"team": "ops", "env": "prod"})
	e.labelled(t, "empty", vole.Labels{"team": ""})
	e.labelled(t, "mlprod", vole.Labels{"team": "ml", "env": "prod"})
	cases := []struct{ sel, want string }{
		{"", "mlprod empty ops ml none"},
		{"team", "mlprod empty ops ml"},
		{"team=ml", "mlprod ml"},
		{"team=", "empty"},
		{"team!=ml", "empty ops none"},
		{"team,team!=ml", "empty ops"},
		{"team=ml,env=prod", "mlprod"},
		{"env=prod", "mlprod ops"},
		{"env!=prod", "empty ml none"},
		{"team=ml,team=ops", ""},
		{"TEAM=ml", ""},
		{"team=ML", ""},
		{"team=m", ""},
		{"tea", ""},
		{"team=ml,env!=prod", "ml"},
		{"nosuch!=x", "mlprod empty ops ml none"},
		{" team = ml", "bad"},
	}
	for _, c := range cases {
		if c.want == "bad" {
			_, err := vole.ParseSelector(c.sel)
			if err == nil {
				t.Errorf("selector %q was parsed", c.sel)
			}
			continue
		}
		all, err := list(t.Context(), e.store, vole.Filter{Selector: selector(t, c.sel)})
		must(t, "list "+c.sel, err)
		equal(t, fmt.Sprintf("selector %q", c.sel), strings.Join(names(all), " "), c.want)
	}
}

// A selector that few volumes match is still paged through to the end.
func testSelectorPages(t *testing.T, e *env) {
	var want []string
	for i := range 24 {
		l := vole.Labels{"all": "yes"}
		if i%5 == 0 {
			l["some"] = "yes"
			want = append([]string{fmt.Sprint("v", i)}, want...)
		}
		e.labelled(t, fmt.Sprint("v", i), l)
	}
	for _, limit := range []int{1, 2, 4, 100} {
		filter := vole.Filter{Selector: selector(t, "all=yes,some"), Limit: limit}
		got, err := pages(t.Context(), e.store, filter)
		must(t, "list", err)
		if !slices.Equal(slices.Concat(got...), want) {
			t.Errorf("limit %d: %v, want %v", limit, got, want)
		}
	}
	all, err := list(t.Context(), e.store, vole.Filter{Selector: selector(t, "some"), Limit: 3})
	must(t, "volumes", err)
	if !slices.Equal(names(all), want[:3]) {
		t.Errorf("volumes %v, want %v", names(all), want[:3])
	}
}

// Values that mean something to SQL, JSON, globs and shells are only values.
func testHostileLabels(t *testing.T, e *env) {
	values := []string{"%", "_", "*", `'; DROP TABLE volumes; --`, `"`, `\`, "a=b", "a!=b", "$1", "?", "ü", "\u202e", " ", `{"a":1}`}
	for i, v := range values {
		e.labelled(t, fmt.Sprint("v", i), vole.Labels{"k": v, "a.b/c_d-E": v})
	}
	for i, v := range values {
		info := must1(t, e, fmt.Sprint("v", i)).Info()
		equal(t, "value", info.Labels["k"], v)
		if strings.TrimSpace(v) != v {
			continue // a selector's term is trimmed
		}
		all, err := list(t.Context(), e.store, vole.Filter{Selector: selector(t, "a.b/c_d-E="+v)})
		must(t, "list", err)
		equal(t, fmt.Sprintf("volumes with %q", v), strings.Join(names(all), " "), fmt.Sprint("v", i))
		all, err = list(t.Context(), e.store, vole.Filter{Selector: selector(t, "k!="+v)})
		must(t, "list", err)
		equal(t, fmt.Sprintf("volumes without %q", v), len(all), len(values)-1)
	}
}

// Neither the labels given nor those returned are shared with the backend.
func testLabelsNotShared(t *testing.T, e *env) {
	spec := e.h.Spec
	spec.Labels = vole.Labels{"k": "v"}
	v := e.createSpec(t, "v", spec)
	spec.Labels["k"] = "changed"
	got := must1(t, e, "v").Info().Labels
	equal(t, "label", got["k"], "v")
	got["k"] = "changed"
	equal(t, "label", must1(t, e, "v").Info().Labels["k"], "v")
	all, err := list(t.Context(), e.store, vole.Filter{Selector: selector(t, "k=v")})
	must(t, "list", err)
	equal(t, "volumes", len(all), 1)
	info, err := v.Refresh(t.Context())
	must(t, "refresh", err)
	equal(t, "label", info.Labels["k"], "v")
}

func testLabelExtremes(t *testing.T, e *env) {
	l := vole.Labels{
		strings.Repeat("k", 63): strings.Repeat("v", 255),
		"0":                     strings.Repeat("ü", 127),
		"/":                     "",
	}
	for i := len(l); i < 64; i++ {
		l[fmt.Sprint("key", i)] = fmt.Sprint(i)
	}
	e.labelled(t, "v", l)
	if got := must1(t, e, "v").Info().Labels; !maps.Equal(got, l) {
		t.Errorf("64 labels came back as %v", got)
	}
}
