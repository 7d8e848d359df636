package treemodel

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/volehq/vole"
)

// Handle is an open file and the inode that it must act on.
type Handle struct {
	File  *vole.File
	Inode *Inode
	id    int // tells handles apart in messages
}

func (h *Handle) String() string {
	return fmt.Sprintf("handle %d (%d bytes, %d names)", h.id, len(h.Inode.Data), h.Inode.Nlink)
}

// Data returns the content that the file must have. It is not to be changed.
func (h *Handle) Data() []byte { return h.Inode.Data }

// newCall returns an operation on the handle. what follows the handle in its description.
func (h *Handle) newCall(op, what string, plan Plan, run func() error) Call {
	return Call{Op: op, Args: h.String() + what, Plan: plan, Run: run}
}

// Close closes the file.
func (h *Handle) Close() Call {
	return h.newCall("close", "", Plan{apply: func() { h.Inode.Opens-- }}, h.File.Close)
}

// Sync makes the file's content durable.
func (h *Handle) Sync(ctx context.Context) Call {
	return h.newCall("sync", "", Plan{}, func() error { return h.File.Sync(ctx) })
}

// WriteAt writes data at off.
func (h *Handle) WriteAt(ctx context.Context, data []byte, off int) Call {
	return h.newCall("write at", fmt.Sprintf(": %d at %d", len(data), off), h.Inode.planWrite(data, off), func() error {
		_, err := h.File.WriteAt(ctx, data, int64(off))
		return err
	})
}

// Append writes data at the end, and compares the offset that it got.
func (h *Handle) Append(ctx context.Context, data []byte) Call {
	end := len(h.Inode.Data)
	return h.newCall("append", fmt.Sprintf(": %d", len(data)), h.Inode.planWrite(data, end), func() error {
		off, err := h.File.Append(ctx, data)
		if err == nil && off != int64(end) && len(data) > 0 {
			return fmt.Errorf("appended at %d, want %d", off, end)
		}
		return err
	})
}

// Truncate sets the size.
func (h *Handle) Truncate(ctx context.Context, size int) Call {
	return h.newCall("resize", fmt.Sprintf(": %d", size), h.Inode.planResize(size), func() error { return h.File.Truncate(ctx, int64(size)) })
}

// PunchHole makes a range read as zeros.
func (h *Handle) PunchHole(ctx context.Context, off, length int) Call {
	return h.newCall("punch", fmt.Sprintf(": %d at %d", length, off), h.Inode.planPunch(off, length), func() error {
		return h.File.PunchHole(ctx, int64(off), int64(length))
	})
}

// ReadAt reads up to length bytes at off, and compares them, the size and the names with the
// inode.
func (h *Handle) ReadAt(ctx context.Context, off, length int) Call {
	return h.newCall("read", fmt.Sprintf(": %d at %d", length, off), Plan{}, func() error {
		want := h.Inode.Data[min(off, len(h.Inode.Data)):]
		b := make([]byte, length)
		n, err := h.File.ReadAt(ctx, b, int64(off))
		switch {
		case err != nil && err != io.EOF, n < len(b) && err == nil:
			return fmt.Errorf("read %d of %d bytes at %d: %w, want %d", n, len(b), off, err, min(len(b), len(want)))
		case n != min(len(b), len(want)) || !bytes.Equal(b[:n], want[:n]):
			return fmt.Errorf("read %d of %d bytes at %d, want %d; first difference at %d", n, len(b), off, min(len(b), len(want)), FirstDifference(b[:n], want))
		}
		e, err := h.File.Stat(ctx)
		if err == nil && (e.Size != int64(len(h.Inode.Data)) || int(e.Nlink) != h.Inode.Nlink) {
			return fmt.Errorf("size %d and %d names, want %d and %d", e.Size, e.Nlink, len(h.Inode.Data), h.Inode.Nlink)
		}
		return err
	})
}

// FirstDifference returns the first index at which a and b differ, or the shorter length.
func FirstDifference(a, b []byte) int {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return i
}

// setSize copies the content, which copies of the file may share.
func (n *Inode) setSize(size int) {
	data := make([]byte, size)
	copy(data, n.Data)
	n.Data = data
}

func (n *Inode) planResize(size int) Plan {
	return Plan{Growth: int64(size - len(n.Data)), apply: func() { n.setSize(size) }}
}

func (n *Inode) planWrite(data []byte, off int) Plan {
	if len(data) == 0 {
		return Plan{}
	}
	end := max(len(n.Data), off+len(data))
	return Plan{Growth: int64(end - len(n.Data)), apply: func() {
		n.setSize(end)
		copy(n.Data[off:], data)
	}}
}

func (n *Inode) planPunch(off, length int) Plan {
	return Plan{apply: func() {
		if off < len(n.Data) {
			n.setSize(len(n.Data))
			clear(n.Data[off:min(off+length, len(n.Data))])
		}
	}}
}
