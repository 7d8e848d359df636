package pathwalk_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pathwalk"
)

// inMemory is a tree as a map from paths to kinds; those of links are their targets.
type inMemory struct {
	entries map[string]string // "d", "f", or "->target"
	missing bool              // what does not exist is Missing, not an error
	held    map[string]int    // entries that were returned and not released
	steps   []pathwalk.Step
}

func (m *inMemory) walker() *pathwalk.Walker[string] {
	m.held = map[string]int{}
	return &pathwalk.Walker[string]{
		Lookup: func(dir string, s pathwalk.Step) (string, pathwalk.Kind, error) {
			m.steps = append(m.steps, s)
			p := dir + "/" + s.Name
			what, ok := m.entries[p]
			if !ok && !m.missing {
				return "", 0, driver.ErrNotExist
			}
			m.held[p]++
			switch {
			case !ok:
				return p, pathwalk.Missing, nil
			case what == "d":
				return p, pathwalk.Directory, nil
			case what == "f":
				return p, pathwalk.Other, nil
			}
			return p, pathwalk.Link, nil
		},
		Readlink: func(p string) (string, error) { return strings.TrimPrefix(m.entries[p], "->"), nil },
		Release:  func(p string) { m.held[p]-- },
	}
}

// What a walk returns is held once, and nothing else is.
func TestRelease(t *testing.T) {
	for _, p := range []string{"a/b/c", "a/l/../b/c", "a/b/../../a", "l/b/f", "a/nosuch", "a/b/f/x", "loop", "a/../..", "l/b/f/", "out"} {
		m := &inMemory{entries: map[string]string{
			"/a": "d", "/a/b": "d", "/a/b/c": "d", "/a/b/f": "f", "/a/l": "->b", "/l": "->a/b/../", "/loop": "->loop", "/out": "->/a/b",
		}}
		nodes, err := m.walker().Walk("", p)
		for n, held := range m.held {
			if want := slices.Contains(nodes, n); held != 0 && !want || held != 1 && want {
				t.Errorf("%s: %s is held %d times; returned %v, %v", p, n, held, nodes, err)
			}
		}
	}
}

// What does not exist may be walked on through, but has no parent.
func TestMissing(t *testing.T) {
	m := &inMemory{missing: true, entries: map[string]string{"/d": "d", "/l": "->d/new/", "/up": "->d/new/../x"}}
	nodes, err := m.walker().Walk("", "l/x//y/.")
	if want := []string{"", "/d", "/d/new", "/d/new/x", "/d/new/x/y"}; err != nil || !slices.Equal(nodes, want) {
		t.Errorf("%v, %v; want %v", nodes, err, want)
	}
	if _, err := m.walker().Walk("", "up"); !errors.Is(err, driver.ErrNotExist) {
		t.Errorf("the parent of what does not exist: %v, want ErrNotExist", err)
	}
}

// A step says whether a name ends the path, and whether it comes from a link.
func TestSteps(t *testing.T) {
	m := &inMemory{entries: map[string]string{"/l": "->d/e", "/d": "d", "/d/e": "d", "/d/e/f": "f"}}
	if _, err := m.walker().Walk("", "l/f"); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(m.steps)
	if want := "[{l false false} {d false true} {e false true} {f true false}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m.steps = nil
	if _, err := m.walker().Walk("", "d/e/.//"); err != nil || !m.steps[1].Last {
		t.Errorf("%v, %v", m.steps, err)
	}
}
