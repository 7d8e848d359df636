//go:build linux

package ext4_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

// growImage grows an image and has e2fsck judge it.
func growImage(t testing.TB, image string, size int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ext4.Grow(context.Background(), f, size, ext4.GrowOptions{})
	if err != nil {
		t.Fatalf("growing to %d: %v", size, err)
	}
	if st, err := f.Stat(); err != nil || got != size/4096*4096 || st.Size() != got {
		t.Fatalf("growing to %d says %d and makes %d (%v)", size, got, st.Size(), err)
	}
	ext4oracle.Fsck(t, image)
}

// growImageStep writes files by this package and by the kernel, and checks that the tree
// stays the same over a growth.
func growImageStep(t testing.TB, image string, step int, size int64) {
	t.Helper()
	fs := openImageFile(t, image, ext4.OpenOptions{Batch: true})
	for i := range 3 {
		name := fmt.Sprintf("ours-%d-%d", step, i)
		if _, err := fs.WriteFile(context.Background(), name, strings.NewReader(strings.Repeat(name, 2000)), ext4.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	dir := ext4oracle.Mount(t, image)
	if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("kernel-%d", step)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("kernel-%d/f", step)), make([]byte, 70000), 0o600); err != nil {
		t.Fatal(err)
	}
	ext4oracle.Unmount(t, dir)
	before := ext4oracle.Snapshot(t, image)
	growImage(t, image, size)
	ro := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	expectSameTree(t, fmt.Sprintf("grown to %d", size), before, readTreeOf(t, ro), ext4oracle.SameImage)
	ro.Close()
	checkUsage(t, image, size)
}

// checkUsage has the kernel mount a grown image, and checks that it sees the space, as
// we do.
func checkUsage(t testing.TB, image string, size int64) {
	t.Helper()
	fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	u := fs.Usage()
	fs.Close()
	dir := ext4oracle.Mount(t, image)
	defer ext4oracle.Unmount(t, dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	want := ext4.Usage{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bfree) * st.Bsize, Inodes: int64(st.Files), FreeInodes: int64(st.Ffree)}
	if u != want {
		t.Errorf("grown to %d: usage %+v, to Linux %+v", size, u, want)
	}
	if least := size - size/15 - 160*mib - size/50; u.Size < least {
		t.Errorf("grown to %d, there is room for %d", size, u.Size)
	}
}

// Images of ours grow by odd steps from the smallest on.
func TestGrowChain(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, chain := range [][]int64{
		{4 * mib, 5*mib + 4096, 15 * mib, 17 * mib, 200 * mib},
		{4 * mib, 4 * tib},
		{4*mib + 8192, 40 * mib, 40 * gib},
		{8 * mib, 9*mib + 4096, 50 * mib, 128 * mib, 128*mib + 4096, 300*mib + 8192, gib + 5*mib, 5 * gib, 17*gib + 12345, 60*gib + 4096, 300 * gib},
		{gib, 64 * gib, tib + 77*mib, 8 * tib},
		{20 * gib, 20*gib + 130*mib, 33 * gib, 2 * tib},
	} {
		t.Run(fmt.Sprint(chain[0]/mib), func(t *testing.T) {
			t.Parallel()
			image := newImageFile(t, chain[0])
			for i, size := range chain[1:] {
				if testing.Short() && size > 4*tib {
					continue
				}
				growImageStep(t, image, i, size)
				if t.Failed() {
					t.Fatalf("step %d, to %d", i, size)
				}
			}
			if out := ext4oracle.Debugfs(t, image, "features"); !strings.Contains(out, "has_journal") {
				t.Errorf("no journal: %s", out)
			}
		})
	}
}

// So do those of mke2fs.
func TestGrowMke2fs(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for name, args := range map[string][]string{
		"default":     nil,
		"32bit":       {"-O", "^64bit"},
		"nocsum":      {"-O", "^metadata_csum"},
		"nojournal":   {"-O", "^has_journal"},
		"nocsum32":    {"-O", "^metadata_csum,^64bit"},
		"seed":        {"-O", "metadata_csum_seed"},
		"orphan":      {"-O", "orphan_file"},
		"noresize":    {"-O", "^resize_inode"},
		"metabg":      {"-O", "^resize_inode,meta_bg"},
		"noflex":      {"-O", "^flex_bg"},
		"fewreserved": {"-E", "resize=400000"},
		"1k":          {"-b", "1024"},
		"1kmetabg":    {"-b", "1024", "-O", "^resize_inode,meta_bg"},
		"1knocsum":    {"-b", "1024", "-O", "^metadata_csum,^64bit,^flex_bg"},
		"1knojournal": {"-b", "1024", "-O", "^has_journal"},
		"2k":          {"-b", "2048", "-O", "orphan_file,metadata_csum_seed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(t.TempDir(), "disk.raw")
			ext4oracle.Mke2fs(t, image, 200*mib, args...)
			sizes := []int64{200*mib + 4096, 1300*mib + 8192, 11 * gib, 40*gib + 5*mib, 200 * gib}
			if strings.HasPrefix(name, "nocsum") {
				sizes = sizes[:3] // e2fsck reads all inodes
			}
			if name[0] == '1' || name[0] == '2' {
				sizes = sizes[:2] // as many groups as others have at several times the size
			}
			for i, size := range sizes {
				growImageStep(t, image, i, size)
				if t.Failed() {
					t.Fatalf("step %d, to %d", i, size)
				}
			}
		})
	}
}

// Old images with inodes of 128 bytes, which nothing else here writes, grow and get a
// journal.
func TestGrowSmallInodes(t *testing.T) {
	ext4oracle.RequireRoot(t)
	image := filepath.Join(t.TempDir(), "disk.raw")
	ext4oracle.Mke2fs(t, image, 200*mib, "-I", "128", "-O", "^has_journal")
	growImage(t, image, 300*mib)
	if out := ext4oracle.Debugfs(t, image, "features"); !strings.Contains(out, "has_journal") {
		t.Errorf("no journal: %s", out)
	}
}
