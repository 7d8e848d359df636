//go:build linux

package ext4_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// recorder is a device that remembers what was done to it.
type recorder struct {
	*os.File
	ops []recorded
}

// recorded is a write, or a change of the size, or else a Sync.
type recorded struct {
	data []byte
	off  int64
	size int64 // where data is nil; 0: a Sync
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.ops = append(r.ops, recorded{data: append([]byte(nil), p...), off: off})
	return r.File.WriteAt(p, off)
}

func (r *recorder) Sync() error {
	r.ops = append(r.ops, recorded{})
	return nil
}

func (r *recorder) Truncate(size int64) error {
	r.ops = append(r.ops, recorded{size: size})
	return r.File.Truncate(size)
}

// openCopy makes image a copy of base and opens it, for the caller to close.
func openCopy(t *testing.T, image, base string) *os.File {
	t.Helper()
	if err := ext4oracle.CopyImage(image, base); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// buildCrashState makes an image of what a crash may leave: all of the operations up to a Sync,
// and of those after it, up to a later one, some of the sectors.
func (r *recorder) buildCrashState(t *testing.T, image, base string, rnd *rand.Rand) {
	t.Helper()
	f := openCopy(t, image, base)
	defer f.Close()
	syncs := []int{0}
	for i, o := range r.ops {
		if o.data == nil && o.size == 0 {
			syncs = append(syncs, i)
		}
	}
	syncs = append(syncs, len(r.ops))
	k := rnd.IntN(len(syncs) - 1)
	whole, cut := syncs[k], syncs[k+1]
	if rnd.IntN(3) == 0 {
		cut = whole + rnd.IntN(cut-whole+1)
	}
	lost := []float64{0, 0.5, 0.1, 0.9}[rnd.IntN(4)] // how many of the last sectors
	for i, o := range r.ops[:cut] {
		var err error
		switch {
		case o.size != 0:
			err = f.Truncate(o.size)
		case i < whole:
			_, err = f.WriteAt(o.data, o.off)
		default:
			err = tearWrite(f, o, lost, rnd)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tearWrite writes some of the sectors of a write.
func tearWrite(f *os.File, o recorded, lost float64, rnd *rand.Rand) error {
	for k := 0; k < len(o.data); k += 512 {
		if rnd.Float64() < lost {
			continue
		}
		if _, err := f.WriteAt(o.data[k:min(k+512, len(o.data))], o.off+int64(k)); err != nil {
			return err
		}
	}
	return nil
}

// leaveDirty leaves an image with files and a log that is to be replayed.
func leaveDirty(t *testing.T, image string) ext4oracle.Tree {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := ext4.Open(f, ext4.OpenOptions{Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		name := fmt.Sprintf("file-%d", i)
		if _, err := fs.WriteFile(context.Background(), name, strings.NewReader(strings.Repeat(name, 999)), ext4.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	return readTreeOf(t, fs)
}

type crashCase struct {
	name     string
	from, to int64
	mke2fs   []string // nil: Format
	bare     bool     // no journal at first: only this package and e2fsck take what a crash leaves
	shrink   bool
}

var crashCases = []crashCase{
	{name: "groups", from: 40 * mib, to: 1100*mib + 8192},
	{name: "descriptors", from: 7 * gib, to: 18 * gib},
	{name: "meta_bg", from: 200 * mib, to: 40 * gib},
	{name: "bare", from: 4 * mib, to: 80 * mib, bare: true},
	{name: "bare groups", from: 5*mib + 4096, to: gib, bare: true},
	{name: "mke2fs", from: 300 * mib, to: 9 * gib, mke2fs: []string{}},
	{name: "nocsum", from: 100 * mib, to: 600 * mib, mke2fs: []string{"-O", "^metadata_csum,^64bit"}},
	{name: "1k", from: 40 * mib, to: 700*mib + 8192, mke2fs: []string{"-b", "1024"}},
	{name: "2k nocsum", from: 100 * mib, to: 600 * mib, mke2fs: []string{"-b", "2048", "-O", "^metadata_csum,^64bit"}},
	{name: "1k nojournal", from: 44 * mib, to: 90 * mib, mke2fs: []string{"-b", "1024", "-O", "^has_journal"}, bare: true},
	{name: "bare tiny", from: 4 * mib, to: 4*mib + 4096, bare: true},
	{name: "bare tail", from: 8 * mib, to: 12 * mib, bare: true},
	{name: "shrink", from: 20 * gib, shrink: true},
	{name: "shrink tail", from: 200 * mib, shrink: true},
	{name: "shrink mke2fs", from: 11 * gib, shrink: true, mke2fs: []string{}},
	{name: "shrink bare", from: 6 * mib, shrink: true, bare: true},
}

// A growth that is cut short, whatever of it is on the disk, leaves an image in order,
// for us, for e2fsck and for Linux, with which it can be done again.
func TestGrowCrash(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, c := range crashCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testGrowCrash(t, c, 30)
		})
	}
}

func testGrowCrash(t *testing.T, c crashCase, states int) {
	base := c.newImage(t)
	want := leaveDirty(t, base)
	image, r := c.recordResize(t, base)
	ext4oracle.Fsck(t, image)
	rnd := rand.New(rand.NewPCG(7, uint64(c.to)))
	for i := range states {
		r.buildCrashState(t, image, base, rnd)
		c.judgeState(t, image, want, i)
		if t.Failed() {
			t.Fatalf("state %d", i)
		}
	}
}

// newImage makes an image that is about to be resized.
func (c *crashCase) newImage(t *testing.T) string {
	t.Helper()
	if c.mke2fs == nil {
		return newImageFile(t, c.from)
	}
	base := filepath.Join(t.TempDir(), "base.raw")
	ext4oracle.Mke2fs(t, base, c.from, c.mke2fs...)
	return base
}

// recordResize resizes a copy of an image, and returns its path and what was done to it.
func (c *crashCase) recordResize(t *testing.T, base string) (image string, r *recorder) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "resized.raw")
	f := openCopy(t, image, base)
	defer f.Close()
	r = &recorder{File: f}
	if err := c.growOrShrink(r); err != nil {
		t.Fatal(err)
	}
	return image, r
}

func (c *crashCase) growOrShrink(dev ext4.Device) (err error) {
	if c.shrink {
		_, err = ext4.ShrinkToFit(context.Background(), dev, ext4.ShrinkOptions{})
	} else {
		_, err = ext4.Grow(context.Background(), dev, c.to, ext4.GrowOptions{})
	}
	return err
}

// judgeState looks at what a crash left, and grows it again.
func (c *crashCase) judgeState(t *testing.T, image string, want ext4oracle.Tree, i int) {
	switch {
	case i%4 == 0 && !c.bare:
		ext4oracle.Unmount(t, ext4oracle.Mount(t, image))
		ext4oracle.Fsck(t, image)
	case i%4 == 1:
		if _, err := ext4oracle.Repair(image); err != nil {
			t.Error(err)
		}
	}
	fs := openImageFile(t, image, ext4.OpenOptions{})
	expectSameTree(t, "after a crash", want, readTreeOf(t, fs), ext4oracle.SameImage)
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	c.runFsck(t, image)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.growOrShrink(f); err != nil {
		t.Errorf("again: %v", err)
		return
	}
	c.runFsck(t, image)
	fs = openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	expectSameTree(t, "grown after a crash", want, readTreeOf(t, fs), ext4oracle.SameImage)
	fs.Close()
}

// lostSpace are the faults that a crash may leave in an image without a journal that is
// made smaller: blocks that are free but not known to be, and counts of them.
var lostSpace = regexp.MustCompile(`^(Free blocks count wrong .*|Block bitmap differences: .*|Fix\? no|\S+: \*+ WARNING: .*` +
	`|Padding at end of .*|Journal inode is not in use, but contains data\.  Clear\? no|)$`)

// runFsck fails the test unless e2fsck finds no fault, or just lost space where an image
// without a journal is made smaller.
func (c *crashCase) runFsck(t *testing.T, image string) {
	t.Helper()
	if !c.bare || !c.shrink {
		ext4oracle.Fsck(t, image)
		return
	}
	if clean, out := ext4oracle.FsckStatus(image); !clean {
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			if !lostSpace.MatchString(line) && !fsckPass.MatchString(line) {
				t.Errorf("e2fsck: %s\n%s", line, out)
				return
			}
		}
	}
}

var fsckPass = regexp.MustCompile(`^(e2fsck .*|Pass \d.*|\S+: \d+/\d+ files .*)$`)
