package ext4_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
)

// What report returns ends a check, and so does the context.
func TestCheckEnds(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := ext4.Format(f, 64<<20, ext4.FormatOptions{})
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ext4.Check(ctx, f, ext4.CheckOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
