package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// A counter that was not used for a while may be in the middle of its retirement when the
// home is closed: Close leaves it what it needs until it has ended.
func TestCounterRetiresWhileHomeCloses(t *testing.T) {
	ctx, home := t.Context(), filepath.Join(t.TempDir(), "home")
	b, info, f := openFiles(t, home)
	if _, err := f.WriteFile(ctx, "file", strings.NewReader("content"), driver.WriteOptions{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	idle := b.counters[info.ID]
	b.mu.Unlock()
	if idle == nil {
		t.Fatal("the volume has no counter")
	}

	// The retirement has a file to remove, which takes longer than closing does.
	proc, err := b.process()
	if err != nil {
		t.Fatal(err)
	}
	idle.messy.Store(true)
	if err := os.WriteFile(filepath.Join(home, "volumes", info.ID, "tmp", tempPrefix(proc)+"stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	fault.Set(func(op, what string, do func() error) error {
		if strings.HasSuffix(what, "stray") {
			close(begun)
			time.Sleep(200 * time.Millisecond)
			fault.Set(nil)
		}
		return do()
	})
	retired := make(chan struct{})
	go func() {
		defer close(retired)
		idle.retireIdle()
	}()
	<-begun
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-retired

	if b, err = Open(ctx, home, Options{}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := b.Get(ctx, driver.Ref{ID: info.ID})
	if err != nil || got.Used != 7 {
		t.Errorf("%+v, %v: the usage of 7 bytes was not written", got, err)
	}
}
