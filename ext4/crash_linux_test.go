//go:build linux

package ext4_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
	"github.com/volehq/vole/internal/testing/ext4workload"
)

var (
	crashStates = flag.Int("crash.states", 300, "states after a crash that TestCrash tries in all")
	crashSeed   = flag.Uint64("crash.seed", 1, "seed of the crash tests")
)

// crashRun is what was done to a file system, and what it held at each moment.
type crashRun struct {
	t     *testing.T
	name  string
	size  int64
	batch bool
	dev   *crashDevice
	base  pages // before the first event
	fs    *ext4workload.FS
	m     *ext4workload.Model
	rand  *rand.Rand
	trees []ext4oracle.Tree // after each operation; the first is before all
	ops   []string
	began []int // events there were when operation i+1 began
	sure  []crashPoint
}

// crashPoint says that from an event on, operation op was durable.
type crashPoint struct{ event, op int }

// newCrashRun formats an image with the smallest log, and opens it.
func newCrashRun(t *testing.T, size int64, batch bool, seed uint64) *crashRun {
	r := &crashRun{t: t, size: size, batch: batch, m: ext4workload.NewModel(4096), rand: rand.New(rand.NewPCG(seed, 4))}
	r.dev = newCrashDevice(size, nil)
	if _, err := ext4.Format(r.dev, size, ext4.FormatOptions{Journal: 4 * mega}); err != nil {
		t.Fatal(err)
	}
	r.openFS()
	r.trees = append(r.trees, r.m.Tree())
	return r
}

func (r *crashRun) openFS() {
	r.t.Helper()
	fs, err := ext4.Open(r.dev, ext4.OpenOptions{Size: r.size, Batch: r.batch})
	if err != nil {
		r.t.Fatal(err)
	}
	r.fs = ext4workload.NewFS(fs)
}

// applyOp does an operation that must agree with the model.
func (r *crashRun) applyOp(o *ext4workload.Op) {
	r.t.Helper()
	r.began = append(r.began, r.dev.eventCount())
	err := r.fs.Apply(context.Background(), o)
	if !ext4workload.Expected(o, err, true) {
		if want := r.m.Apply(o); !sameKind(want, err) {
			r.t.Fatalf("%s: %v, and the model says %v; after\n%s", o, err, want, strings.Join(r.ops, "\n"))
		}
	}
	if r.dev.record {
		r.ops = append(r.ops, o.String())
		r.trees = append(r.trees, r.m.Tree())
		// What changed nothing made nothing durable that was written to open files before.
		if !r.batch && !o.IsFileOp() && err == nil && r.dev.eventCount() > r.began[len(r.began)-1] {
			r.noteDurable()
		}
	} else {
		r.began = r.began[:0]
	}
}

// noteDurable notes that all that was done is durable.
func (r *crashRun) noteDurable() {
	r.sure = append(r.sure, crashPoint{r.dev.eventCount(), len(r.trees) - 1})
}

