package transfer

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// The names of all directories that a walk is in are bounded together, and those it has
// left do not count.
func TestHeldNames(t *testing.T) {
	names := slices.Repeat([]string{strings.Repeat("n", 1<<20)}, maxNameBytes>>20)
	var held heldNames
	for range 5 {
		if err := held.acquire(names); err != nil {
			t.Fatal(err)
		}
		held.release(names)
	}
	if err := errors.Join(held.acquire(names), held.acquire(names)); err != nil {
		t.Fatal(err)
	}
	if err := held.acquire(names); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}
