package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// Several files at once make the same tree as one after the other, and one error ends all.
func TestParallel(t *testing.T) {
	s := openHome(t)
	from := newFS(t, s, "from", vole.Spec{})
	fillTree(t, from)
	for i := range 700 {
		must(t, from.WriteFile(t.Context(), fmt.Sprintf("many/%d/%d", i%3, i), []byte(fmt.Sprint(i)), 0o640))
	}
	must(t, from.Link(t.Context(), "many/0/0", "many/2/second-name"))
	want := describe(t, from, ".", owns)
	host := t.TempDir()
	h, err := transfer.OpenHost(host)
	must(t, err)
	defer h.Close()
	var first transfer.Stats
	for _, n := range []int{0, 8} {
		bar := &counter{}
		opts := transfer.Options{Owner: owns, Root: true, Parallel: n, Progress: bar}
		to := newFS(t, s, fmt.Sprintf("to-%d", n), vole.Spec{})
		stats, err := transfer.Copy(t.Context(), transfer.Volume(to), ".", transfer.Volume(from), ".", opts)
		must(t, err)
		same(t, fmt.Sprintf("%d at once", n), describe(t, to, ".", owns), want)
		if n == 0 {
			first = stats
		} else if stats != first {
			t.Errorf("%d at once: %+v, one at a time: %+v", n, stats, first)
		}
		place := fmt.Sprintf("to-%d", n)
		_, err = transfer.Copy(t.Context(), h, place, transfer.Volume(from), ".", opts)
		must(t, err)
		back := newFS(t, s, fmt.Sprintf("back-%d", n), vole.Spec{})
		_, err = transfer.Copy(t.Context(), transfer.Volume(back), ".", h, place, opts)
		must(t, err)
		same(t, fmt.Sprintf("%d at once, by the host", n), describe(t, back, ".", owns), want)
	}
	// What stands in the way of one file.
	to := newFS(t, s, "blocked", vole.Spec{})
	must(t, to.MkdirAll(t.Context(), "many/1/100/d", 0o755))
	_, err = transfer.Copy(t.Context(), transfer.Volume(to), ".", transfer.Volume(from), ".", transfer.Options{Root: true, Parallel: 8})
	if !errors.Is(err, vole.ErrExists) {
		t.Errorf("a directory in the way of a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = transfer.Copy(ctx, transfer.Volume(to), "again", transfer.Volume(from), ".", transfer.Options{Parallel: 8})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
