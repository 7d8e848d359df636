package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

// volumeStep does something with whole volumes.
func (w *worker) volumeStep() {
	switch k := w.rnd.IntN(10); {
	case k < 5:
		w.closeAll(&w.own)
		w.cloneOwn()
	case k < 6:
		w.closeAll(&w.part)
		w.cloneShared()
	default:
		w.dispute()
	}
}

func (w *worker) anyStore() *vole.Store { return w.h.hosts[w.rnd.IntN(hamHosts)] }

// cloneOwn clones the worker's volume, looks at the clone on another host, and removes
// one of the two; the clone may take the place of the original.
func (w *worker) cloneOwn() {
	ctx := context.Background()
	name := fmt.Sprintf("clone-%d-%d", w.i, w.n)
	w.n++
	vol := w.own.v.vols[w.rnd.IntN(hamHosts)]
	if used := w.own.m.Used(); used > 1 {
		_, err := vol.Clone(ctx, name, vole.Spec{Quota: vole.Size(used - 1)})
		w.h.count("clone", err)
		if !errors.Is(err, vole.ErrQuota) {
			w.fatal("a clone of %d bytes with a smaller quota: %v", used, err)
		}
	}
	_, err := vol.Clone(ctx, name, vole.Spec{Quota: vole.Size(w.own.quota)})
	w.allow("clone", name, err)
	var clone hamVolume
	w.h.open(name, &clone)
	host := w.rnd.IntN(hamHosts)
	w.same(clone.fs[host], &w.own, "the clone of "+w.own.name)
	gone, moved := &clone, w.rnd.IntN(2) == 0
	if moved {
		gone, w.own.v = w.own.v, &clone
	} else {
		// Nothing of what is done to the clone is the original's.
		err := clone.fs[host].WriteFile(ctx, "a-new-one", bytesOf(1, w.rnd.IntN(40<<10)), 0o644)
		w.allow("write", name, err, vole.ErrQuota)
		for _, p := range []string{"a", "b"} {
			w.allow("removeall", name, clone.fs[w.rnd.IntN(hamHosts)].RemoveAll(ctx, p))
		}
	}
	w.allow("remove volume", name, gone.vols[w.rnd.IntN(hamHosts)].Remove(ctx))
	if moved {
		_, err := w.anyStore().Rename(ctx, name, w.own.name)
		w.allow("rename volume", name, err)
		got, err := w.anyStore().Get(ctx, w.own.name)
		if err != nil || got.ID() != clone.vols[0].ID() {
			w.fatal("%s is not the volume that was renamed to it: %v", w.own.name, err)
		}
	}
	for i, f := range gone.fs {
		if _, err := f.Stat(ctx, "."); !errors.Is(err, vole.ErrNotFound) {
			w.fatal("host %d: stat in a removed volume: %v", i, err)
		}
		if err := f.WriteFile(ctx, "x", []byte("x"), 0o644); !errors.Is(err, vole.ErrNotFound) {
			w.fatal("host %d: write in a removed volume: %v", i, err)
		}
	}
	w.allow("close", name, gone.close())
}

// cloneShared clones the volume in which all work. What is this worker's must be in the
// clone as it is.
func (w *worker) cloneShared() {
	ctx := context.Background()
	name := fmt.Sprintf("image-%d-%d", w.i, w.n)
	w.n++
	clone, err := w.h.shared.vols[w.rnd.IntN(hamHosts)].Clone(ctx, name, vole.Spec{})
	w.allow("clone", name, err)
	f, err := clone.FS(ctx)
	w.allow("open", name, err)
	w.same(f, &w.part, "the clone of the shared volume")
	info, err := clone.Refresh(ctx)
	w.allow("get", name, err)
	used := info.Used
	if info, err = clone.Measure(ctx); err != nil || info.Used > used {
		w.fatal("%s holds %d, and measures %d, %v", name, used, info.Used, err)
	}
	for i := range commons {
		b, err := f.ReadFile(ctx, fmt.Sprint("arena/common/", i))
		w.allow("read", name, err, vole.ErrNotExist)
		if err == nil && torn(b) != "" {
			w.fatal("%s: common %d is torn: %s", name, i, torn(b))
		}
	}
	w.allow("remove volume", name, w.anyStore().Remove(ctx, name))
	w.allow("close", name, f.Close())
}

// same compares what a volume holds of a side with its model.
func (w *worker) same(f *vole.FS, s *side, what string) {
	w.h.t.Helper()
	got, err := s.m.ReadTree(context.Background(), f)
	if d := s.m.Tree().Diff(got); err != nil || d != "" {
		w.fatal("%s is not what the model says, %v:%s", what, err, d)
	}
}

// dispute tries to make a volume of a name that all others want too.
func (w *worker) dispute() {
	ctx, a, me := context.Background(), &w.h.arena, fmt.Sprintf("%d-%d", w.i, w.n)
	w.n++
	vol, err := w.anyStore().Create(ctx, "disputed", vole.Spec{Quota: 1 << 20, Labels: vole.Labels{"by": me}})
	w.allow("create volume", "disputed", err, vole.ErrExists)
	if err != nil {
		return
	}
	a.mu.Lock()
	was := a.disputed
	a.disputed = me
	a.mu.Unlock()
	if was != "" {
		w.fatal("%s made a volume of a name that %s has", me, was)
	}
	f, err := vol.FS(ctx)
	w.allow("open", "disputed", err)
	want := bytesOf(w.rnd.Uint64(), w.rnd.IntN(100<<10))
	w.allow("write", "disputed", f.WriteFile(ctx, "f", want, 0o644))
	w.allow("close", "disputed", f.Close())
	other, err := w.anyStore().Get(ctx, "disputed")
	w.allow("get", "disputed", err)
	f, err = other.FS(ctx)
	w.allow("open", "disputed", err)
	got, err := f.ReadFile(ctx, "f")
	if err != nil || other.ID() != vol.ID() || other.Info().Labels["by"] != me || !bytes.Equal(got, want) {
		w.fatal("the volume of %s is %v, and holds %s, %v", me, other.Info(), treemodel.Digest(got), err)
	}
	a.mu.Lock()
	a.disputed = ""
	a.mu.Unlock()
	w.allow("remove volume", "disputed", other.Remove(ctx))
	w.allow("close", "disputed", f.Close())
}
