package registry

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Removal takes what is named, and no blob of another image.
func TestRemove(t *testing.T) {
	h := newHost(t)
	c := newCache(t, DefaultMax)
	one, two := randomImage(t, 1000, 1), randomImage(t, 1000, 2)
	for _, tag := range []string{"a/b:1", "a/b:same", "c/d:1"} {
		h.push(tag, one)
		c.ensure(t, h.ref(tag), Missing)
	}
	h.push("a/b:2", two)
	c.ensure(t, h.ref("a/b:2"), Missing)
	remove := func(ref string, want int) {
		t.Helper()
		match, err := Matching(ref)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := c.Remove(t.Context(), match)
		if err != nil || len(gone) != want {
			t.Errorf("removed %s: %v, %v; want %d", ref, gone, err, want)
		}
	}
	if list := c.List(); len(list) != 4 || list[0].Digest == "" || list[0].Size < 1000 || list[0].Used.IsZero() {
		t.Errorf("the list is %v", list)
	}
	remove(h.ref("nosuch:1").String(), 0)
	remove(h.ref("a/b:1").String(), 1)
	if got := c.ensure(t, h.ref("a/b:same"), Never); got != digestOf(t, one) {
		t.Error(got)
	}
	remove(h.ref("a/b@"+digestOf(t, one)).String(), 1) // not that of another repository
	c.ensure(t, h.ref("c/d:1"), Never)
	remove(digestOf(t, one), 1)
	if list := c.files(t); len(list) != 4 {
		t.Errorf("left are %v", list)
	}
	held, err := c.Ensure(t.Context(), h.ref("a/b:2"), Never, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if gone, err := c.Remove(ctx, func(Entry) bool { return true }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while a sandbox starts: %v, %v", gone, err)
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), func(Entry) bool { return true }); err != nil || len(c.files(t)) != 0 {
		t.Errorf("left are %v, %v", c.files(t), err)
	}
}
