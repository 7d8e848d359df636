package conformance

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

var randomTests = []test{
	{"Durable", func(t *testing.T, e *env) { randomRun(t, e, 1, false, false) }},
	{"Batch", func(t *testing.T, e *env) { randomRun(t, e, 2, true, false) }},
	{"Quota", func(t *testing.T, e *env) { randomRun(t, e, 3, false, true) }},
	{"QuotaBatch", func(t *testing.T, e *env) { randomRun(t, e, 4, true, true) }},
	{"NewSeed", func(t *testing.T, e *env) { randomRun(t, e, newSeed(), true, false) }},
}

// newSeed returns a new seed if newSeedsVar is set, and otherwise always the same one: a change
// must be judged by the same test each time.
func newSeed() uint64 {
	if os.Getenv(newSeedsVar) != "" {
		return uint64(time.Now().UnixNano())
	}
	return 1795336818551650402 // it has found a fault that others had not
}

// newSeedsVar is the environment variable that asks for seeds that are new, as make
// torture does.
const newSeedsVar = "CONFORMANCE_NEW_SEEDS"

// seedVar is the environment variable that sets the seed of all random tests, to run
// a failed one again.
const seedVar = "CONFORMANCE_SEED"

// runner applies random operations to a volume and to a model of it.
type runner struct {
	t       *testing.T
	f       *files
	calls   treemodel.Calls
	rnd     *rand.Rand
	seed    uint64
	trace   []string
	handles []*treemodel.Handle
}

func randomRun(t *testing.T, e *env, seed uint64, batch, withQuota bool) {
	if s := os.Getenv(seedVar); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, seedVar, err)
	}
	ops, quota := 2000, int64(0)
	if testing.Short() {
		ops = 300
	}
	spec := e.h.Spec
	if withQuota {
		need(t, e.caps.Quota && e.caps.Dir, "quotas")
		quota = 20_000
		spec = vole.Spec{Quota: vole.Size(quota)}
	}
	f := e.openFiles(t, e.createSpec(t, "vol", spec), vole.FSOptions{Batch: batch})
	m := treemodel.New(treemodel.Options{Quota: quota, Xattrs: e.caps.Xattrs})
	r := &runner{t: t, f: f, calls: treemodel.Calls{Ctx: f.ctx, Model: m, FS: f.FS}, rnd: rand.New(rand.NewPCG(seed, 0)), seed: seed}
	for i := range ops {
		r.step()
		if i%200 == 199 { // it makes as many calls as those 200 steps
			r.compare()
		}
		if batch && i%250 == 0 {
			must(t, "sync", f.Sync(f.ctx))
		}
	}
	for len(r.handles) > 0 {
		r.closeHandle(0)
	}
	r.compare()
	info, err := f.vol.Measure(f.ctx)
	must(t, "measure", err)
	equal(t, "measured", int64(info.Used), m.Used())
}

// fatal ends the test and says how it came to this.
func (r *runner) fatal(format string, args ...any) {
	r.t.Helper()
	last := r.trace[max(0, len(r.trace)-40):]
	r.t.Fatalf("%s\nrun again with %s=%d; operation %d; the last ones:\n  %s",
		fmt.Sprintf(format, args...), seedVar, r.seed, len(r.trace), strings.Join(last, "\n  "))
}

// compare compares the whole volume and its usage with the model.
func (r *runner) compare() {
	r.t.Helper()
	m := r.calls.Model
	got, err := m.ReadTree(r.f.ctx, r.f.FS)
	if d := m.Tree().Diff(got); err != nil || d != "" {
		r.fatal("the volume is not what the model says, %v:%s", err, d)
	}
	s, err := r.f.Statfs(r.f.ctx)
	if want := m.Used(); err != nil || s.Used != want {
		r.fatal("used %d, %v, want %d", s.Used, err, want)
	}
}

// try makes one call, unless the model cannot tell its outcome, and compares errors. It reports
// whether the call succeeded.
func (r *runner) try(c treemodel.Call) bool {
	r.t.Helper()
	wants, ok := r.calls.Model.Expect(c.Plan)
	if !ok {
		return false
	}
	r.trace = append(r.trace, c.String())
	err := c.Run()
	if len(wants) == 0 && err == nil {
		c.Plan.Apply()
		return true
	}
	for _, want := range wants {
		if want == nil && err == nil || want != nil && checkErr(err, want) == "" {
			return false
		}
	}
	r.fatal("%s: %v, want one of %q", c, err, wants)
	return false
}

func (r *runner) path() string {
	depth := 1 + r.rnd.IntN(3)
	parts := make([]string, depth)
	for i := range parts {
		parts[i] = string(rune('a' + r.rnd.IntN(4)))
	}
	return strings.Join(parts, "/")
}

