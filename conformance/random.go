package conformance

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
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
const seedVar = "DRIVERTEST_SEED"

// runner applies random operations to a volume and to a model of it.
type runner struct {
	t       *testing.T
	f       *files
	m       *model
	rnd     *rand.Rand
	seed    uint64
	trace   []string
	handles []handle
}

type handle struct {
	h *vole.File
	n *modelInode
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
	r := &runner{t: t, f: f, m: newModel(quota), rnd: rand.New(rand.NewPCG(seed, 0)), seed: seed}
	for i := range ops {
		r.step()
		if i%100 == 99 {
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
	equal(t, "measured", int64(info.Used), r.m.used())
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
	if d := r.m.tree().diff(r.f.modelTree()); d != "" {
		r.fatal("the volume is not what the model (\"was\") says:%s", d)
	}
	s, err := r.f.Statfs(r.f.ctx)
	if want := r.m.used(); err != nil || s.Used != want {
		r.fatal("used %d, %v, want %d", s.Used, err, want)
	}
}

// try makes one call, unless the model cannot tell its outcome, and compares errors.
func (r *runner) try(what string, model func() []error, call func() error) bool {
	r.t.Helper()
	wants := model()
	if slices.Contains(wants, errUnsure) {
		return false
	}
	r.trace = append(r.trace, what)
	err := call()
	if wants == nil {
		if err != nil {
			r.fatal("%s: %v, want success", what, err)
		}
		return true
	}
	var msg string
	for _, want := range wants {
		if want == nil {
			if err == nil {
				return true
			}
		} else if msg = checkErr(err, want); msg == "" {
			return true
		}
	}
	r.fatal("%s: %v, want one of %q", what, err, wants)
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
	ctx, f, m := r.f.ctx, r.f, r.m
	flag := r.rnd.IntN(4) == 0
	switch k := r.rnd.IntN(100); {
	case k < 16:
		data, mode := r.data(), []fs.FileMode{0, 0o600, 0o644, 0o755}[r.rnd.IntN(4)]
		r.try(fmt.Sprintf("write %d bytes to %s, mode %v, exclusive %v", len(data), p, mode, flag),
			func() []error { return m.writeFile(p, data, mode, flag) },
			func() error {
				_, err := f.WriteFrom(ctx, p, strings.NewReader(string(data)), vole.WriteOptions{Mode: mode, Exclusive: flag})
				return err
			})
	case k < 24:
		r.try("mkdir "+p, func() []error { return m.mkdir(p, 0o700) }, func() error { return f.Mkdir(ctx, p, 0o700) })
	case k < 30:
		r.try("mkdirall "+p, func() []error { return m.mkdirAll(p) }, func() error { return f.MkdirAll(ctx, p, 0o755) })
	case k < 34:
		r.try("remove "+p, func() []error { return m.remove(p) }, func() error { return f.Remove(ctx, p) })
	case k < 37:
		r.try("removeall "+p, func() []error { return m.removeAll(p) }, func() error { return f.RemoveAll(ctx, p) })
	case k < 47:
		r.try(fmt.Sprintf("rename %s to %s, keep %v", p, q, flag),
			func() []error { return m.rename(p, q, flag) },
			func() error { return f.Rename(ctx, p, q, vole.RenameOptions{NoReplace: flag}) })
	case k < 54:
		r.try(fmt.Sprintf("copy %s to %s, keep %v", p, q, flag),
			func() []error { return m.copy(p, q, flag) },
			func() error { return f.Copy(ctx, p, q, vole.CopyOptions{NoReplace: flag}) })
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
	ctx, f, m := r.f.ctx, r.f, r.m
	switch target := linkTargets[r.rnd.IntN(len(linkTargets))]; {
	case r.rnd.IntN(8) == 0:
		r.try("mkfifo "+p, func() []error { return m.mkfifo(p) }, func() error { return f.Mknod(ctx, p, fs.ModeNamedPipe|0o600, 0) })
	case !f.e.caps.Links:
	case r.rnd.IntN(2) == 0:
		r.try("link "+p+" as "+q, func() []error { return m.link(p, q) }, func() error { return f.Link(ctx, p, q) })
	default:
		r.try("symlink "+p+" to "+target, func() []error { return m.symlink(target, p) }, func() error { return f.Symlink(ctx, target, p) })
	}
}

func (r *runner) metaStep(p string) {
	ctx, f, m := r.f.ctx, r.f, r.m
	switch k := r.rnd.IntN(4); {
	case k == 0:
		// All modes let the owner in: permissions are not under test here.
		mode := []fs.FileMode{0o700, 0o711, 0o755, 0o777}[r.rnd.IntN(4)]
		r.try(fmt.Sprintf("chmod %s to %v", p, mode), func() []error { return m.chmod(p, mode) }, func() error { return f.Chmod(ctx, p, mode) })
	case k == 1:
		size := r.rnd.IntN(6000)
		r.try(fmt.Sprintf("truncate %s to %d", p, size), func() []error { return m.truncate(p, size) }, func() error { return f.Truncate(ctx, p, int64(size)) })
	case !f.e.caps.Xattrs:
	case k == 2:
		name, v := fmt.Sprint("user.", r.rnd.IntN(3)), fmt.Sprint(r.rnd.IntN(100))
		r.try("setxattr "+name+" of "+p, func() []error { return m.setxattr(p, name, v) }, func() error { return f.Setxattr(ctx, p, name, []byte(v)) })
	default:
		name := fmt.Sprint("user.", r.rnd.IntN(3))
		r.try("removexattr "+name+" of "+p, func() []error { return m.removexattr(p, name) }, func() error { return f.Removexattr(ctx, p, name) })
	}
}

// handleStep opens a file, or uses or closes one of those that are open.
func (r *runner) handleStep(p string) {
	if len(r.handles) < 2 || len(r.handles) < 5 && r.rnd.IntN(4) == 0 {
		opts := vole.OpenOptions{Write: true, Create: r.rnd.IntN(2) == 0, Truncate: r.rnd.IntN(4) == 0}
		opts.Exclusive = opts.Create && r.rnd.IntN(4) == 0
		var hd handle
		done := r.try(fmt.Sprintf("open %s with %+v", p, opts),
			func() (errs []error) { hd.n, errs = r.m.open(p, opts); return errs },
			func() (err error) { hd.h, err = r.f.Open(r.f.ctx, p, opts); return err })
		if done && hd.n != nil {
			r.handles = append(r.handles, hd)
		}
		return
	}
	i := r.rnd.IntN(len(r.handles))
	if r.rnd.IntN(5) == 0 {
		r.closeHandle(i)
		return
	}
	r.useHandle(r.handles[i], i)
}

func (r *runner) closeHandle(i int) {
	hd := r.handles[i]
	r.handles = slices.Delete(r.handles, i, i+1)
	r.try(fmt.Sprint("close handle ", i), func() []error { hd.n.opens--; return nil }, hd.h.Close)
}

func (r *runner) useHandle(hd handle, i int) {
	ctx, m := r.f.ctx, r.m
	data, off := r.data(), r.rnd.IntN(5000)
	switch r.rnd.IntN(5) {
	case 0:
		r.try(fmt.Sprintf("handle %d: write %d at %d", i, len(data), off),
			func() []error { return m.writeAt(hd.n, data, off) },
			func() error { _, err := hd.h.WriteAt(ctx, data, int64(off)); return err })
	case 1:
		end := int64(len(hd.n.data))
		r.try(fmt.Sprintf("handle %d: append %d", i, len(data)),
			func() []error { return m.writeAt(hd.n, data, len(hd.n.data)) },
			func() error {
				at, err := hd.h.Append(ctx, data)
				if err == nil && at != end && len(data) > 0 {
					return fmt.Errorf("appended at %d, want %d", at, end)
				}
				return err
			})
	case 2:
		r.try(fmt.Sprintf("handle %d: truncate to %d", i, off),
			func() []error { return m.resize(hd.n, off) },
			func() error { return hd.h.Truncate(ctx, int64(off)) })
	case 3:
		length := 1 + r.rnd.IntN(5000)
		r.try(fmt.Sprintf("handle %d: punch %d at %d", i, length, off),
			func() []error { return m.punch(hd.n, off, length) },
			func() error { return hd.h.PunchHole(ctx, int64(off), int64(length)) })
	default:
		r.readHandle(hd, i)
	}
}

func (r *runner) readHandle(hd handle, i int) {
	r.try(fmt.Sprintf("handle %d: read", i), func() []error { return nil }, func() error {
		b := make([]byte, len(hd.n.data)+1)
		n, err := hd.h.ReadAt(r.f.ctx, b, 0)
		if err != io.EOF || string(b[:n]) != string(hd.n.data) {
			return fmt.Errorf("read %d bytes, %w, want %d; first difference at %d", n, err, len(hd.n.data), firstDiff(b[:n], hd.n.data))
		}
		e, err := hd.h.Stat(r.f.ctx)
		if err == nil && (e.Size != int64(len(hd.n.data)) || int(e.Nlink) != hd.n.nlink) {
			return fmt.Errorf("size %d and %d names, want %d and %d", e.Size, e.Nlink, len(hd.n.data), hd.n.nlink)
		}
		return err
	})
}

// lookStep reads something at p, by following links and by not.
func (r *runner) lookStep(p string) {
	ctx := r.f.ctx
	var n *modelInode
	find := func(follow bool) func() []error {
		return func() (errs []error) { n, errs = r.m.lookupInode(p, follow); return errs }
	}
	same := func(e vole.Entry, err error) error {
		if err == nil && n != nil && !n.isLink() && (e.Mode != n.mode || n.isFile() && e.Size != int64(len(n.data))) {
			return fmt.Errorf("%v of %d bytes, want %v of %d", e.Mode, e.Size, n.mode, len(n.data))
		}
		return err
	}
	switch r.rnd.IntN(3) {
	case 0:
		r.try("stat "+p, find(true), func() error { return same(r.f.Stat(ctx, p)) })
	case 1:
		r.try("lstat "+p, find(false), func() error { return same(r.f.Lstat(ctx, p)) })
	default:
		read := func() []error {
			errs := find(true)()
			switch {
			case errs != nil:
				return errs
			case n.isDir():
				return fail(vole.ErrIsDir)
			case !n.isFile():
				return fail(vole.ErrUnsupported)
			}
			return nil
		}
		r.try("read "+p, read, func() error {
			b, err := r.f.ReadFile(ctx, p)
			if err == nil && string(b) != string(n.data) {
				return fmt.Errorf("%d bytes, want %d; first difference at %d", len(b), len(n.data), firstDiff(b, n.data))
			}
			return err
		})
	}
}
