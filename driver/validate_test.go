package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValidateName(t *testing.T) {
	for _, n := range []string{"a", "Z9", "0", "a.b_c-d", "a..b", strings.Repeat("x", 128), "01a20010-a924-74f7-86ec-4994d216df36"} {
		if err := ValidateName(n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range []string{"", ".", "..", "-a", "_a", ".a", "a/b", "../x", "a b", "a:b", "ä", "a\x00", "a\n", strings.Repeat("x", 129), "a\\b"} {
		if err := ValidateName(n); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v; want ErrInvalid", n, err)
		}
	}
}

func TestValidateSpec(t *testing.T) {
	for _, s := range []Spec{
		{Kind: KindDir}, {Kind: KindDir, Quota: 1}, {Kind: KindDisk, Capacity: GiB}, {Kind: KindDir, Quota: math.MaxInt64},
	} {
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for _, s := range []Spec{
		{}, {Kind: "block"}, {Kind: KindDir, Capacity: 1}, {Kind: KindDisk}, {Kind: KindDisk, Capacity: GiB, Quota: GiB},
		{Kind: KindDir, Quota: -1}, {Kind: KindDisk, Capacity: -1}, {Kind: KindDir, Quota: math.MinInt64},
		{Kind: KindDir, Labels: Labels{"": "x"}},
	} {
		if err := s.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v; want ErrInvalid", s, err)
		}
	}
}

func TestValidateLabels(t *testing.T) {
	many := Labels{}
	for i := range MaxLabels {
		many[fmt.Sprint("k", i)] = ""
	}
	for _, l := range []Labels{nil, {"a": ""}, {"a/b.c_d-E": "ü"}, {strings.Repeat("k", 63): strings.Repeat("v", 255)}, many} {
		if err := l.Validate(); err != nil {
			t.Errorf("%v: %v", l, err)
		}
	}
	over := Labels{"one": "more"}
	for k, v := range many {
		over[k] = v
	}
	for _, l := range []Labels{{"": ""}, {"a b": ""}, {"a=b": ""}, {"ä": ""}, {strings.Repeat("k", 64): ""},
		{"a": strings.Repeat("v", 256)}, {"a": "\xff"}, {"a": "x\ny"}, over} {
		if err := l.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v; want ErrInvalid", l, err)
		}
	}
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"": ".", ".": ".", "/": ".", "//": ".", "a": "a", "/a": "a", "a/": "a", "a//b": "a/b", "./a/./b": "a/b", "...": "...", "/etc/passwd": "etc/passwd",
		"\xff": "\xff",
	} {
		if got, err := CleanPath(in); err != nil || got != want {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"..": ErrPathEscape, "a/..": ErrPathEscape, "a/../b": ErrPathEscape, "../a": ErrPathEscape, "/../a": ErrPathEscape,
		"a\x00b": ErrInvalid, strings.Repeat("x", 256): ErrInvalid, strings.Repeat("a/", 2048): ErrInvalid,
	} {
		if got, err := CleanPath(in); !errors.Is(err, want) {
			t.Errorf("CleanPath(%.20q) = %q, %v; want %v", in, got, err, want)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"", "/", "a/../b", "..", "./..", "a/b", "a\x00", "/../../etc", "a/.../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, err := CleanPath(in)
		if err != nil {
			return
		}
		if utf8.ValidString(p) && !fs.ValidPath(p) || strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") || strings.Contains(p, "\x00") {
			t.Fatalf("CleanPath(%q) = %q", in, p)
		}
		if again, err := CleanPath(p); err != nil || again != p {
			t.Fatalf("CleanPath(%q) = %q, again %q, %v", in, p, again, err)
		}
	})
}

func TestSelector(t *testing.T) {
	l := Labels{"team": "ml", "env": "", "tier": "a=b"}
	for s, want := range map[string]bool{
		"": true, " ": true, "team": true, "team=ml": true, "team=x": false, "team!=x": true, "team!=ml": false, "none": false,
		"none!=x": true, "none=": false, "env=": true, "env": true, "team, env": true, "team,none": false, "tier=a=b": true, "tier!=a=b": false,
	} {
		sel, err := ParseSelector(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if sel.Matches(l) != want {
			t.Errorf("%q matches: %v", s, !want)
		}
	}
	for _, s := range []string{",", "=x", "!=x", "a b", "a,", "a=\xff", "ä=1"} {
		if _, err := ParseSelector(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v; want ErrInvalid", s, err)
		}
	}
}

func FuzzSelector(f *testing.F) {
	for _, s := range []string{"a", "a=b", "a!=b", "a=b,c", "a=!=", "a!==", ",,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := ParseSelector(s)
		if err != nil {
			return
		}
		again, err := ParseSelector(sel.String())
		if err != nil || again.String() != sel.String() {
			t.Fatalf("%q is %q, again %q, %v", s, sel, again, err)
		}
	})
}
