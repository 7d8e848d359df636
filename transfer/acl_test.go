package transfer

import (
	"errors"
	"testing"
	"time"
)

// testNames knows one user and one group.
func testNames(group bool, name string) (string, error) {
	if id := map[bool]map[string]string{false: {"bob": "1000"}, true: {"wheel": "5"}}[group][name]; id != "" {
		return id, nil
	}
	return "", errors.New("unknown")
}

func TestACLText(t *testing.T) {
	const list = "user::rwx,user:1000:r--,group::r-x,group:5:-w-,mask::rwx,other::--x"
	for _, text := range []string{
		list,
		"user::rwx\nuser:alice:r--:1000\ngroup::r-x\ngroup:staff:-w-:5\nmask::rwx\nother::--x\n",
		"user::rwx,user:bob:r--,group::r-x,group:wheel:-w-,mask::rwx,other::--x",
		"u::rwx,g::r-x,m:rwx,o:--x,u:1000:r--,g:5:-w-",
	} {
		b, err := parseACL(text, testNames)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := formatACL(b); got != list {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{"user:alice:r--", "user", "nobody::r--", "user::rwxr", "user::q--", "mask:5:rwx", "user:4294967295:r--", "a:b:c:d:e"} {
		if _, err := parseACL(text, testNames); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// FuzzACLText reads any text, and what it accepts as it writes it.
func FuzzACLText(f *testing.F) {
	f.Add("user::rw-,user:alice:r--:1000,group::r--,mask::r--,other::---")
	f.Add("u::rwx\nm:x")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := parseACL(text, testNames)
		if err != nil {
			return
		}
		again, err := parseACL(formatACL(b), testNames)
		if err != nil || string(again) != string(b) {
			t.Errorf("%q became %q: %v", text, formatACL(b), err)
		}
	})
}

// FuzzPAXTime reads any text, and every time as it writes it.
func FuzzPAXTime(f *testing.F) {
	f.Add("-1.500000000", int64(-1), int64(5))
	f.Add("12345678901.123456789123", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, text string, sec, ns int64) {
		_, _ = parsePAXTime(text)
		at := time.Unix(sec>>8, max(ns, -ns, 0)%1e9)
		if got, err := parsePAXTime(formatPAXTime(at)); err != nil || !got.Equal(at) {
			t.Errorf("%d.%09d became %q and %v, %v", at.Unix(), at.Nanosecond(), formatPAXTime(at), got, err)
		}
	})
}
