//go:build linux

package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

func storageOfImage(t testing.TB, image string) int64 {
	t.Helper()
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

// Trim gives back what removed files took, and touches nothing else.
func TestTrim(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for name, args := range map[string][]string{"ours": nil, "mke2fs": {}, "nocsum": {"-O", "^metadata_csum"}} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "disk.raw")
			if args == nil {
				image = newImageFile(t, 600*mib)
			} else {
				ext4oracle.Mke2fs(t, image, 600*mib, args...)
			}
			dir := ext4oracle.Mount(t, image)
			if _, err := ext4oracle.Populate(dir, 3, ext4oracle.PopulateOptions{Scale: ext4oracle.Small}); err != nil {
				t.Fatal(err)
			}
			ext4oracle.Unmount(t, dir)
			before := storageOfImage(t, image)
			fs := openImageFile(t, image, ext4.OpenOptions{Batch: true})
			for i := range 40 {
				if _, err := fs.WriteFile(context.Background(), fmt.Sprint("big-", i), bytes.NewReader(bytes.Repeat([]byte{1, 2, 3}, 1<<20)), ext4.WriteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 40 {
				if err := fs.Remove(fmt.Sprint("big-", i)); err != nil {
					t.Fatal(err)
				}
			}
			want := readTreeOf(t, fs)
			full := storageOfImage(t, image)
			n, err := fs.Trim(context.Background())
			if err != nil || n < 300*mib {
				t.Fatalf("trimmed %d: %v", n, err)
			}
			expectSameTree(t, "trimmed", want, readTreeOf(t, fs), ext4oracle.SameImage)
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			ext4oracle.Fsck(t, image)
			expectSameTree(t, "to the kernel", want, ext4oracle.Snapshot(t, image), ext4oracle.SameImage)
			if after := storageOfImage(t, image); full < before+100*mib || after > before+6*mib {
				t.Errorf("storage: %d at first, %d with the files, %d trimmed", before, full, after)
			}
		})
	}
}

// Trim goes on while files come and go, and punches no hole into one.
func TestTrimBusy(t *testing.T) {
	image := newImageFile(t, 300*mib)
	fs := openImageFile(t, image, ext4.OpenOptions{})
	content := func(w, i int) []byte { return bytes.Repeat([]byte{byte(w + 1), byte(i + 1), 7}, 5000+997*i) }
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("%d-%d", w, i)
				if _, err := fs.WriteFile(context.Background(), name, bytes.NewReader(content(w, i)), ext4.WriteOptions{}); err != nil {
					t.Error(err)
				}
				if i%3 == 2 {
					if err := fs.Remove(fmt.Sprintf("%d-%d", w, i-1)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 20 {
		if _, err := fs.Trim(context.Background()); err != nil {
			t.Error(err)
		}
	}
	writers.Wait()
	for w := range 3 {
		for i := range 60 {
			if i%3 == 1 {
				continue
			}
			f, err := fs.OpenFile(fmt.Sprintf("%d-%d", w, i), ext4.OpenFlags{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
			f.Close()
			if err != nil || !bytes.Equal(got, content(w, i)) {
				t.Fatalf("file %d-%d has changed (%v)", w, i, err)
			}
		}
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	ext4oracle.Fsck(t, image)
}

type plainDevice struct{ ext4.Device }

// A device that knows no holes is not trimmed.
func TestTrimUnsupported(t *testing.T) {
	f, err := os.OpenFile(newImageFile(t, 16*mib), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := ext4.Open(plainDevice{f}, ext4.OpenOptions{Size: 16 * mib})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if _, err := fs.Trim(context.Background()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("trimming: %v", err)
	}
}

// An image is cut off after the last block in use, and grows again.
func TestShrink(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, c := range []struct {
		name   string
		from   int64
		least  int64
		want   int64 // at most
		mke2fs []string
	}{
		{name: "tail", from: 200 * mib, want: 160 * mib},
		{name: "groups", from: 7 * gib, want: 400 * mib},
		{name: "descriptors", from: 100 * gib, want: 600 * mib},
		{name: "least", from: 100 * gib, least: 9*gib + 12345, want: 9*gib + 3*mib},
		{name: "mke2fs", from: 50 * gib, want: 27 * gib, mke2fs: []string{}},
		{name: "32bit", from: 20 * gib, want: 11 * gib, mke2fs: []string{"-O", "^64bit,^flex_bg"}},
		{name: "nocsum", from: 10 * gib, want: 7 * gib, mke2fs: []string{"-O", "^metadata_csum"}},
		{name: "metabg", from: 50 * gib, want: 27 * gib, mke2fs: []string{"-O", "^resize_inode,meta_bg"}},
		{name: "noresize", from: 20 * gib, want: 18 * gib, mke2fs: []string{"-O", "^resize_inode"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(t.TempDir(), "disk.raw")
			if c.mke2fs == nil {
				image = newImageFile(t, c.from)
			} else {
				ext4oracle.Mke2fs(t, image, c.from, c.mke2fs...)
			}
			want := leaveDirty(t, image)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			n, err := ext4.ShrinkToFit(context.Background(), f, ext4.ShrinkOptions{Least: c.least})
			if err != nil {
				t.Fatal(err)
			}
			if st, err := f.Stat(); err != nil || st.Size() != n || n > c.want || n < c.least {
				t.Errorf("shrunk to %d, the file to %d, want %d (%v)", n, st.Size(), c.want, err)
			}
			ext4oracle.Fsck(t, image)
			expectSameTree(t, "shrunk", want, ext4oracle.Snapshot(t, image), ext4oracle.SameImage)
			ext4oracle.Unmount(t, ext4oracle.Mount(t, image))
			growImage(t, image, n+n/3)
			growImageStep(t, image, 2, max(c.from, 2*n))
		})
	}
}
