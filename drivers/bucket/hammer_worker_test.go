package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

// worker makes random calls.
type worker struct {
	h     *hammer
	i     int
	rnd   *rand.Rand
	own   side // a volume
	part  side // a directory of the shared volume
	trace []string
	serial
}

// side is a place that one worker has to itself.
type side struct {
	name    string // of the volume
	prefix  string // the directory; "": all of it
	m       *treemodel.Model
	quota   int64 // 0: that of the shared volume, which others use too
	v       *hamVolume
	host    int // where the next call is made
	handles []*treemodel.Handle
}

// newSide returns a side with a model of its content, which is empty.
func newSide(name, prefix string, quota int64, v *hamVolume) side {
	opts := treemodel.Options{Quota: quota, Prefix: prefix, Xattrs: true, Exact: true}
	return side{name: name, prefix: prefix, m: treemodel.New(opts), quota: quota, v: v}
}

func (s *side) fs() *vole.FS { return s.v.fs[s.host] }

// calls makes calls on the host whose turn it is.
func (s *side) calls() treemodel.Calls {
	return treemodel.Calls{Ctx: context.Background(), Model: s.m, FS: s.fs()}
}

func newWorker(h *hammer, i int) *worker {
	w := &worker{h: h, i: i, rnd: h.rand(i)}
	quota := hamQuotas[i%len(hamQuotas)]
	w.own = newSide(fmt.Sprint("own-", i), "", quota, &hamVolume{})
	_, err := h.hosts[0].Create(context.Background(), w.own.name, vole.Spec{Quota: vole.Size(quota)})
	h.must("create", err)
	h.open(w.own.name, w.own.v)
	w.part = newSide("shared", fmt.Sprint("w", i), 0, &h.shared)
	h.must("mkdir", h.shared.fs[0].Mkdir(context.Background(), w.part.prefix, 0o755))
	return w
}

func (w *worker) loop() {
	for !w.h.over() {
		s := &w.own
		if w.rnd.IntN(2) == 0 {
			s = &w.part
		}
		// What is written by handle is for this host alone until it is closed.
		if len(s.handles) == 0 {
			s.host = w.rnd.IntN(hamHosts)
		}
		switch k := w.rnd.IntN(1000); {
		case k < 840:
			w.step(s)
		case k < 960:
			w.fight()
		case k < 985:
			w.compare(s)
		default:
			w.volumeStep()
		}
	}
	for _, s := range []*side{&w.own, &w.part} {
		w.closeAll(s)
	}
}

// finish compares what every host sees.
func (w *worker) finish() {
	for _, s := range []*side{&w.own, &w.part} {
		for s.host = range hamHosts {
			w.compare(s)
		}
	}
	info, err := w.own.v.vols[1].Measure(context.Background())
	if want := w.own.m.Used(); err != nil || int64(info.Used) != want {
		w.fatal("%s measures %d, %v, want %d", w.own.name, info.Used, err, want)
	}
}

func (w *worker) fatal(format string, args ...any) {
	w.h.t.Helper()
	last := w.trace[max(0, len(w.trace)-30):]
	w.h.fatal("worker %d: %s\nits last calls:\n  %s", w.i, fmt.Sprintf(format, args...), strings.Join(last, "\n  "))
}

