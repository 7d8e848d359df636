//go:build linux

package ext4_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
	"github.com/volehq/vole/internal/testing/ext4workload"
)

var (
	randomOps  = flag.Int("random.ops", 5000, "operations of TestRandom in all")
	randomSeed = flag.Uint64("random.seed", 1, "seed of the random tests")
)

const mega = 1 << 20

// randomImage is an image that random operations are done on.
type randomImage struct {
	name   string
	size   int64
	mke2fs []string // nil: ext4.Format
	opts   ext4workload.Options
	batch  bool
	small  bool // it is full now and then
}

var normal = ext4workload.Options{Bytes: 400_000, Files: 250}

var randomImages = []randomImage{
	{name: "16MiB", size: 16 * mega, opts: ext4workload.Options{Bytes: 100_000, Files: 150}, small: true},
	{name: "full-8MiB", size: 8 * mega, opts: ext4workload.Options{Bytes: 900_000, Files: 400, LongNames: true}, small: true, batch: true},
	{name: "full-9MiB-durable", size: 9 * mega, opts: ext4workload.Options{Bytes: 500_000, Files: 400}, small: true},
	{name: "256MiB", size: 256 * mega, opts: normal},
	{name: "batch-2GiB", size: 2048 * mega, opts: ext4workload.Options{Bytes: 3_000_000, Files: 400, Far: 1 << 30}, batch: true},
	{name: "bigdirs", size: 256 * mega, opts: ext4workload.Options{Bytes: 500, Files: 3000, LongNames: true}, batch: true},
	{name: "sparse-4TiB", size: 4 << 40, opts: ext4workload.Options{Bytes: 400_000, Files: 200, Far: 15 << 40}, batch: true},
	{name: "mke2fs", size: 64 * mega, mke2fs: []string{}, opts: normal},
	{name: "nochecksums", size: 64 * mega, mke2fs: []string{"-O", "^metadata_csum"}, opts: normal, batch: true},
	{name: "32bit", size: 64 * mega, mke2fs: []string{"-O", "^64bit"}, opts: normal},
	{name: "meta_bg", size: 300 * mega, mke2fs: []string{"-O", "meta_bg,^resize_inode"}, opts: normal, batch: true},
	{name: "orphan_file", size: 64 * mega, mke2fs: []string{"-O", "orphan_file,metadata_csum_seed"}, opts: normal},
	{name: "nodirindex", size: 64 * mega, mke2fs: []string{"-O", "^dir_index"}, opts: normal, batch: true},
	{name: "large_dir", size: 64 * mega, mke2fs: []string{"-O", "large_dir"}, opts: ext4workload.Options{Bytes: 300, Files: 2000, LongNames: true}, batch: true},
	{name: "noflexbg", size: 300 * mega, mke2fs: []string{"-O", "^flex_bg"}, opts: normal},
	{name: "inode512", size: 64 * mega, mke2fs: []string{"-I", "512"}, opts: normal, batch: true},
	{name: "1k", size: 64 * mega, mke2fs: []string{"-b", "1024"}, opts: normal},
	{name: "2k", size: 64 * mega, mke2fs: []string{"-b", "2048", "-O", "large_dir"}, opts: ext4workload.Options{Bytes: 20000, Files: 1500, LongNames: true}, batch: true},
	{name: "1k-small", size: 9 * mega, mke2fs: []string{"-b", "1024"}, opts: ext4workload.Options{Bytes: 300_000, Files: 300, LongNames: true}, small: true, batch: true},
	{name: "nojournal", size: 64 * mega, mke2fs: []string{"-O", "^has_journal"}, opts: normal},
}

