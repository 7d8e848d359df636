package bucket_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/volehq/vole"
)

// A host that reads what another replaces all the time reads one version or the other,
// whole: a file's size and its extents are looked up in one step.
func TestReplacedElsewhere(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			opts.Maintain = -1
			_, here := openS3Org(t, opts, "acme")
			_, there := openS3Org(t, opts, "acme")
			v, err := here.Create(t.Context(), "v", vole.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			f := createFiles(t, v, "a")
			w, err := there.Get(t.Context(), "v")
			if err != nil {
				t.Fatal(err)
			}
			g, err := w.FS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { readReplaced(ctx, t, g) })
			}
			for i := range 300 {
				data := bytes.Repeat([]byte{'a' + byte(i%26)}, 1+i*37%5000)
				if err := f.WriteFile(t.Context(), "f", data, 0o644); err != nil {
					t.Error(err)
					break
				}
			}
			cancel()
			wg.Wait()
		})
	}
}

func readReplaced(ctx context.Context, t *testing.T, f *vole.FS) {
	for ctx.Err() == nil {
		b, err := f.ReadFile(ctx, "f")
		if ctx.Err() != nil {
			return
		}
		if err != nil || len(b) == 0 || len(bytes.Trim(b, string(b[:1]))) != 0 || b[0] < 'a' {
			t.Errorf("read %d bytes %.10q, %v", len(b), b, err)
			return
		}
	}
}
