//go:build unix

package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// A call that opens the page of a volume an instant after the volume was removed makes its file
// again. However the call fails, it leaves no such file: nobody else would remove it.
func TestFailedCallLeavesNoPageOfRemovedVolume(t *testing.T) {
	open := func(t *testing.T) (b *Backend, info driver.Info, f driver.FS, faults *fault.Injector, removeUnderCall func() error, pagePath string) {
		faults = &fault.Injector{}
		home := filepath.Join(t.TempDir(), "home")
		b, info, f = openFiles(t, home, faults)
		t.Cleanup(func() { b.Close() })
		remover, err := Open(t.Context(), home, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remover.Close() })
		removeUnderCall = func() error {
			if _, err := remover.Remove(t.Context(), driver.ByID(info.ID)); err != nil {
				t.Errorf("remove: %v", err)
			}
			p, err := remover.openPage(info.ID) // what the call would have done now
			if err != nil {
				t.Fatal(err)
			}
			p.close()
			return context.Canceled
		}
		return b, info, f, faults, removeUnderCall, filepath.Join(home, "locks", info.ID)
	}
	t.Run("first change", func(t *testing.T) {
		_, _, f, faults, removeUnderCall, pagePath := open(t)
		faults.Set(func(op, _ string, do func() error) error {
			if op != "sql.begin" {
				return do()
			}
			if _, err := os.Lstat(pagePath); err != nil {
				return do() // the call has not opened the page yet
			}
			faults.Set(nil)
			return removeUnderCall()
		})
		_, err := f.WriteFile(t.Context(), "file", strings.NewReader("content"), driver.WriteOptions{})
		assertNoPage(t, err, pagePath)
	})
	t.Run("measurement", func(t *testing.T) {
		b, info, _, _, removeUnderCall, pagePath := open(t)
		err := b.withVolumeAtRest(t.Context(), info.ID, "testing", func(*page) error { return removeUnderCall() })
		assertNoPage(t, err, pagePath)
	})
}

func assertNoPage(t *testing.T, err error, pagePath string) {
	t.Helper()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the call: %v, want %v", err, context.Canceled)
	}
	if _, err := os.Lstat(pagePath); err == nil {
		t.Error("the page of the removed volume exists")
	}
}