var linkTargets = []string{"a", "b", "c", "d/a", "../a", "../b/c", "nosuch", "nosuch/x", "/abs", "../../a", "../../../x", "b/../a", "./d"}

func (r *runner) data() []byte {
	return []byte(pattern(r.rnd.IntN(1000), r.rnd.IntN(1<<r.rnd.IntN(14))))
}

// step does one random thing.
func (r *runner) step() {
	p, q := r.path(), r.path()
	flag := r.rnd.IntN(4) == 0
	switch k := r.rnd.IntN(100); {
	case k < 16:
		data, mode := r.data(), []fs.FileMode{0, 0o600, 0o644, 0o755}[r.rnd.IntN(4)]
		r.try(r.calls.WriteFile(p, data, vole.WriteOptions{Mode: mode, Exclusive: flag}))
	case k < 24:
		r.try(r.calls.Mkdir(p, 0o700))
	case k < 30:
		r.try(r.calls.MkdirAll(p, 0o755))
	case k < 34:
		r.try(r.calls.Remove(p))
	case k < 37:
		r.try(r.calls.RemoveAll(p))
	case k < 47:
		r.try(r.calls.Rename(p, q, flag))
	case k < 54:
		r.try(r.calls.Copy(p, q, flag))
	case k < 66:
		r.linkStep(p, q)
	case k < 74:
		r.metaStep(p)
	case k < 90:
		r.handleStep(p)
	default:
		r.lookStep(p)
	}
}

func (r *runner) linkStep(p, q string) {
	switch target := linkTargets[r.rnd.IntN(len(linkTargets))]; {
	case r.rnd.IntN(8) == 0:
		r.try(r.calls.Mkfifo(p))
	case !r.f.e.caps.Links:
	case r.rnd.IntN(2) == 0:
		r.try(r.calls.Link(p, q))
	default:
		r.try(r.calls.Symlink(target, p))
	}
}

func (r *runner) metaStep(p string) {
	switch k := r.rnd.IntN(4); {
	case k == 0:
		// All modes let the owner in: permissions are not under test here.
		r.try(r.calls.Chmod(p, []fs.FileMode{0o700, 0o711, 0o755, 0o777}[r.rnd.IntN(4)]))
	case k == 1:
		r.try(r.calls.Truncate(p, r.rnd.IntN(6000)))
	case !r.f.e.caps.Xattrs:
	case k == 2:
		name, value := fmt.Sprint("user.", r.rnd.IntN(3)), fmt.Sprint(r.rnd.IntN(100))
		r.try(r.calls.Setxattr(p, name, value))
	default:
		r.try(r.calls.Removexattr(p, fmt.Sprint("user.", r.rnd.IntN(3))))
	}
}

// handleStep opens a file, or uses or closes one of those that are open.
func (r *runner) handleStep(p string) {
	if len(r.handles) < 2 || len(r.handles) < 5 && r.rnd.IntN(4) == 0 {
		opts := vole.OpenOptions{Write: true, Create: r.rnd.IntN(2) == 0, Truncate: r.rnd.IntN(4) == 0}
		opts.Exclusive = opts.Create && r.rnd.IntN(4) == 0
		if call, h := r.calls.Open(p, opts); r.try(call) {
			r.handles = append(r.handles, h)
		}
		return
	}
	i := r.rnd.IntN(len(r.handles))
	if r.rnd.IntN(5) == 0 {
		r.closeHandle(i)
		return
	}
	r.useHandle(r.handles[i])
}

func (r *runner) closeHandle(i int) {
	h := r.handles[i]
	r.handles = slices.Delete(r.handles, i, i+1)
	r.try(h.Close())
}

func (r *runner) useHandle(h *treemodel.Handle) {
	ctx := r.f.ctx
	data, off := r.data(), r.rnd.IntN(5000)
	switch r.rnd.IntN(5) {
	case 0:
		r.try(h.WriteAt(ctx, data, off))
	case 1:
		r.try(h.Append(ctx, data))
	case 2:
		r.try(h.Truncate(ctx, off))
	case 3:
		r.try(h.PunchHole(ctx, off, 1+r.rnd.IntN(5000)))
	default:
		r.try(h.ReadAt(ctx, 0, len(h.Data())+1))
	}
}

// lookStep reads something at p, by following links and by not.
func (r *runner) lookStep(p string) {
	switch r.rnd.IntN(3) {
	case 0:
		r.try(r.calls.Stat(p, true))
	case 1:
		r.try(r.calls.Stat(p, false))
	default:
		r.try(r.calls.ReadFile(p))
	}
}