func TestRandom(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for k, ri := range randomImages {
		t.Run(ri.name, func(t *testing.T) {
			t.Parallel()
			n := max(*randomOps/len(randomImages), 50)
			r := newRandomRun(t, ri, *randomSeed*1000+uint64(k))
			rounds := max(min(n/100, 4), n/2000)
			for i := range rounds {
				r.runRound(i, n/rounds)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// noSync is an image on a host of which nobody fears a crash.
type noSync struct{ *os.File }

func (noSync) Sync() error { return nil }

// randomRun is a file system, and a model of what should be in it.
type randomRun struct {
	t       *testing.T
	ri      randomImage
	image   string
	file    *os.File
	w       *ext4workload.FS
	m       *ext4workload.Model
	gen     *ext4workload.Gen
	host    *ext4workload.Gen
	history []string
	full    int // operations that found no space
}

func newRandomRun(t *testing.T, ri randomImage, seed uint64) *randomRun {
	block := int64(4096)
	if k := slices.Index(ri.mke2fs, "-b"); k >= 0 {
		block, _ = strconv.ParseInt(ri.mke2fs[k+1], 10, 64)
	}
	r := &randomRun{t: t, ri: ri, m: ext4workload.NewModel(block)}
	if ri.mke2fs == nil {
		r.image = newImageFile(t, ri.size)
	} else {
		r.image = filepath.Join(t.TempDir(), "disk.raw")
		ext4oracle.Mke2fs(t, r.image, ri.size, ri.mke2fs...)
	}
	ri.opts.Checked = true
	r.gen = ext4workload.NewGen(seed, r.m, ri.opts)
	host := ri.opts
	host.Host = true
	r.host = ext4workload.NewGen(seed+1, r.m, host)
	return r
}

func (r *randomRun) openFS(batch bool) {
	r.t.Helper()
	f, err := os.OpenFile(r.image, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	fs, err := ext4.Open(noSync{f}, ext4.OpenOptions{Size: r.ri.size &^ 4095, Batch: batch})
	if err != nil {
		r.fatalf("open: %v", err)
	}
	r.file, r.w = f, ext4workload.NewFS(fs)
}

func (r *randomRun) closeFS() {
	r.t.Helper()
	r.m.CloseAll()
	if err := r.w.FS.Close(); err != nil {
		r.fatalf("close: %v", err)
	}
	r.file.Close()
}

func (r *randomRun) fatalf(format string, args ...any) {
	r.t.Helper()
	from := max(len(r.history)-60, 0)
	r.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(r.history[from:], "\n"))
}

// runRound does operations, checks the image by all means, lets the kernel write some, and
// checks again.
func (r *randomRun) runRound(i, n int) {
	r.t.Helper()
	r.openFS(r.ri.batch != (i%3 == 2))
	for k := range n {
		r.applyRandomOp()
		if k == n/2 && i%2 == 0 {
			r.closeFS()
			r.openFS(r.ri.batch)
		}
	}
	if i%2 == 1 {
		if err := r.w.CloseAll(); err != nil {
			r.fatalf("closing files: %v", err)
		}
		r.m.CloseAll()
	}
	r.compareWithModel("before the end", readTreeOf(r.t, r.w.FS))
	r.closeFS()
	if clean, output := ext4oracle.FsckStatus(r.image); !clean {
		r.fatalf("e2fsck: %s", output)
	}
	ours := r.reopenAndRead()
	r.compareWithModel("opened again", ours)
	r.compareWithKernel(ours, max(n/10, 4))
	r.compareWithModel("after Linux wrote", r.reopenAndRead())
}

func (r *randomRun) reopenAndRead() ext4oracle.Tree {
	r.t.Helper()
	fs := openImageFile(r.t, r.image, ext4.OpenOptions{ReadOnly: true})
	defer fs.Close()
	tree := readTreeOf(r.t, fs)
	for p := range tree {
		if strings.HasPrefix(p, "lost+found/") {
			r.fatalf("%s was left", p)
		}
	}
	return tree
}

// compareWithModel fails the test when a tree is not that of the model.
func (r *randomRun) compareWithModel(what string, got ext4oracle.Tree) {
	r.t.Helper()
	want := r.m.Tree()
	diff := ext4oracle.Diff(want, got, ext4oracle.SameContent)
	for p, n := range want {
		if g := got[p]; g != nil && n.Mtime != (ext4oracle.Time{}) && n.Mtime != g.Mtime {
			diff = append(diff, fmt.Sprintf("%q: mtime %v, not %v: %s", p, g.Mtime, n.Mtime, n))
		}
	}
	if len(diff) > 0 {
		r.fatalf("%s: %s", what, strings.Join(diff, "\n"))
	}
}

// compareWithKernel compares what the kernel shows, and lets it do operations.
func (r *randomRun) compareWithKernel(ours ext4oracle.Tree, n int) {
	r.t.Helper()
	dir := ext4oracle.Mount(r.t, r.image)
	got, err := ext4oracle.ReadTree(dir, ext4oracle.ReadOptions{})
	if err != nil {
		r.fatalf("Linux: %v", err)
	}
	opts := ext4oracle.SameImage
	opts.Atime = true
	if diff := ext4oracle.Diff(ours, got, opts); len(diff) > 0 {
		r.fatalf("Linux sees another tree: %s", strings.Join(diff, "\n"))
	}
	h := ext4workload.NewHost(dir)
	for range n {
		o := r.host.Next()
		r.history = append(r.history, "Linux: "+o.String())
		err := h.Apply(o)
		if err != nil {
			r.m.ForgetTimes() // it may have done some
		}
		if ext4workload.Expected(o, err, r.ri.small) {
			if data, size := h.Partial(o); !r.m.Partly(o, data, size) {
				r.fatalf("Linux left something else")
			}
			continue
		}
		want := r.m.Apply(o)
		if o.Kind == ext4workload.Removexattr && want != nil {
			continue // Linux first looks whether there could be such an attribute
		}
		if want != nil && err != nil && (o.Kind == ext4workload.Rename || o.Kind == ext4workload.MkdirAll) {
			continue // when there are two reasons, it may tell the other one
		}
		if o.Kind == ext4workload.Punch && ext4workload.Errno(err) == syscall.EFBIG {
			continue // also where there is nothing
		}
		if !sameKind(want, err) {
			r.fatalf("the model is wrong: %v, Linux says %v", want, err)
		}
	}
	r.m.CloseAll()
	h.CloseAll()
	ext4oracle.Unmount(r.t, dir)
}

// applyRandomOp does one operation on both.
func (r *randomRun) applyRandomOp() {
	r.t.Helper()
	o := r.gen.Next()
	if len(r.history) > 10_000 {
		r.history = append(r.history[:0], r.history[len(r.history)-100:]...)
	}
	r.history = append(r.history, o.String())
	before := r.w.FS.Usage()
	err := r.w.Apply(r.t.Context(), o)
	if ext4workload.Expected(o, err, r.ri.small) {
		r.history = append(r.history, "  "+err.Error())
		r.full++
		r.checkAfterNoSpace(o, before)
		return
	}
	want := r.m.Apply(o)
	if !sameKind(want, err) {
		r.fatalf("%v, and the model says %v", err, want)
	}
	if err != nil {
		r.history[len(r.history)-1] += ": " + err.Error()
	}
}

// checkAfterNoSpace checks that an operation that found no space left no trace.
func (r *randomRun) checkAfterNoSpace(o *ext4workload.Op, before ext4.Usage) {
	r.t.Helper()
	if o.IsFileOp() {
		if data, size := r.w.Partial(o); !r.m.Partly(o, data, size) {
			r.fatalf("what failed left something else")
		}
	} else if after := r.w.FS.Usage(); after != before && o.Kind != ext4workload.Copy && o.Kind != ext4workload.RemoveAll {
		r.fatalf("what failed left a trace: %+v, before %+v", after, before)
	}
	if r.full%16 == 1 {
		r.compareWithModel("after a failure", readTreeOf(r.t, r.w.FS))
	}
}

// sameKind reports whether two errors are of one kind. When a name is too long, there may
// be another reason too.
func sameKind(a, b error) bool {
	x, y := ext4workload.Errno(a), ext4workload.Errno(b)
	return x == y || x != 0 && y != 0 && (x == syscall.ENAMETOOLONG || y == syscall.ENAMETOOLONG)
}
