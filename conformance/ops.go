package conformance

import (
	"bytes"
	"context"
	"io/fs"
	"time"

	"github.com/volehq/vole"
)

// last says what an operation does with a symbolic link as the last element.
type last int

const (
	follows last = iota // acts on what the link leads to
	onLink              // acts on the link itself
	makes               // wants nothing to be there
	unsaid              // the contract leaves it open
)

// pathOp is one way of giving a path to the methods of FS. The tests of paths, closed
// handles, cancelled contexts, removed volumes and read-only opening run all of them.
type pathOp struct {
	name    string // for messages
	op      string // Error.Op
	at      string // a path of fixture on which it succeeds
	last    last
	changes bool
	need    func(c vole.Caps) bool // nil: every backend has it
	run     func(ctx context.Context, f *vole.FS, p string) error
}

func links(c vole.Caps) bool  { return c.Links }
func xattrs(c vole.Caps) bool { return c.Xattrs }

// fixture fills an empty volume with what pathOps act on.
func (f *files) fixture() {
	f.t.Helper()
	f.write("file", "content")
	f.write("full/x", "inner")
	f.mkdir("dir")
	if f.e.caps.Links {
		f.symlink("file", "link")
	}
	if f.e.caps.Xattrs {
		must(f.t, "setxattr", f.Setxattr(f.ctx, "file", "user.k", []byte("v")))
	}
}

// pathOps returns the operations that the backend claims.
func (e *env) pathOps() []pathOp {
	var list []pathOp
	for _, group := range [][]pathOp{lookOps, makeOps, moveOps, metaOps} {
		for _, o := range group {
			if o.need == nil || o.need(e.caps) {
				list = append(list, o)
			}
		}
	}
	return list
}

var lookOps = []pathOp{
	{"Stat", "stat", "file", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Stat(ctx, p)
		return err
	}},
	{"Lstat", "lstat", "file", onLink, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Lstat(ctx, p)
		return err
	}},
	{"Exists", "lstat", "file", onLink, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Exists(ctx, p)
		return err
	}},
	{"Readlink", "readlink", "link", onLink, false, links, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Readlink(ctx, p)
		return err
	}},
	{"ReadDir", "list", "full", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.ReadDir(ctx, p)
		return err
	}},
	{"Entries", "list", "full", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		for _, err := range f.Entries(ctx, p) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"OpenDir", "list", "full", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		d, err := f.OpenDir(ctx, p, vole.DirOptions{NamesOnly: true})
		if err != nil {
			return err
		}
		return d.Close()
	}},
	{"ReadFile", "read", "file", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.ReadFile(ctx, p)
		return err
	}},
	{"NewReader", "open", "file", follows, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		r, err := f.NewReader(ctx, p, 0, -1)
		if err != nil {
			return err
		}
		return r.Close()
	}},
	openOp("Open", "file", follows, vole.OpenOptions{}),
	{"OpenEntry", "open", "file", unsaid, false, nil, func(ctx context.Context, f *vole.FS, p string) error {
		h, _, err := f.OpenEntry(ctx, p)
		if err != nil {
			return err
		}
		return h.Close()
	}},
	{"Getxattr", "getxattr", "file", onLink, false, xattrs, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Getxattr(ctx, p, "user.k")
		return err
	}},
	{"Listxattr", "listxattr", "file", onLink, false, xattrs, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.Listxattr(ctx, p)
		return err
	}},
}

func openOp(name, at string, l last, opts vole.OpenOptions) pathOp {
	changes := opts != vole.OpenOptions{}
	return pathOp{name, "open", at, l, changes, nil, func(ctx context.Context, f *vole.FS, p string) error {
		h, err := f.Open(ctx, p, opts)
		if err != nil {
			return err
		}
		return h.Close()
	}}
}

