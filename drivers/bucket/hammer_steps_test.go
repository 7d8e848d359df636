package bucket_test

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

var hamTargets = []string{"a", "b", "c", "d/a", "../a", "../b/c", "nosuch", "nosuch/x", "/abs", "../../a", "../../../x", "b/../a", "./d", "."}

// step does one random thing in a side.
func (w *worker) step(s *side) {
	calls := s.calls()
	p, q := w.path(s), w.path(s)
	flag := w.rnd.IntN(4) == 0
	switch k := w.rnd.IntN(100); {
	case k < 20:
		w.writeStep(s, w.file(s), w.rnd.IntN(10) == 0)
	case k < 23:
		w.do(s, calls.Mkdir(p, 0o750))
	case k < 28:
		w.do(s, calls.MkdirAll(p, 0o711))
	case k < 31:
		w.do(s, calls.Remove(p))
	case k < 33:
		w.do(s, calls.RemoveAll(p))
	case k < 44:
		w.do(s, calls.Rename(p, q, flag))
	case k < 52:
		w.do(s, calls.Copy(p, q, flag))
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
	w.do(s, s.calls().WriteFile(p, data, opts))
}

func (w *worker) linkStep(s *side, p, q string) {
	switch target := hamTargets[w.rnd.IntN(len(hamTargets))]; {
	case w.rnd.IntN(10) == 0:
		w.do(s, s.calls().Mkfifo(p))
	case w.rnd.IntN(3) > 0:
		w.do(s, s.calls().Link(p, q))
	default:
		w.do(s, s.calls().Symlink(target, p))
	}
}

func (w *worker) metaStep(s *side, p string) {
	calls := s.calls()
	name, value := fmt.Sprint("user.", w.rnd.IntN(3)), fmt.Sprint(w.rnd.IntN(100))
	switch w.rnd.IntN(5) {
	case 0:
		w.do(s, calls.Chmod(p, []fs.FileMode{0, 0o700, 0o711, 0o755 | fs.ModeSetuid, 0o777 | fs.ModeSticky}[w.rnd.IntN(5)]))
	case 1:
		w.do(s, calls.Truncate(w.file(s), w.rnd.IntN(1<<(8+w.rnd.IntN(13)))))
	case 2, 3:
		w.do(s, calls.Setxattr(p, name, value))
	default:
		w.do(s, calls.Removexattr(p, name))
	}
}

// handleStep opens a file, or uses or closes one of those that are open.
func (w *worker) handleStep(s *side, p string) {
	if len(s.handles) == 0 || len(s.handles) < 4 && w.rnd.IntN(4) == 0 {
		opts := vole.OpenOptions{Write: true, Create: w.rnd.IntN(2) == 0, Truncate: w.rnd.IntN(5) == 0}
		opts.Exclusive = opts.Create && w.rnd.IntN(5) == 0
		if call, h := s.calls().Open(p, opts); w.do(s, call) {
			s.handles = append(s.handles, h)
		}
		return
	}
	// Handles keep the worker on one host: not for long.
	if w.rnd.IntN(8) == 0 {
		w.closeAll(s)
		return
	}
	w.useHandle(s, s.handles[w.rnd.IntN(len(s.handles))])
}

func (w *worker) closeAll(s *side) {
	for len(s.handles) > 0 {
		h := s.handles[0]
		s.handles = slices.Delete(s.handles, 0, 1)
		w.do(s, h.Close())
	}
}

func (w *worker) useHandle(s *side, h *treemodel.Handle) {
	ctx, size := context.Background(), len(h.Data())
	off := w.rnd.IntN(size + 1 + w.rnd.IntN(5000))
	var data []byte
	if k := w.rnd.IntN(8); k < 6 {
		data = w.data()
	}
	switch w.rnd.IntN(7) {
	case 0, 1:
		w.do(s, h.WriteAt(ctx, data, off))
	case 2:
		w.do(s, h.Append(ctx, data))
	case 3:
		w.do(s, h.Truncate(ctx, off))
	case 4:
		w.do(s, h.PunchHole(ctx, off, 1+w.rnd.IntN(1<<(4+w.rnd.IntN(17)))))
	case 5:
		w.do(s, h.Sync(ctx))
	default:
		w.do(s, h.ReadAt(ctx, off, w.rnd.IntN(max(0, size-off)+2)+1))
	}
}

// lookStep looks at p, by following links and by not.
func (w *worker) lookStep(s *side, p string) {
	if follow := w.rnd.IntN(2) == 0; w.rnd.IntN(2) == 0 {
		w.do(s, s.calls().Stat(p, follow))
		return
	}
	w.do(s, s.calls().ReadFile(p))
}
