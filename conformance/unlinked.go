package conformance

import (
	"io"
	"testing"

	"github.com/volehq/vole"
)

var unlinkedTests = []test{
	{"Removed", testUnlinkedRemoved},
	{"Replaced", testUnlinkedReplaced},
	{"RemovedWithTree", testUnlinkedTree},
	{"FSClosed", testFileOutlivesFS},
}

// handleHolds fails t unless the handle's file holds data.
func handleHolds(t *testing.T, f *files, h *vole.File, data string) {
	t.Helper()
	b := make([]byte, len(data)+1)
	n, err := h.ReadAt(f.ctx, b, 0)
	if err != io.EOF || string(b[:n]) != data {
		t.Errorf("the handle reads %d bytes %.40q, %v, want %d bytes", n, b[:n], err, len(data))
	}
}

// A file without a name lives on, and counts, until its last handle is closed.
func testUnlinkedRemoved(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "0123456789")
	h := f.open("f", vole.OpenOptions{Write: true})
	second := f.open("f", vole.OpenOptions{Write: true})
	f.remove("f")
	f.exists("f", false)
	handleHolds(t, f, h, "0123456789")
	st, err := h.Stat(f.ctx)
	must(t, "stat", err)
	equal(t, "links", st.Nlink, 0)
	equal(t, "size", st.Size, 10)
	f.used("removed but open", 10)

	_, err = h.WriteAt(f.ctx, []byte("abc"), 10)
	must(t, "write", err)
	_, err = h.Append(f.ctx, []byte("de"))
	must(t, "append", err)
	f.used("grown without a name", 15)
	handleHolds(t, f, second, "0123456789abcde")
	must(t, "truncate", h.Truncate(f.ctx, 4))
	f.used("shrunk without a name", 4)
	ok(t, "sync", h.Sync(f.ctx))

	f.write("f", "successor")
	handleHolds(t, f, h, "0123")
	f.holds("f", "successor")
	f.used("with a successor", 13)
	ok(t, "close", h.Close())
	f.used("with one handle left", 13)
	ok(t, "close", second.Close())
	f.used("with all handles closed", 9)
}

func testUnlinkedReplaced(t *testing.T, e *env) {
	f := e.files(t)
	f.write("by-write", "1111")
	f.write("by-rename", "22222")
	f.write("other", "333")
	a, b := f.open("by-write", vole.OpenOptions{Write: true}), f.open("by-rename", vole.OpenOptions{Write: true})
	f.write("by-write", "new")
	must(t, "rename", f.Rename(f.ctx, "other", "by-rename", vole.RenameOptions{}))
	f.used("replaced but open", 4+3+5+3)
	handleHolds(t, f, a, "1111")
	handleHolds(t, f, b, "22222")
	_, err := a.WriteAt(f.ctx, []byte("XX"), 0)
	ok(t, "write to the old file", err)
	f.holds("by-write", "new")
	f.holds("by-rename", "333")
	ok(t, "close", a.Close())
	ok(t, "close", b.Close())
	f.used("closed", 6)
}

func testUnlinkedTree(t *testing.T, e *env) {
	f := e.files(t)
	f.write("d/sub/f", "12345")
	f.write("d/sub/g", "67")
	h := f.open("d/sub/f", vole.OpenOptions{Write: true})
	must(t, "remove all", f.RemoveAll(f.ctx, "d"))
	f.exists("d", false)
	handleHolds(t, f, h, "12345")
	f.used("with a handle", 5)
	ok(t, "close", h.Close())
	f.used("without", 0)
}

// Files stay usable when the FS they were opened by is closed.
func testFileOutlivesFS(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	f.write("gone", "12")
	h, err := f.Open(f.ctx, "f", vole.OpenOptions{Write: true})
	must(t, "open", err)
	u, err := f.Open(f.ctx, "gone", vole.OpenOptions{Write: true})
	must(t, "open", err)
	f.remove("gone")
	ok(t, "close the FS", f.Close())
	_, err = h.WriteAt(f.ctx, []byte("DATA+"), 0)
	ok(t, "write", err)
	_, err = u.Append(f.ctx, []byte("3"))
	ok(t, "append", err)
	handleHolds(t, f, h, "DATA+")
	handleHolds(t, f, u, "123")
	ok(t, "close", h.Close())
	ok(t, "close", u.Close())
	g := e.openFiles(t, f.vol, vole.FSOptions{})
	g.holds("f", "DATA+")
	g.used("at the end", 5)
}
