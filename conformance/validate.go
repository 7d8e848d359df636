package conformance

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var validateTests = []test{
	{"Names", testValidateNames},
	{"GoodNames", testGoodNames},
	{"Specs", testValidateSpecs},
	{"Updates", testValidateUpdates},
	{"Labels", testValidateLabels},
	{"Holders", testValidateHolders},
	{"Paths", testValidatePaths},
	{"PathForms", testPathForms},
	{"OddNames", testOddFileNames},
	{"Modes", testValidateModes},
	{"Arguments", testValidateArguments},
}

// saysHow fails t unless err's message has hint, which tells the reader what to do.
func saysHow(t *testing.T, what string, err error, hint string) {
	t.Helper()
	if err != nil && !strings.Contains(err.Error(), hint) {
		t.Errorf("%s: error %q does not say %q", what, err, hint)
	}
}

var badNames = []string{
	"", ".", "..", ".a", "-a", "_a", "a/b", "/a", "a b", " a", "a ", "a:b", "a\x00b", "a\n", "ä", "aä", "a\\b", "a*", "~", "a@b", "\xff",
	strings.Repeat("a", 129), strings.Repeat("a", 1<<16),
}

func testValidateNames(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.create(t, "v")
	const hint = "letters, digits"
	for _, name := range badNames {
		calls := map[string]func() error{
			"create": func() error { _, err := e.store.Create(ctx, name, e.h.Spec); return err },
			"get":    func() error { _, err := e.store.Get(ctx, name); return err },
			"remove": func() error { return e.store.Remove(ctx, name) },
			"rename": func() error { _, err := e.store.Rename(ctx, "v", name); return err },
		}
		if name != "" { // no new name is asked for
			calls["update"] = func() error { return v.Update(ctx, vole.Update{Name: name}) }
		}
		for op, call := range calls {
			err := call()
			what := fmt.Sprintf("%s %.20q", op, name)
			volume := name
			if op == "rename" || op == "update" {
				volume = "v"
			}
			wantErrOf(t, what, err, vole.ErrInvalid, op, volume)
			saysHow(t, what, err, hint)
		}
		_, _, err := e.store.Ensure(ctx, name, e.h.Spec)
		wantErr(t, fmt.Sprintf("ensure %.20q", name), err, vole.ErrInvalid)
		_, err = e.store.Rename(ctx, name, "w")
		wantErr(t, fmt.Sprintf("rename from %.20q", name), err, vole.ErrInvalid)
	}
	all, err := list(ctx, e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", strings.Join(names(all), " "), "v")
}

func testGoodNames(t *testing.T, e *env) {
	good := []string{"a", "Z", "0", "a.b_c-d", "a..b", "a-", "CON", "null", "lost+found"[:4], strings.Repeat("x", 128)}
	for _, name := range good {
		v := e.createSpec(t, name, e.cheapest())
		equal(t, "id", must1(t, e, name).ID(), v.ID())
		must(t, "remove", e.store.Remove(t.Context(), name))
	}
}

func testValidateSpecs(t *testing.T, e *env) {
	cases := []struct {
		what, hint string
		spec       vole.Spec
	}{
		{"unknown kind", `"dir" or "disk"`, vole.Spec{Kind: "tape"}},
		{"dir with a capacity", "quota", vole.Spec{Capacity: vole.GiB}},
		{"dir with a negative capacity", "quota", vole.Spec{Capacity: -1}},
		{"negative quota", "at least 1", vole.Spec{Quota: -1}},
		{"quota of the least integer", "at least 1", vole.Spec{Quota: math.MinInt64}},
		{"disk without a capacity", "capacity", vole.Spec{Kind: vole.KindDisk}},
		{"disk with a quota", "capacity", vole.Spec{Kind: vole.KindDisk, Quota: vole.GiB, Capacity: vole.GiB}},
		{"negative capacity", "positive", vole.Spec{Kind: vole.KindDisk, Capacity: -vole.GiB}},
	}
	for _, c := range cases {
		_, err := e.store.Create(t.Context(), "v", c.spec)
		wantErrOf(t, c.what, err, vole.ErrInvalid, "create", "v")
		saysHow(t, c.what, err, c.hint)
		_, _, err = e.store.Ensure(t.Context(), "v", c.spec)
		wantErr(t, "ensure "+c.what, err, vole.ErrInvalid)
	}
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", len(all), 0)
	if e.caps.Quota && e.caps.Dir { // the largest that can be said is no reason to overflow
		v := e.createSpec(t, "huge", vole.Spec{Quota: math.MaxInt64})
		f := e.openFiles(t, v, vole.FSOptions{})
		f.write("f", "data")
		f.used("under the largest quota", 4)
	}
}

func testValidateUpdates(t *testing.T, e *env) {
	v := e.create(t, "v")
	before := v.Info()
	cases := []struct {
		what, hint string
		update     vole.Update
	}{
		{"negative quota", "at least 1", vole.Update{Quota: -1}},
		{"negative capacity", "positive", vole.Update{Capacity: -1}},
		{"set and clear", "not both", vole.Update{Quota: 1, ClearQuota: true}},
		{"label set and removed", "both", vole.Update{SetLabels: vole.Labels{"a": "b"}, RemoveLabels: []string{"a"}}},
		{"bad key set", "a key is", vole.Update{SetLabels: vole.Labels{"": "b"}}},
		{"bad key removed", "a key is", vole.Update{RemoveLabels: []string{"a b"}}},
	}
	for _, c := range cases {
		err := v.Update(t.Context(), c.update)
		wantErrOf(t, c.what, err, vole.ErrInvalid, "update", "v")
		saysHow(t, c.what, err, c.hint)
	}
	if d := sameInfo(before, must1(t, e, "v").Info()); d != "" {
		t.Errorf("refused updates changed %s", d)
	}
}

func testValidateLabels(t *testing.T, e *env) {
	many := vole.Labels{}
	for i := range 65 {
		many[fmt.Sprint("k", i)] = ""
	}
	cases := []struct {
		what, hint string
		labels     vole.Labels
	}{
		{"empty key", "a key is 1 to 63", vole.Labels{"": "v"}},
		{"long key", "a key is 1 to 63", vole.Labels{strings.Repeat("k", 64): "v"}},
		{"space in a key", "a key is 1 to 63", vole.Labels{"a b": "v"}},
		{"= in a key", "a key is 1 to 63", vole.Labels{"a=b": "v"}},
		{"umlaut in a key", "a key is 1 to 63", vole.Labels{"ä": "v"}},
		{"long value", "at most 255", vole.Labels{"k": strings.Repeat("v", 256)}},
		{"value that is no UTF-8", "UTF-8", vole.Labels{"k": "\xff"}},
		{"NUL in a value", "control", vole.Labels{"k": "a\x00b"}},
		{"line break in a value", "control", vole.Labels{"k": "a\nb"}},
		{"65 labels", "at most 64", many},
	}
	v := e.create(t, "v")
	for _, c := range cases {
		_, err := e.store.Create(t.Context(), "w", vole.Spec{Labels: c.labels})
		wantErr(t, "create with "+c.what, err, vole.ErrInvalid)
		saysHow(t, c.what, err, c.hint)
		err = v.Update(t.Context(), vole.Update{SetLabels: c.labels})
		wantErr(t, "update with "+c.what, err, vole.ErrInvalid)
		saysHow(t, c.what, err, c.hint)
	}
	equal(t, "labels", len(must1(t, e, "v").Info().Labels), 0)
	for _, s := range []string{"=v", "!=v", ",", "a,,b", "a b", "ä=1", "a=\xff", "a=" + strings.Repeat("v", 256)} {
		_, err := vole.ParseSelector(s)
		if !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("selector %q: %v, want ErrInvalid", s, err)
		}
	}
}

func testValidateHolders(t *testing.T, e *env) {
	v := e.create(t, "v")
	for _, h := range []string{strings.Repeat("h", 129), "a\nb", "a\x00", "\xff", "\x1b[31m", "a\u202eb"} {
		_, err := v.Attach(t.Context(), vole.AttachOptions{Holder: h})
		wantErrOf(t, fmt.Sprintf("holder %.20q", h), err, vole.ErrInvalid, "attach", "v")
		saysHow(t, "holder", err, "holder")
	}
	for _, h := range []string{strings.Repeat("h", 256), "a\nb", "\xff", "\x1b[31m"} {
		_, err := v.Attach(t.Context(), vole.AttachOptions{Holder: "me", Host: h})
		wantErrOf(t, fmt.Sprintf("host %.20q", h), err, vole.ErrInvalid, "attach", "v")
	}
	list, err := v.Attachments(t.Context())
	must(t, "attachments", err)
	equal(t, "attachments", len(list), 0)
	for _, h := range []string{"h", strings.Repeat("h", 128), "Überträger 7 / (x)", "%s'; --"} {
		a := attach(t, v, vole.AttachOptions{Holder: h})
		equal(t, "holder", a.Info().Holder, h)
		detach(t, a)
	}
}
