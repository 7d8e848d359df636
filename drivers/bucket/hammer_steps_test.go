package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/volehq/vole"
)

var hamTargets = []string{"a", "b", "c", "d/a", "../a", "../b/c", "nosuch", "nosuch/x", "/abs", "../../a", "../../../x", "b/../a", "./d", "."}

// step does one random thing in a side.
func (w *worker) step(s *side) {
	ctx, f, m := context.Background(), s.fs(), s.m
	p, q := w.path(s), w.path(s)
	flag := w.rnd.IntN(4) == 0
	switch k := w.rnd.IntN(100); {
	case k < 20:
		w.writeStep(s, w.file(s), w.rnd.IntN(10) == 0)
	case k < 23:
		w.do(s, "mkdir", p, m.add(p, fs.ModeDir|0o750, ""), func() error { return f.Mkdir(ctx, p, 0o750) })
	case k < 28:
		w.do(s, "mkdirall", p, m.mkdirAll(p, 0o711), func() error { return f.MkdirAll(ctx, p, 0o711) })
	case k < 31:
		w.do(s, "remove", p, m.remove(p), func() error { return f.Remove(ctx, p) })
	case k < 33:
		w.do(s, "removeall", p, m.removeAll(p), func() error { return f.RemoveAll(ctx, p) })
	case k < 44:
		w.do(s, "rename", fmt.Sprintf("%s to %s, keep %v", p, q, flag), m.rename(p, q, flag),
			func() error { return f.Rename(ctx, p, q, vole.RenameOptions{NoReplace: flag}) })
	case k < 52:
		w.do(s, "copy", fmt.Sprintf("%s to %s, keep %v", p, q, flag), m.copy(p, q, flag),
			func() error { return f.Copy(ctx, p, q, vole.CopyOptions{NoReplace: flag}) })
	case k < 60:
		w.linkStep(s, p, q)
	case k < 66:
		w.metaStep(s, p)
	case k < 88:
		w.handleStep(s, w.file(s))
	default:
		w.lookStep(s, p)
	}
}

func (w *worker) writeStep(s *side, p string, exclusive bool) {
	data, mode := w.data(), []fs.FileMode{0, 0o600, 0o644, 0o755}[w.rnd.IntN(4)]
	opts := vole.WriteOptions{Mode: mode, Exclusive: exclusive}
	if w.rnd.IntN(2) == 0 {
		opts.Size = int64(len(data))
	}
	w.do(s, "write", fmt.Sprintf("%d bytes to %s, mode %v, exclusive %v, size %d", len(data), p, mode, exclusive, opts.Size),
		s.m.writeFile(p, data, mode, exclusive),
		func() error {
			_, err := s.fs().WriteFrom(context.Background(), p, bytes.NewReader(data), opts)
			return err
		})
}

func (w *worker) linkStep(s *side, p, q string) {
	ctx, f, m := context.Background(), s.fs(), s.m
	switch target := hamTargets[w.rnd.IntN(len(hamTargets))]; {
	case w.rnd.IntN(10) == 0:
		w.do(s, "mkfifo", p, m.add(p, fs.ModeNamedPipe|0o600, ""), func() error { return f.Mknod(ctx, p, fs.ModeNamedPipe|0o600, 0) })
	case w.rnd.IntN(3) > 0:
		w.do(s, "link", p+" as "+q, m.link(p, q), func() error { return f.Link(ctx, p, q) })
	default:
		w.do(s, "symlink", p+" to "+target, m.add(p, fs.ModeSymlink|0o777, target), func() error { return f.Symlink(ctx, target, p) })
	}
}

func (w *worker) metaStep(s *side, p string) {
	ctx, f, m := context.Background(), s.fs(), s.m
	name, value := fmt.Sprint("user.", w.rnd.IntN(3)), fmt.Sprint(w.rnd.IntN(100))
	switch w.rnd.IntN(5) {
	case 0:
		mode := []fs.FileMode{0, 0o700, 0o711, 0o755 | fs.ModeSetuid, 0o777 | fs.ModeSticky}[w.rnd.IntN(5)]
		w.do(s, "chmod", fmt.Sprintf("%s to %v", p, mode), m.chmod(p, mode), func() error { return f.Chmod(ctx, p, mode) })
	case 1:
		p = w.file(s)
		size := w.rnd.IntN(1 << (8 + w.rnd.IntN(13)))
		w.do(s, "truncate", fmt.Sprintf("%s to %d", p, size), m.truncate(p, size), func() error { return f.Truncate(ctx, p, int64(size)) })
	case 2, 3:
		w.do(s, "setxattr", name+" of "+p, m.xattr(p, name, value, true), func() error { return f.Setxattr(ctx, p, name, []byte(value)) })
	default:
		w.do(s, "removexattr", name+" of "+p, m.xattr(p, name, "", false), func() error { return f.Removexattr(ctx, p, name) })
	}
}