var makeOps = []pathOp{
	{"WriteFile", "write", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.WriteFile(ctx, p, []byte("written"), 0o644)
	}},
	{"WriteFrom", "write", "new", makes, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		_, err := f.WriteFrom(ctx, p, bytes.NewReader([]byte("written")), vole.WriteOptions{Exclusive: true})
		return err
	}},
	{"WriteFrom (sparse)", "write", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		r, opts := sparse(1<<20, rangeData{1000, "written"})
		_, err := f.WriteFrom(ctx, p, r, opts)
		return err
	}},
	openOp("Open to write", "file", follows, vole.OpenOptions{Write: true}),
	openOp("Open to append", "file", follows, vole.OpenOptions{Append: true}),
	openOp("Open with Truncate", "file", follows, vole.OpenOptions{Write: true, Truncate: true}),
	openOp("Open with Create", "new", follows, vole.OpenOptions{Create: true}),
	openOp("Open with Exclusive", "new", makes, vole.OpenOptions{Create: true, Exclusive: true}),
	{"Mkdir", "mkdir", "new", makes, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Mkdir(ctx, p, 0o755)
	}},
	{"MkdirAll", "mkdir", "new", unsaid, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.MkdirAll(ctx, p, 0o755)
	}},
	{"Mknod", "mknod", "new", makes, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Mknod(ctx, p, fs.ModeNamedPipe|0o600, 0)
	}},
	{"Link (path)", "link", "new", makes, true, links, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Link(ctx, "file", p)
	}},
	{"Symlink", "symlink", "new", makes, true, links, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Symlink(ctx, "file", p)
	}},
}

var moveOps = []pathOp{
	{"Remove", "remove", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Remove(ctx, p)
	}},
	{"RemoveAll", "remove", "full", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.RemoveAll(ctx, p)
	}},
	{"Rename (from)", "rename", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Rename(ctx, p, "renamed", vole.RenameOptions{})
	}},
	{"Rename (to)", "rename", "new", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Rename(ctx, "full/x", p, vole.RenameOptions{})
	}},
	{"Copy (from)", "copy", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Copy(ctx, p, "copied", vole.CopyOptions{})
	}},
	{"Copy (to)", "copy", "new", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Copy(ctx, "full/x", p, vole.CopyOptions{})
	}},
	{"Link (target)", "link", "file", onLink, true, links, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Link(ctx, p, "linked")
	}},
}

var metaOps = []pathOp{
	{"Chmod", "chmod", "file", follows, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Chmod(ctx, p, 0o700)
	}},
	{"Chown", "chown", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Chown(ctx, p, -1, -1)
	}},
	{"Chtimes", "chtimes", "file", onLink, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Chtimes(ctx, p, time.Time{}, time.Unix(1000, 0))
	}},
	{"Truncate", "truncate", "file", unsaid, true, nil, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Truncate(ctx, p, 3)
	}},
	{"Setxattr", "setxattr", "file", onLink, true, xattrs, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Setxattr(ctx, p, "user.new", []byte("v"))
	}},
	{"Removexattr", "removexattr", "file", onLink, true, xattrs, func(ctx context.Context, f *vole.FS, p string) error {
		return f.Removexattr(ctx, p, "user.k")
	}},
}

// handleOp is one method of File.
type handleOp struct {
	name    string
	changes bool
	run     func(ctx context.Context, h *vole.File) error
}

var handleOps = []handleOp{
	{"ReadAt", false, func(ctx context.Context, h *vole.File) error {
		_, err := h.ReadAt(ctx, make([]byte, 1), 0)
		return err
	}},
	{"WriteAt", true, func(ctx context.Context, h *vole.File) error {
		_, err := h.WriteAt(ctx, []byte("w"), 0)
		return err
	}},
	{"Append", true, func(ctx context.Context, h *vole.File) error {
		_, err := h.Append(ctx, []byte("a"))
		return err
	}},
	{"Truncate", true, func(ctx context.Context, h *vole.File) error { return h.Truncate(ctx, 1) }},
	{"PunchHole", true, func(ctx context.Context, h *vole.File) error { return h.PunchHole(ctx, 0, 1) }},
	{"NextData", false, func(ctx context.Context, h *vole.File) error {
		_, _, err := h.NextData(ctx, 0)
		return err
	}},
	{"Stat", false, func(ctx context.Context, h *vole.File) error {
		_, err := h.Stat(ctx)
		return err
	}},
	{"Sync", false, func(ctx context.Context, h *vole.File) error { return h.Sync(ctx) }},
}
