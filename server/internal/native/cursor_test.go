package native

import (
	"errors"
	"testing"

	"github.com/volehq/vole"
)

// FuzzCursor: what is no cursor is refused as invalid, and what is one is the same when
// it is written again.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", "s", "s.", "u.token", "sZmlsZQ.", "sZmlsZQ.a.b", "s=.x", "x.y", "s\x00.", "s_-8.t", "sZh.t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCursor(s)
		if err != nil {
			if !errors.Is(err, vole.ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := parseCursor(c.String())
		if err != nil || again != c {
			t.Fatalf("%q is %+v, and that %q, and that %+v: %v", s, c, c.String(), again, err)
		}
	})
}
