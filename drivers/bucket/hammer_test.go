package bucket_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

var (
	hammerTime  = flag.Duration("hammer.time", 3*time.Second, "how long TestHammer works on each engine; with -short at most 3s")
	hammerSeed  = flag.Uint64("hammer.seed", 0, "seed of TestHammer; 0: a new one")
	hammerGrace = flag.Duration("hammer.grace", 4*time.Second, "grace time of blobs in TestHammer")
)

const (
	hamWorkers = 8
	hamHosts   = 4
	// hamShared is the quota of the shared volume: tight, so that many calls fail.
	hamShared = 4 << 20
)

// hamQuotas are those of the workers' own volumes. Only the last is large enough for
// files of several blobs.
var hamQuotas = []int64{150_000, 700_000, 40_000, 16 << 20}

// hammer is eight workers on four hosts that share a namespace, with others that watch.
//
// Each worker has a volume and a directory of the shared volume to itself, in which
// every call must end as a model says, whichever host it is made on. Beside that all
// of them fight for the same names in the directory arena of the shared volume, where
// what may be seen is less certain, but never torn.
type hammer struct {
	t      *testing.T
	opts   bucket.Options
	seed   uint64
	end    time.Time
	failed atomic.Bool
	hosts  [hamHosts]*vole.Store
	shared hamVolume
	arena  arena

	mu     sync.Mutex // guards counts
	counts map[string]int
}

// hamVolume is a volume as each host has it open.
type hamVolume struct {
	vols [hamHosts]*vole.Volume
	fs   [hamHosts]*vole.FS
}

func TestHammer(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			opts := e.fresh(t)
			opts.Grace, opts.Maintain = *hammerGrace, -1
			h := newHammer(t, opts)
			h.run()
			if t.Failed() {
				return
			}
			h.report()
		})
	}
}

func newHammer(t *testing.T, opts bucket.Options) *hammer {
	h := &hammer{t: t, opts: opts, seed: *hammerSeed, counts: map[string]int{}}
	if h.seed == 0 {
		h.seed = uint64(time.Now().UnixNano())
	}
	for i := range h.hosts {
		h.hosts[i] = h.host()
	}
	_, err := h.hosts[0].Create(t.Context(), "shared", vole.Spec{Quota: hamShared})
	h.must("create", err)
	h.open("shared", &h.shared)
	h.arena.setUp(h)
	return h
}

// host opens the organisation as another host does.
func (h *hammer) host() *vole.Store {
	b, err := bucket.OpenOrg(context.Background(), h.opts, "acme")
	h.must("open", err)
	s := vole.New(b)
	h.t.Cleanup(func() { h.must("close", s.Close()) })
	return s
}

// open opens a volume on every host.
func (h *hammer) open(name string, v *hamVolume) {
	for i, s := range h.hosts {
		var err error
		v.vols[i], err = s.Get(context.Background(), name)
		h.must("get "+name, err)
		v.fs[i], err = v.vols[i].FS(context.Background())
		h.must("open "+name, err)
	}
}

func (v *hamVolume) close() (err error) {
	for _, f := range v.fs {
		err = errors.Join(err, f.Close())
	}
	return err
}

// run has everybody work until the time is over, and then compares all.
func (h *hammer) run() {
	long := *hammerTime
	if testing.Short() {
		long = min(long, 3*time.Second)
	}
	workers := make([]*worker, hamWorkers)
	for i := range workers {
		workers[i] = newWorker(h, i)
	}
	watch := newWatcher(h)
	h.end = time.Now().Add(long)
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(w.loop)
	}
	for _, fn := range []func(){h.maintain, h.flip, h.copyTrees, h.grow, watch.loop, watch.rows} {
		wg.Go(fn)
	}
	wg.Wait()
	if h.failed.Load() {
		return
	}
	for _, w := range workers {
		w.finish()
	}
	h.arena.finish(h)
	for _, f := range h.shared.fs {
		h.checkLog(f, workers)
	}
	h.checkAll(watch)
}

// checkAll is for the namespace at rest.
func (h *hammer) checkAll(watch *watcher) {
	ctx := context.Background()
	watch.checkRows()
	for i, s := range h.hosts {
		err := s.Check(ctx, vole.CheckOptions{}, func(f driver.Finding) error {
			h.t.Errorf("check on host %d: %+v", i, f)
			return nil
		})
		h.must("check", err)
	}
	s, err := h.shared.fs[0].Statfs(ctx)
	h.must("statfs", err)
	info, err := h.shared.vols[1].Measure(ctx)
	h.must("measure", err)
	if s.Used != int64(info.Used) {
		h.t.Errorf("the shared volume said it holds %d, and holds %d", s.Used, info.Used)
	}
}

func (h *hammer) over() bool { return h.failed.Load() || time.Now().After(h.end) }

// fatal ends the goroutine that calls it, and soon the others.
func (h *hammer) fatal(format string, args ...any) {
	h.t.Helper()
	h.failed.Store(true)
	h.t.Errorf("%s\nthe seed was %d (-hammer.seed)", fmt.Sprintf(format, args...), h.seed)
	runtime.Goexit()
}

func (h *hammer) must(what string, err error) {
	h.t.Helper()
	if err != nil {
		h.fatal("%s: %v", what, err)
	}
}

func (h *hammer) rand(stream int) *rand.Rand { return rand.New(rand.NewPCG(h.seed, uint64(stream))) }

// kinds are the refusals that are counted.
var kinds = []error{vole.ErrQuota, vole.ErrExists, vole.ErrNotExist, vole.ErrNotEmpty, vole.ErrNotDir, vole.ErrIsDir, vole.ErrInvalid,
	vole.ErrPathEscape, vole.ErrPermission, vole.ErrLoop, vole.ErrNoXattr, vole.ErrUnsupported, vole.ErrNotFound, vole.ErrCorrupt}

func (h *hammer) count(what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what]++
	if err == nil {
		return
	}
	for _, k := range kinds {
		if errors.Is(err, k) {
			h.counts["! "+k.Error()]++
			return
		}
	}
	h.counts["! other"]++
}

func (h *hammer) report() {
	var ops, refusals []string
	sum := 0
	for _, k := range slices.Sorted(maps.Keys(h.counts)) {
		if kind, is := strings.CutPrefix(k, "! "); is {
			refusals = append(refusals, fmt.Sprintf("%s %d", kind, h.counts[k]))
			continue
		}
		ops = append(ops, fmt.Sprintf("%s %d", k, h.counts[k]))
		sum += h.counts[k]
	}
	h.t.Logf("seed %d; %d operations: %s; refused: %s", h.seed, sum, strings.Join(ops, ", "), strings.Join(refusals, ", "))
}

// maintain does the background work of the namespace without pause, as a process of
// its own.
func (h *hammer) maintain() {
	ns, err := bucket.Open(context.Background(), h.opts)
	h.must("open", err)
	defer func() { h.must("close", ns.Close()) }()
	for !h.over() {
		err := ns.Maintain(context.Background())
		if err != nil && !errors.Is(err, vole.ErrInUse) {
			h.fatal("maintain: %v", err)
		}
		h.count("maintain", nil)
		time.Sleep(20 * time.Millisecond)
	}
}