// note remembers what the worker is about to do.
func (w *worker) note(format string, args ...any) {
	if len(w.trace) > 1000 {
		w.trace = append(w.trace[:0], w.trace[900:]...)
	}
	w.trace = append(w.trace, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// do makes a call that must end as planned. It reports whether the call succeeded.
func (w *worker) do(s *side, c treemodel.Call) bool {
	w.h.t.Helper()
	faults, ok := s.m.Expect(c.Plan)
	if !ok {
		return false
	}
	what := fmt.Sprintf("%s/%s host %d: %s", s.name, s.prefix, s.host, c)
	w.note("%s", what)
	begin := time.Now()
	err := c.Run()
	w.h.count(c.Op, err)
	var want error // one outcome: the model is exact
	if len(faults) > 0 {
		want = faults[0]
	}
	isPlanned := len(c.Plan.Faults) == 0 // to succeed, if the quota allows it
	switch {
	case errors.Is(err, vole.ErrQuota) && (c.Plan.Carried > s.m.Free() && !isPlanned || s.quota == 0 && isPlanned && c.Plan.Growth > 0):
		return false
	case errors.Is(err, vole.ErrCorrupt) && w.tooSlow(begin):
		return false
	case want == nil && err == nil:
		c.Plan.Apply()
		return true
	case want != nil && errors.Is(err, want):
		return false
	}
	w.fatal("%s: %v, want %v", what, err, want)
	return false
}

// tooSlow reports whether a call took so long that the bytes it had put may have been
// swept away. No host should be that slow, but a machine of a test may be.
func (w *worker) tooSlow(begin time.Time) bool { return time.Since(begin) > w.h.opts.Grace/2 }

// path is a name: mostly one that is there, or is in a directory that is.
func (w *worker) path(s *side) string {
	p, n := s.prefix, s.m.Top()
	blind := w.rnd.IntN(3) == 0
	for depth := range 4 {
		name := string(rune('a' + w.rnd.IntN(4)))
		if have := slices.Sorted(maps.Keys(n.Names)); !blind && len(have) > 0 && w.rnd.IntN(4) > 0 {
			name = have[w.rnd.IntN(len(have))]
		}
		p = path.Join(p, name)
		next := n.Names[name]
		if w.rnd.IntN(4) <= depth || !blind && !next.IsDir() {
			break
		}
		if n = next; n == nil {
			n = &treemodel.Inode{}
		}
	}
	return p
}

// file is path, but seldom that of a directory.
func (w *worker) file(s *side) string {
	p := w.path(s)
	if n, err := s.m.Find(p, false); err == nil && n.IsDir() && w.rnd.IntN(8) > 0 {
		p = path.Join(p, string(rune('a'+w.rnd.IntN(4))))
	}
	return p
}

// data returns bytes whose number is near the limits where the backend changes its ways.
func (w *worker) data() []byte {
	const inline, sum, chunk = 16 << 10, 64 << 10, 8 << 20
	near := func(n int) int { return n - 2 + w.rnd.IntN(5) }
	size := 0
	switch k := w.rnd.IntN(100); {
	case k < 4:
	case k < 55:
		size = w.rnd.IntN(5000)
	case k < 70:
		size = near(inline)
	case k < 80:
		size = near(sum)
	case k < 93:
		size = w.rnd.IntN(300 << 10)
	case k < 99:
		size = w.rnd.IntN(3 << 20)
	default:
		size = near(chunk)
	}
	if size < chunk/2 && w.rnd.IntN(3) == 0 {
		size = w.rnd.IntN(200)
	}
	return bytesOf(w.rnd.Uint64(), size)
}

// bytesOf returns bytes that depend on a seed, cheaply.
func bytesOf(seed uint64, size int) []byte {
	b := make([]byte, size)
	for i := 0; i < size; i += 8 {
		seed = seed*6364136223846793005 + 1442695040888963407
		for j := range min(8, size-i) {
			b[i+j] = byte(seed >> (8 * j))
		}
	}
	return b
}

// compare compares all that a side holds with the model, and its usage.
func (w *worker) compare(s *side) {
	w.h.t.Helper()
	w.note("%s/%s host %d: compare", s.name, s.prefix, s.host)
	w.h.count("compare", nil)
	w.same(s.fs(), s, s.name+"/"+s.prefix)
	if s.quota == 0 {
		return
	}
	st, err := s.fs().Statfs(context.Background())
	if want := s.m.Used(); err != nil || st.Used != want || st.Total != s.quota {
		w.fatal("%s holds %d of %d, %v, want %d of %d", s.name, st.Used, st.Total, err, want, s.quota)
	}
}
