package conformance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var leaseTests = []test{
	{"NotClaimed", testLeasesNotClaimed},
	{"ExclusiveWriter", testExclusiveWriter},
	{"ExclusiveReaders", testExclusiveReaders},
	{"Fenced", testFenced},
	{"FencedHandle", testFencedHandle},
	{"Detached", testLeaseDetached},
	{"WrongAttachment", testWrongAttachment},
}

// dirLeases skips unless attachments of dir volumes are leases.
func (e *env) dirLeases(t *testing.T) {
	t.Helper()
	need(t, e.caps.Leases && e.h.Spec.Kind == vole.KindDir, "leases")
}

func testLeasesNotClaimed(t *testing.T, e *env) {
	if e.caps.Leases {
		t.Skip("the backend claims leases")
	}
	v := e.create(t, "v")
	_, err := v.Attach(t.Context(), vole.AttachOptions{Exclusive: true})
	wantErr(t, "attach exclusively", err, vole.ErrUnsupported)
	a := attach(t, v, vole.AttachOptions{ReadOnly: true})
	_, err = v.OpenFS(t.Context(), vole.FSOptions{Attachment: a.Info().ID})
	wantErr(t, "open under an attachment", err, vole.ErrUnsupported)
}

func refusedAttach(t *testing.T, what string, v *vole.Volume, opts vole.AttachOptions, holder string) {
	t.Helper()
	_, err := v.Attach(t.Context(), opts)
	wantErr(t, what, err, vole.ErrInUse)
	if err != nil && !strings.Contains(err.Error(), holder) {
		t.Errorf("%s: error %q does not name %s", what, err, holder)
	}
}

func testExclusiveWriter(t *testing.T, e *env) {
	e.dirLeases(t)
	v := e.create(t, "v")
	shared := attach(t, v, vole.AttachOptions{Holder: "shared", ReadOnly: true})
	refusedAttach(t, "exclusive beside a reader", v, vole.AttachOptions{Holder: "x", Exclusive: true}, "shared")
	detach(t, shared)
	w := attach(t, v, vole.AttachOptions{Holder: "the-writer", Exclusive: true})
	equal(t, "exclusive", w.Info().Exclusive, true)
	refusedAttach(t, "a second one", v, vole.AttachOptions{Holder: "x", Exclusive: true}, "the-writer")
	refusedAttach(t, "a writer beside it", v, vole.AttachOptions{Holder: "x"}, "the-writer")
	refusedAttach(t, "a reader beside it", v, vole.AttachOptions{Holder: "x", ReadOnly: true}, "the-writer")
	detach(t, w)
	attach(t, v, vole.AttachOptions{Holder: "next", Exclusive: true})
}

func testExclusiveReaders(t *testing.T, e *env) {
	e.dirLeases(t)
	v := e.create(t, "v")
	attach(t, v, vole.AttachOptions{Holder: "reader1", ReadOnly: true, Exclusive: true})
	attach(t, v, vole.AttachOptions{Holder: "reader2", ReadOnly: true, Exclusive: true})
	attach(t, v, vole.AttachOptions{Holder: "reader3", ReadOnly: true})
	refusedAttach(t, "a writer beside readers", v, vole.AttachOptions{Holder: "x"}, "reader1")
}

