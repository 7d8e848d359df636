package bucket

import "testing"

// TestWriteWhileClosing: a write that is under way while its handle is closed keeps the file open
// until it ends, and leaves no bytes that are counted as dirty for ever.
func TestWriteWhileClosing(t *testing.T) {
	b := openTest(t, nil)
	h := openFile(t, b)
	if err := h.enterWriting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.inode.bufferWrite(t.Context(), h.fs, []byte("late"), 0); err != nil {
		t.Error(err)
	}
	if len(b.openInodes) != 1 || b.ns.dirtyBytes.Load() != 4 {
		t.Errorf("during the write: %d files open, %d bytes dirty", len(b.openInodes), b.ns.dirtyBytes.Load())
	}
	h.life.Leave()
	if len(b.openInodes) != 0 || b.ns.dirtyBytes.Load() != 0 {
		t.Errorf("after the write: %d files open, %d bytes dirty", len(b.openInodes), b.ns.dirtyBytes.Load())
	}
}