// handleStep opens a file, or uses or closes one of those that are open.
func (w *worker) handleStep(s *side, p string) {
	if len(s.handles) == 0 || len(s.handles) < 4 && w.rnd.IntN(4) == 0 {
		opts := vole.OpenOptions{Write: true, Create: w.rnd.IntN(2) == 0, Truncate: w.rnd.IntN(5) == 0}
		opts.Exclusive = opts.Create && w.rnd.IntN(5) == 0
		var hd hamHandle
		done := w.do(s, "open", fmt.Sprintf("%s with %+v", p, opts), s.m.open(p, opts, &hd.n),
			func() (err error) { hd.h, err = s.fs().Open(context.Background(), p, opts); return err })
		if done {
			s.handles = append(s.handles, hd)
		}
		return
	}
	// Handles keep the worker on one host: not for long.
	if w.rnd.IntN(8) == 0 {
		w.closeAll(s)
		return
	}
	w.useHandle(s, w.rnd.IntN(len(s.handles)))
}

func (w *worker) closeAll(s *side) {
	for len(s.handles) > 0 {
		hd := s.handles[0]
		s.handles = slices.Delete(s.handles, 0, 1)
		w.do(s, "close", "a handle", plan{apply: func() { hd.n.opens-- }}, hd.h.Close)
	}
}

func (w *worker) useHandle(s *side, i int) {
	ctx, m, hd := context.Background(), s.m, s.handles[i]
	off := w.rnd.IntN(len(hd.n.data) + 1 + w.rnd.IntN(5000))
	var data []byte
	if k := w.rnd.IntN(8); k < 6 {
		data = w.data()
	}
	what := fmt.Sprintf("handle %d (%d bytes, %d names): ", i, len(hd.n.data), hd.n.nlink)
	switch w.rnd.IntN(7) {
	case 0, 1:
		w.do(s, "write at", fmt.Sprintf("%s%d at %d", what, len(data), off), m.writeAt(hd.n, data, off),
			func() error { _, err := hd.h.WriteAt(ctx, data, int64(off)); return err })
	case 2:
		end := int64(len(hd.n.data))
		w.do(s, "append", fmt.Sprintf("%s%d", what, len(data)), m.writeAt(hd.n, data, int(end)),
			func() error {
				at, err := hd.h.Append(ctx, data)
				if err == nil && at != end && len(data) > 0 {
					return fmt.Errorf("appended at %d, want %d", at, end)
				}
				return err
			})
	case 3:
		w.do(s, "resize", fmt.Sprintf("%s%d", what, off), m.resize(hd.n, off), func() error { return hd.h.Truncate(ctx, int64(off)) })
	case 4:
		length := 1 + w.rnd.IntN(1<<(4+w.rnd.IntN(17)))
		w.do(s, "punch", fmt.Sprintf("%s%d at %d", what, length, off), m.punch(hd.n, off, length),
			func() error { return hd.h.PunchHole(ctx, int64(off), int64(length)) })
	case 5:
		w.do(s, "sync", what, plan{}, func() error { return hd.h.Sync(ctx) })
	default:
		w.do(s, "read", what, plan{}, func() error { return w.readHandle(hd, off) })
	}
}

func (w *worker) readHandle(hd hamHandle, off int) error {
	ctx, want := context.Background(), hd.n.data[min(off, len(hd.n.data)):]
	b := make([]byte, w.rnd.IntN(len(want)+2)+1)
	n, err := hd.h.ReadAt(ctx, b, int64(off))
	if n < len(b) != errors.Is(err, io.EOF) && n < len(b) || n != min(len(b), len(want)) || !bytes.Equal(b[:n], want[:n]) {
		return fmt.Errorf("read %d of %d bytes at %d, %w, want %d", n, len(b), off, err, min(len(b), len(want)))
	}
	e, err := hd.h.Stat(ctx)
	if err == nil && (e.Size != int64(len(hd.n.data)) || int(e.Nlink) != hd.n.nlink) {
		return fmt.Errorf("size %d and %d names, want %d and %d", e.Size, e.Nlink, len(hd.n.data), hd.n.nlink)
	}
	return err
}

// lookStep looks at p, by following links and by not.
func (w *worker) lookStep(s *side, p string) {
	ctx := context.Background()
	follow := w.rnd.IntN(2) == 0
	at, err := s.m.there(p, follow)
	look := s.fs().Lstat
	if follow {
		look = s.fs().Stat
	}
	if w.rnd.IntN(2) == 0 {
		w.do(s, "stat", fmt.Sprintf("%s, follow %v", p, follow), plan{err: err}, func() error {
			e, err := look(ctx, p)
			if err == nil && (e.Mode != at.n.mode || at.n.isFile() && e.Size != int64(len(at.n.data)) || !at.n.isDir() && int(e.Nlink) != at.n.nlink) {
				return fmt.Errorf("%v of %d bytes with %d names, want %v of %d with %d", e.Mode, e.Size, e.Nlink, at.n.mode, len(at.n.data), at.n.nlink)
			}
			return err
		})
		return
	}
	n, err := s.m.file(p)
	w.do(s, "read file", p, plan{err: err}, func() error {
		b, err := s.fs().ReadFile(ctx, p)
		if err == nil && !bytes.Equal(b, n.data) {
			return fmt.Errorf("%s, want %s", digest(b), digest(n.data))
		}
		return err
	})
}