// Only the holder of the exclusive attachment may change files, also through handles that
// others opened before.
func testFenced(t *testing.T, e *env) {
	e.dirLeases(t)
	f := e.files(t)
	f.fixture()
	f.write("f", "before")
	h := f.open("f", vole.OpenOptions{Write: true})
	a := attach(t, f.vol, vole.AttachOptions{Holder: "the-writer", Exclusive: true})
	before := f.tree()
	for _, o := range e.pathOps() {
		if !o.changes || o.name == "Open to write" || o.name == "Open to append" {
			continue
		}
		if err := o.run(f.ctx, f.FS, o.at); !errors.Is(err, vole.ErrInUse) || !strings.Contains(err.Error(), "the-writer") {
			t.Errorf("%s beside an exclusive writer: %v", o.name, err)
		}
	}
	f.unchanged("refused changes", before)
	f.holds("f", "before")
	own := e.openFiles(t, f.vol, vole.FSOptions{Attachment: a.Info().ID})
	// The holder may write to a file that another has open; the other may not.
	mine := own.open("f", vole.OpenOptions{Write: true})
	_, err := mine.WriteAt(f.ctx, []byte("BEFORE"), 0)
	must(t, "write", err)
	must(t, "sync", mine.Sync(f.ctx))
	f.holds("f", "BEFORE")
	_, err = h.WriteAt(f.ctx, []byte("X"), 0)
	if err == nil {
		err = h.Sync(f.ctx)
	}
	wantErr(t, "write by a handle beside an exclusive writer", err, vole.ErrInUse)
	_, err = f.vol.Refresh(f.ctx)
	ok(t, "refresh meanwhile", err)                                   // that is the handle's trouble alone
	wantAny(t, "close of that handle", h.Close(), nil, vole.ErrInUse) // it was told
	ok(t, "close", mine.Close())
	f.holds("f", "BEFORE")
	own.write("f", "by the writer")
	f.holds("f", "by the writer")
	detach(t, a)
	f.write("f", "after")
	wantErr(t, "write under an attachment that has ended", own.WriteFile(f.ctx, "f", []byte("late"), 0o644), vole.ErrClosed)
	f.holds("f", "after")
}

// Bytes written through a handle and not synced before another holder took over are lost.
func testFencedHandle(t *testing.T, e *env) {
	e.dirLeases(t)
	f := e.files(t)
	f.write("f", "before")
	a := attach(t, f.vol, vole.AttachOptions{Holder: "first", Exclusive: true})
	own := e.openFiles(t, f.vol, vole.FSOptions{Attachment: a.Info().ID})
	h := own.open("f", vole.OpenOptions{Write: true})
	_, err := h.WriteAt(f.ctx, []byte("BEFORE"), 0)
	must(t, "write", err)
	must(t, "sync", h.Sync(f.ctx))
	detach(t, a)
	b := attach(t, f.vol, vole.AttachOptions{Holder: "second", Exclusive: true})
	_, err = h.WriteAt(f.ctx, []byte("LATE"), 0)
	if err == nil {
		err = h.Sync(f.ctx)
	}
	wantErr(t, "late write", err, vole.ErrClosed)
	_, err = h.Append(f.ctx, []byte("LATE"))
	wantErr(t, "late append", err, vole.ErrClosed)
	wantAny(t, "late close", h.Close(), nil, vole.ErrClosed) // it was told
	f.holds("f", "BEFORE")
	next := e.openFiles(t, f.vol, vole.FSOptions{Attachment: b.Info().ID})
	next.write("f", "second")
	f.holds("f", "second")
}

func testLeaseDetached(t *testing.T, e *env) {
	e.dirLeases(t)
	v := e.create(t, "v")
	a := attach(t, v, vole.AttachOptions{Holder: "shared"})
	f := e.openFiles(t, v, vole.FSOptions{Attachment: a.Info().ID})
	f.write("f", "data")
	must(t, "detach", a.Detach(context.Background()))
	wantErr(t, "mkdir", f.Mkdir(f.ctx, "d", 0o755), vole.ErrClosed)
	f.holds("f", "data") // reading needs no right to write
}

func testWrongAttachment(t *testing.T, e *env) {
	e.dirLeases(t)
	v, w := e.create(t, "v"), e.create(t, "w")
	other := attach(t, w, vole.AttachOptions{Holder: "h"})
	ro := attach(t, v, vole.AttachOptions{Holder: "h", ReadOnly: true})
	for id, want := range map[string]error{
		other.Info().ID: vole.ErrClosed, ro.Info().ID: vole.ErrReadOnly, "nonsense": vole.ErrClosed,
		"01900000-0000-7000-8000-000000000000": vole.ErrClosed,
	} {
		_, err := v.OpenFS(t.Context(), vole.FSOptions{Attachment: id})
		wantErr(t, "open under "+id, err, want)
	}
}