func (r *crashRun) syncFS() {
	if err := r.fs.FS.Sync(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.noteDurable()
}

// startRecording ends the preparations.
func (r *crashRun) startRecording() {
	r.syncFS()
	if err := r.fs.FS.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.m.CloseAll()
	r.base = r.dev.currentPages()
	r.dev = newCrashDevice(r.size, r.base)
	r.dev.record = true
	r.sure, r.trees = []crashPoint{{0, 0}}, []ext4oracle.Tree{r.m.Tree()}
	r.openFS()
}

// applyRandomOps does n random operations, some of them on files that have no name any more.
func (r *crashRun) applyRandomOps(n int, opts ext4workload.Options) {
	opts.Crash, opts.Checked = true, true
	gen := ext4workload.NewGen(r.rand.Uint64(), r.m, opts)
	for k := range n {
		r.applyOp(gen.Next())
		if r.dev.record && r.rand.IntN(25) == 0 {
			r.syncFS()
		}
		if k%97 == 96 && r.dev.record {
			r.m.CloseAll()
			if err := r.fs.FS.Close(); err != nil {
				r.t.Fatal(err)
			}
			r.noteDurable()
			r.openFS()
		}
	}
}

// crashScenarios are what is done before a crash.
var crashScenarios = []struct {
	name  string
	size  int64
	batch bool
	run   func(r *crashRun)
}{
	{"durable", 24 * mega, false, func(r *crashRun) {
		r.startRecording()
		r.applyRandomOps(250, ext4workload.Options{Bytes: 50_000, Files: 80})
	}},
	{"batch", 24 * mega, true, func(r *crashRun) {
		r.startRecording()
		r.applyRandomOps(900, ext4workload.Options{Bytes: 20_000, Files: 200, LongNames: true})
	}},
	{"full", 10 * mega, false, func(r *crashRun) {
		r.applyRandomOps(200, ext4workload.Options{Bytes: 200_000, Files: 100})
		r.startRecording()
		r.applyRandomOps(150, ext4workload.Options{Bytes: 200_000, Files: 100})
	}},
	{"fragmented", 48 * mega, false, func(r *crashRun) { r.makeFragmentedFile(3000) }},
	{"fragmented-batch", 48 * mega, true, func(r *crashRun) { r.makeFragmentedFile(2000) }},
	{"trees", 64 * mega, false, func(r *crashRun) { r.makeManyFiles(700) }},
	{"trees-batch", 64 * mega, true, func(r *crashRun) { r.makeManyFiles(500) }},
}

// makeFragmentedFile removes and cuts files with many extents.
func (r *crashRun) makeFragmentedFile(extents int64) {
	for k, name := range []string{"a", "b", "c"} {
		r.applyOp(&ext4workload.Op{Kind: ext4workload.Open, Slot: k, Path: name, Mode: 0o644})
		for i := range extents {
			r.applyOp(&ext4workload.Op{Kind: ext4workload.WriteAt, Slot: k, Off: 2 * i * 4096, Len: 4000, Seed: uint64(i)<<3 | 7})
		}
	}
	r.startRecording()
	file := func(o ext4workload.Op) { r.applyOp(&o) }
	file(ext4workload.Op{Kind: ext4workload.Open, Slot: 0, Path: "a"})
	file(ext4workload.Op{Kind: ext4workload.Remove, Path: "a"})
	file(ext4workload.Op{Kind: ext4workload.Truncate, Slot: -1, Path: "b", Len: 100_000})
	file(ext4workload.Op{Kind: ext4workload.WriteFile, Path: "d", Len: 300_000, Seed: 5})
	file(ext4workload.Op{Kind: ext4workload.Close, Slot: 0})
	file(ext4workload.Op{Kind: ext4workload.WriteFile, Path: "c", Len: 2_500_000, Seed: 6})
	file(ext4workload.Op{Kind: ext4workload.Truncate, Slot: -1, Path: "b", Len: 1 << 30})
	file(ext4workload.Op{Kind: ext4workload.Truncate, Slot: -1, Path: "b", Len: 0})
	file(ext4workload.Op{Kind: ext4workload.Mkdir, Path: "end", Mode: 0o700})
	r.syncFS()
}

// makeManyFiles copies, moves and removes trees.
func (r *crashRun) makeManyFiles(n int) {
	for i := range n {
		dir := fmt.Sprintf("tree/%d", i%7)
		if i%3 == 0 {
			dir += fmt.Sprintf("/%d/deep", i%5)
		}
		r.applyOp(&ext4workload.Op{Kind: ext4workload.WriteFile, Path: fmt.Sprintf("%s/%d%s", dir, i, strings.Repeat("n", i%50)), Len: int64(i % 9000), Seed: uint64(i)})
	}
	r.startRecording()
	r.applyOp(&ext4workload.Op{Kind: ext4workload.Copy, Path: "tree", Path2: "new/copy"})
	r.applyOp(&ext4workload.Op{Kind: ext4workload.RemoveAll, Path: "tree"})
	r.applyOp(&ext4workload.Op{Kind: ext4workload.Mkdir, Path: "tree", Mode: 0o755})
	r.applyOp(&ext4workload.Op{Kind: ext4workload.Rename, Path: "new/copy", Path2: "tree/moved"})
	r.applyOp(&ext4workload.Op{Kind: ext4workload.RemoveAll, Path: "tree"})
	r.syncFS()
}

func TestCrash(t *testing.T) {
	ext4oracle.RequireRoot(t)
	rounds := max(*crashStates/20_000, 1)
	for k, s := range crashScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for round := range rounds {
				r := newCrashRun(t, s.size, s.batch, *crashSeed*1000+uint64(100*round+k))
				r.name = s.name
				s.run(r)
				r.checkCrashStates(*crashStates / len(crashScenarios) / rounds)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// checkCrashStates tries n states that a crash could have left.
func (r *crashRun) checkCrashStates(n int) {
	r.t.Helper()
	events := r.dev.events
	at := make([]int, n)
	for i := range at {
		at[i] = r.rand.IntN(len(events) + 1)
	}
	slices.Sort(at)
	synced := newCrashDevice(r.size, r.base)
	done := 0
	for i, end := range at {
		for k := end - 1; k >= done; k-- {
			if events[k].data == nil {
				for _, e := range events[done : k+1] {
					synced.applyWrite(e.data, e.off)
				}
				done = k + 1
			}
		}
		d := newCrashDevice(r.size, synced.currentPages())
		how := "all"
		if r.rand.IntN(3) == 0 {
			for _, e := range events[done:end] {
				d.applyWrite(e.data, e.off)
			}
		} else {
			how = "some"
			for _, e := range events[done:end] {
				d.tearEvent(r.rand, e)
			}
		}
		what := fmt.Sprintf("state %d: %s of events %d to %d of %d", i, how, done, end, len(events))
		if !r.checkRecovery(what, d, done, end, i%12 == 0) {
			return
		}
	}
}

// checkRecovery checks one state.
func (r *crashRun) checkRecovery(what string, d *crashDevice, synced, end int, kernel bool) bool {
	r.t.Helper()
	image := newCrashDevice(r.size, d.currentPages())
	first := 0
	for _, p := range r.sure {
		if p.event <= synced {
			first = p.op
		}
	}
	last := len(r.trees) - 1
	for last > first && r.began[last-1] > end {
		last--
	}
	fail := func(format string, args ...any) bool {
		r.t.Helper()
		path := filepath.Join(os.TempDir(), "crash-"+r.name+".raw")
		if os.Getenv("CRASH_KEEP") != "" {
			_ = image.saveImage(path)
		}
		r.t.Errorf("%s, after %v: %s", what, r.ops[first:last], fmt.Sprintf(format, args...))
		return false
	}
	d.record = true
	got, err := r.reopenAfterCrash(d)
	if err != nil {
		return fail("%v", err)
	}
	found := -1
	for k := first; k <= last && found < 0; k++ {
		if len(ext4oracle.Diff(r.trees[k], got, ext4oracle.SameContent)) == 0 {
			found = k
		}
	}
	if found < 0 {
		return fail("the tree is none of those between %d and %d: to the last %s", first, last,
			strings.Join(ext4oracle.Diff(r.trees[last], got, ext4oracle.SameContent), "\n"))
	}
	// A crash while it recovers.
	for range 2 {
		again := newCrashDevice(r.size, image.currentPages())
		cut := r.rand.IntN(len(d.events) + 1)
		for _, e := range d.events[:cut] {
			again.applyWrite(e.data, e.off)
		}
		twice, err := r.reopenAfterCrash(again)
		if err != nil {
			return fail("recovery after %d of %d events of a recovery: %v", cut, len(d.events), err)
		}
		if diff := ext4oracle.Diff(r.trees[found], twice, ext4oracle.SameContent); len(diff) > 0 {
			return fail("recovery after %d of %d events of a recovery: %s", cut, len(d.events), strings.Join(diff, "\n"))
		}
	}
	if kernel {
		if err := r.compareKernelRecovery(image, d, got); err != nil {
			return fail("%v", err)
		}
	}
	return true
}

// reopenAfterCrash recovers a device, checks it, and returns what is in it.
func (r *crashRun) reopenAfterCrash(d *crashDevice) (ext4oracle.Tree, error) {
	fs, err := ext4.Open(d, ext4.OpenOptions{Size: r.size})
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	tree := ext4oracle.Tree{}
	if err := addPathToTree(tree, fs, "."); err != nil {
		return nil, err
	}
	for p := range tree {
		if strings.HasPrefix(p, "lost+found/") {
			return nil, fmt.Errorf("%s is there", p)
		}
	}
	if err := fs.Close(); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	return tree, checkWithoutProblems(d, r.size)
}

// checkWithoutProblems looks for faults by our own means.
func checkWithoutProblems(d ext4.Device, size int64) error {
	var list []string
	err := ext4.Check(context.Background(), d, ext4.CheckOptions{Size: size}, func(p ext4.Problem) error {
		list = append(list, fmt.Sprint(p))
		return nil
	})
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("check: %s", strings.Join(list[:min(len(list), 10)], "; "))
	}
	return err
}

// compareKernelRecovery lets Linux and e2fsck recover a state, and e2fsck check ours.
func (r *crashRun) compareKernelRecovery(image, ours *crashDevice, want ext4oracle.Tree) error {
	r.t.Helper()
	dir := r.t.TempDir()
	opts := ext4oracle.SameContent
	opts.Mtime = false
	opts.DirMtime = true
	path := filepath.Join(dir, "ours.raw")
	if err := ours.saveImage(path); err != nil {
		return err
	}
	if clean, out := ext4oracle.FsckStatus(path); !clean {
		return fmt.Errorf("e2fsck of what we recovered: %s", out)
	}
	if err := image.saveImage(path); err != nil {
		return err
	}
	mount := ext4oracle.Mount(r.t, path)
	got, err := ext4oracle.ReadTree(mount, ext4oracle.ReadOptions{})
	ext4oracle.Unmount(r.t, mount)
	if err != nil {
		return fmt.Errorf("recovered by Linux: %w", err)
	}
	if diff := ext4oracle.Diff(want, got, opts); len(diff) > 0 {
		return fmt.Errorf("recovered by Linux: %s", strings.Join(diff, "\n"))
	}
	if clean, out := ext4oracle.FsckStatus(path); !clean {
		return fmt.Errorf("e2fsck of what Linux recovered: %s", out)
	}
	if err := image.saveImage(path); err != nil {
		return err
	}
	out, err := ext4oracle.Repair(path)
	if err != nil || strings.Contains(out, "? yes") {
		return fmt.Errorf("e2fsck -fy: %v: %s", err, out)
	}
	if diff := ext4oracle.Diff(want, ext4oracle.Snapshot(r.t, path), opts); len(diff) > 0 {
		return fmt.Errorf("recovered by e2fsck: %s", strings.Join(diff, "\n"))
	}
	return os.Remove(path)
}
