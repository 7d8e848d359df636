//go:build unix

package local_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/volehq/vole"
)

// TestFirstOpens opens homes that are not there many times at once, and uses them at
// once: nobody may take what another is just making for something else.
func TestFirstOpens(t *testing.T) {
	for round := range 5 {
		home := filepath.Join(t.TempDir(), "home")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s, err := vole.Open(t.Context(), vole.Options{Home: home})
				if err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
				_, err = s.Create(t.Context(), fmt.Sprint("v", i), vole.Spec{})
				if err := errors.Join(err, s.Close()); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
}

// TestHomeHalfMade opens a home whose catalog another process had just begun to make.
func TestHomeHalfMade(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	must(t, os.Mkdir(home, 0o700), os.Mkdir(filepath.Join(home, "volumes"), 0o700),
		os.WriteFile(filepath.Join(home, "catalog.db"), nil, 0o600),
		os.WriteFile(filepath.Join(home, "catalog.db-journal"), nil, 0o600))
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	closeChecked(t, s)
}
