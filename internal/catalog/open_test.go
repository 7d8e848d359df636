package catalog_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/volehq/vole/internal/catalog"
)

// Many make a home at the same instant, and all of them get it.
func TestOpenAtOnce(t *testing.T) {
	for range 40 {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "locks"), 0o700); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 12 {
			wg.Go(func() {
				<-start
				db, err := catalog.Open(t.Context(), filepath.Join(dir, "catalog.db"), catalog.Options{})
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				if err := db.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		close(start)
		wg.Wait()
	}
}
