//go:build linux

package ext4_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

var killedCases = []crashCase{
	{name: "groups", from: 40 * mib, to: 1100*mib + 8192},
	{name: "descriptors", from: 7 * gib, to: 18 * gib},
	{name: "meta_bg", from: 200 * mib, to: 40 * gib},
	{name: "bare", from: 4 * mib, to: 80 * mib, bare: true},
	{name: "bare tail", from: 8 * mib, to: 12 * mib, bare: true},
	{name: "bare tiny", from: 4 * mib, to: 4*mib + 4096, bare: true},
	{name: "nojournal", from: 100 * mib, to: 3 * gib, mke2fs: []string{"-b", "4096", "-O", "^has_journal"}, bare: true},
	{name: "1k", from: 40 * mib, to: 700*mib + 8192, mke2fs: []string{"-b", "1024"}},
	{name: "1k nojournal", from: 44 * mib, to: 90 * mib, mke2fs: []string{"-b", "1024", "-O", "^has_journal"}, bare: true},
	{name: "ext2", from: 44 * mib, to: 300 * mib, mke2fs: []string{"-t", "ext2"}, bare: true},
	{name: "ext3", from: 100 * mib, to: 300 * mib, mke2fs: []string{"-t", "ext3"}, bare: true},
}

// A growth that is killed, after whatever write, leaves an image in which Check finds
// nothing, and which whoever opens it for writing next makes as large as it was to be.
func TestGrowKilled(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, c := range killedCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			base := c.newImage(t)
			image, r := c.recordResize(t, base)
			f := openCopy(t, image, base)
			defer f.Close()
			for i, o := range r.ops {
				c.redoWrites(t, f, o)
				if t.Failed() {
					t.Fatalf("write %d of %d", i, len(r.ops))
				}
				if i%9 == 4 || i > len(r.ops)-4 {
					c.completeByOpen(t, image, i == len(r.ops)-1)
				}
			}
		})
	}
}

// redoWrites does what a growth did, by halves where it takes several writes of the host, and
// checks the image after each.
func (c *crashCase) redoWrites(t *testing.T, f *os.File, o recorded) {
	t.Helper()
	var err error
	switch {
	case o.size != 0:
		err = f.Truncate(o.size)
	case o.data == nil:
		return
	case len(o.data) >= 1024:
		if _, err = f.WriteAt(o.data[:len(o.data)/1024*512], o.off); err == nil {
			expectNoProblems(t, f)
			_, err = f.WriteAt(o.data, o.off)
		}
	default:
		_, err = f.WriteAt(o.data, o.off)
	}
	if err != nil {
		t.Fatal(err)
	}
	expectNoProblems(t, f)
}

func expectNoProblems(t *testing.T, f *os.File) {
	t.Helper()
	list, err := checkDevice(f, 0)
	reportProblems(t, list, err)
}

// completeByOpen opens a copy of an image after a kill, for writing, and checks that this
// completed the growth. ext2 and ext3 are not written otherwise: e2fsck judges them.
func (c *crashCase) completeByOpen(t *testing.T, image string, done bool) {
	t.Helper()
	next := image + ".next"
	if err := ext4oracle.CopyImage(next, image); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(next, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began, err := ext4.UnfinishedGrow(f)
	if err != nil || began && done {
		t.Fatal(began, err)
	}
	if fs, err := ext4.Open(f, ext4.OpenOptions{}); err == nil {
		err = fs.Close()
		if err != nil {
			t.Error(err)
		}
	} else if c.mke2fs == nil || c.mke2fs[0] != "-t" {
		t.Error(err)
	}
	ext4oracle.Fsck(t, next)
	if still, err := ext4.UnfinishedGrow(f); still || err != nil {
		t.Error("opened, the image has a growth that is unfinished", err)
	}
	d, err := ext4.Describe(f, 0)
	st, serr := f.Stat()
	if err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if began && (d.Size != c.to || st.Size() != c.to) {
		t.Errorf("opened, the file system has %d and the image %d of %d bytes", d.Size, st.Size(), c.to)
	}
}

// A growth whose device is shorter by now is forgotten, and so is one that another tool
// completed.
func TestGrowForgotten(t *testing.T) {
	for name, size := range map[string]int64{"shorter": 0, "as long": 300 * mib} {
		t.Run(name, func(t *testing.T) {
			c := &crashCase{from: 40 * mib, to: 300 * mib}
			base := c.newImage(t)
			_, r := c.recordResize(t, base)
			f, err := os.OpenFile(base, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, o := range r.ops {
				c.redoWrites(t, f, o)
				if began, _ := ext4.UnfinishedGrow(f); began {
					break
				}
			}
			if size == 0 {
				size = c.from
			} else if out, err := ext4oracle.Repair(base); err != nil {
				t.Fatal(err, out)
			}
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			fs := openImageFile(t, base, ext4.OpenOptions{})
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			if began, err := ext4.UnfinishedGrow(f); began || err != nil {
				t.Error("the growth is still unfinished", err)
			}
			if d, err := ext4.Describe(f, 0); err != nil || d.Size != size {
				t.Errorf("the file system has %d bytes of %d: %v", d.Size, size, err)
			}
			ext4oracle.Fsck(t, base)
		})
	}
}

// ext2 and ext3 grow, as they are: what the kernel wrote is there, and their journal is
// theirs.
func TestGrowOld(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for name, args := range map[string][]string{
		"ext2":        {"-t", "ext2"},
		"ext2 4k":     {"-t", "ext2", "-b", "4096"},
		"ext3":        {"-t", "ext3"},
		"ext3 4k 128": {"-t", "ext3", "-b", "4096", "-I", "128"},
		"ext3 bare":   {"-t", "ext3", "-O", "^resize_inode"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(t.TempDir(), "disk.raw")
			ext4oracle.Mke2fs(t, image, 60*mib, args...)
			for i, size := range []int64{61 * mib, 700*mib + 8192, 3 * gib} {
				dir := ext4oracle.Mount(t, image)
				for k := range 3 {
					name := filepath.Join(dir, fmt.Sprintf("kernel-%d-%d", i, k))
					if err := os.WriteFile(name, make([]byte, 700000), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				ext4oracle.Unmount(t, dir)
				before := ext4oracle.Snapshot(t, image)
				growImage(t, image, size)
				ro := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
				expectSameTree(t, fmt.Sprintf("grown to %d", size), before, readTreeOf(t, ro), ext4oracle.SameImage)
				ro.Close()
				checkUsage(t, image, size)
			}
		})
	}
}
