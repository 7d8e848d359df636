package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// twoHosts opens the files of a fresh volume on two hosts.
func twoHosts(t *testing.T, spec vole.Spec) (f, g *vole.FS) {
	t.Helper()
	opts := engines[0].fresh(t)
	opts.Maintain = -1
	_, here := openS3Org(t, opts, "acme")
	_, there := openS3Org(t, opts, "acme")
	v, err := here.Create(t.Context(), "v", spec)
	if err != nil {
		t.Fatal(err)
	}
	w, err := there.Get(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	if f, err = v.FS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g, err = w.FS(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f, g
}

func putFile(t *testing.T, f *vole.FS, path, data string) {
	t.Helper()
	if err := f.WriteFile(t.Context(), path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, f *vole.FS, path, want string) {
	t.Helper()
	if got, err := f.ReadFile(t.Context(), path); err != nil || string(got) != want {
		t.Errorf("%s holds %.40q, %v, want %.40q", path, got, err, want)
	}
}

func openTo(t *testing.T, f *vole.FS, path string, opts vole.OpenOptions) *vole.File {
	t.Helper()
	h, err := f.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func writeAt(t *testing.T, h *vole.File, data string, off int64) {
	t.Helper()
	if _, err := h.WriteAt(t.Context(), []byte(data), off); err != nil {
		t.Fatal(err)
	}
}

// Bytes that cannot be committed for a while stay dirty, even if other handles open and close
// the file. The loss of bytes that can never be committed is reported to the handles that
// wrote them.
func TestUnsyncedIsKept(t *testing.T) {
	ctx := t.Context()
	f, g := twoHosts(t, vole.Spec{})
	putFile(t, f, "f", "old")
	w := openTo(t, f, "f", vole.OpenOptions{Write: true})
	writeAt(t, w, "newer", 0)
	if err := g.Volume().Update(ctx, vole.Update{Quota: 4}); err != nil {
		t.Fatal(err)
	}
	r := openTo(t, f, "f", vole.OpenOptions{})
	if err := r.Close(); err != nil {
		t.Errorf("a reader's close: %v", err)
	}
	other := openTo(t, f, "f", vole.OpenOptions{Write: true})
	if err := other.Close(); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("another writer's close over the quota: %v", err)
	}
	holds(t, f, "f", "newer")
	if err := f.Copy(ctx, "f", "copy", vole.CopyOptions{}); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("copy of what cannot be committed: %v", err)
	}
	if err := g.Volume().Update(ctx, vole.Update{ClearQuota: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(ctx); err != nil {
		t.Errorf("sync: %v", err)
	}
	holds(t, g, "f", "newer")

	writeAt(t, w, "lost", 0)
	a, err := g.Volume().Attach(ctx, vole.AttachOptions{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, f, "f", "lostr")
	if _, err := f.Statfs(ctx); err != nil { // it commits, in vain
		t.Error(err)
	}
	holds(t, f, "f", "newer")
	if err := a.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(ctx); !errors.Is(err, vole.ErrInUse) {
		t.Errorf("sync of what was lost: %v", err)
	}
	if err := w.Sync(ctx); err != nil {
		t.Errorf("sync after that was told: %v", err)
	}
}

// A writer whose attachment has ended does not block other writers.
func TestEndedWriterIsAlone(t *testing.T) {
	ctx := t.Context()
	f, _ := twoHosts(t, vole.Spec{})
	putFile(t, f, "f", "committed")
	a, err := f.Volume().Attach(ctx, vole.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	under, err := f.Volume().OpenFS(ctx, vole.FSOptions{Attachment: a.Info().ID})
	if err != nil {
		t.Fatal(err)
	}
	h := openTo(t, under, "f", vole.OpenOptions{Write: true})
	writeAt(t, h, "COM", 0)
	if err := a.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	holds(t, f, "f", "COMmitted") // Detach committed what was written before it
	writeAt(t, h, "LATE", 0)
	own := openTo(t, f, "f", vole.OpenOptions{Write: true})
	writeAt(t, own, "own", 0)
	if err := own.Close(); err != nil {
		t.Errorf("another's close: %v", err)
	}
	holds(t, f, "f", "ownmitted")
	if err := h.Sync(ctx); !errors.Is(err, vole.ErrClosed) {
		t.Errorf("late sync: %v", err)
	}
}

// Sizes never go back in the eyes of the process that writes.
func TestStatNeverGoesBack(t *testing.T) {
	ctx := t.Context()
	f, _ := twoHosts(t, vole.Spec{})
	h := openTo(t, f, "f", vole.OpenOptions{Create: true})
	var acked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := int64(0); n < 400; n++ {
			if _, err := h.WriteAt(ctx, []byte{1}, n); err != nil {
				t.Error(err)
				return
			}
			acked.Store(n + 1)
			if err := h.Sync(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for {
		least := acked.Load()
		e, err := f.Stat(ctx, "f")
		if err != nil || e.Size < least {
			t.Errorf("size %d, %v, after %d were written", e.Size, err, least)
		}
		list, err := f.ReadDir(ctx, ".")
		if err != nil || len(list) != 1 || list[0].Size < least {
			t.Errorf("listed as %+v, %v, after %d were written", list, err, least)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// NextData sees everything that was written, whichever handle opened the file first.
func TestNextDataIsFresh(t *testing.T) {
	f, _ := twoHosts(t, vole.Spec{})
	putFile(t, f, "f", "")
	ro, err := f.Volume().OpenFS(t.Context(), vole.FSOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	r := openTo(t, ro, "f", vole.OpenOptions{})
	w := openTo(t, f, "f", vole.OpenOptions{Write: true})
	writeAt(t, w, strings.Repeat("x", 100_000), 0)
	for what, h := range map[string]*vole.File{"writer": w, "reader": r} {
		if start, end, err := h.NextData(t.Context(), 0); start != 0 || end != 100_000 || err != nil {
			t.Errorf("the %s is told of data from %d to %d, %v", what, start, end, err)
		}
	}
}

// A quota that another host has raised is seen by a stream.
func TestQuotaRaised(t *testing.T) {
	ctx := t.Context()
	f, g := twoHosts(t, vole.Spec{Quota: vole.MiB})
	if err := g.Volume().Update(ctx, vole.Update{Quota: 100 * vole.MiB}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteFrom(ctx, "f", io.LimitReader(blanks{}, 20<<20), vole.WriteOptions{}); err != nil {
		t.Error(err)
	}
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// No way of making a file makes one that no call can name.
func TestNamesThroughLinks(t *testing.T) {
	ctx := t.Context()
	f, _ := twoHosts(t, vole.Spec{})
	if err := f.Mkdir(ctx, "d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{strings.Repeat("a", 256), "d/" + strings.Repeat("b", 4000), strings.Repeat("c", 300) + "/x"} {
		if err := f.Symlink(ctx, target, "l"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Open(ctx, "l", vole.OpenOptions{Create: true}); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("create through a link with a name of %d bytes: %v", len(target), err)
		}
		if err := f.Remove(ctx, "l"); err != nil {
			t.Fatal(err)
		}
	}
	opts := engines[0].fresh(t)
	b, s := openS3Org(t, opts, "acme")
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{"x/..": vole.ErrPathEscape, "a\x00b": vole.ErrInvalid, strings.Repeat("n", 300): vole.ErrInvalid, "/": vole.ErrIsDir} {
		if err := b.CommitFile(ctx, v.ID(), path, 10, nil, nil, driver.WriteOptions{}, driver.FSOptions{}); !errors.Is(err, want) {
			t.Errorf("commit to %.20q: %v", path, err)
		}
	}
	if err := b.CommitFile(ctx, v.ID(), "/d/f", 10, nil, nil, driver.WriteOptions{}, driver.FSOptions{}); err != nil {
		t.Error(err)
	}
	fsys, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fsys.ReadFile(ctx, "d/f"); err != nil || !bytes.Equal(got, make([]byte, 10)) {
		t.Errorf("%q, %v", got, err)
	}
}

// A removal that is cut short goes on, and leaves alone what is open here.
func TestRemoveAllCutShort(t *testing.T) {
	f, _ := twoHosts(t, vole.Spec{})
	for i := range 300 {
		putFile(t, f, "d/sub/"+strings.Repeat("f", i/26+1)+string(rune('a'+i%26)), "x")
	}
	putFile(t, f, "d/open", "held")
	h := openTo(t, f, "d/open", vole.OpenOptions{Write: true})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
	defer cancel()
	if err := f.RemoveAll(ctx, "d"); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := f.RemoveAll(t.Context(), "d"); err != nil { // where it did not even begin
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := f.Statfs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Used == 4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still used", s.Used)
		}
		time.Sleep(10 * time.Millisecond)
	}
	writeAt(t, h, "HELD", 0)
	if err := h.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	b := make([]byte, 4)
	if _, err := h.ReadAt(t.Context(), b, 0); err != nil && err != io.EOF || string(b) != "HELD" {
		t.Errorf("%q, %v", b, err)
	}
}
