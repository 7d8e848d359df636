//go:build linux

package ext4_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// What Linux leaves is fine, with all features that mke2fs knows.
func TestCheckMatrix(t *testing.T) {
	ext4oracle.RequireRoot(t)
	recipes := append(ext4oracle.Matrix[:len(ext4oracle.Matrix):len(ext4oracle.Matrix)], ext4oracle.Extra[:2]...)
	for _, r := range recipes {
		t.Run(r.Name, func(t *testing.T) {
			image, _ := ext4oracle.Build(t, r)
			expectAgreement(t, image)
		})
	}
}

// So is what Format makes.
func TestCheckFormatted(t *testing.T) {
	ext4oracle.RequireTools(t)
	const mib, group = int64(1) << 20, int64(128) << 20
	for _, size := range []int64{
		4 * mib, 8*mib - 4096, 8 * mib, 67 * mib, group, group + 4096, group + 600*4096, 2*group + 4096, 3*group + 4*4096,
		1 << 30, 16*group + 4096, 17 * group, 100 << 30, 15 << 40,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			image := newImageFile(t, size)
			if size > 1<<40 {
				expectClean(t, image) // which takes e2fsck minutes
				return
			}
			expectAgreement(t, image)
		})
	}
}

// A log that a crash left is replayed before anything is judged.
func TestCheckDirty(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, r := range ext4oracle.DirtyImages {
		t.Run(r.Name, func(t *testing.T) {
			image, want := ext4oracle.BuildDirty(t, r)
			list, err := checkImage(image)
			if want == nil {
				if err == nil {
					t.Error("nothing is wrong with a log that cannot be replayed")
				}
				return
			}
			reportProblems(t, list, err)
		})
	}
}

// checkImage returns what Check reports of an image: the first hundred problems.
func checkImage(image string) ([]ext4.Problem, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return checkDevice(f, 0)
}

func checkDevice(dev ext4.Device, size int64) (list []ext4.Problem, err error) {
	err = ext4.Check(context.Background(), dev, ext4.CheckOptions{Size: size}, func(p ext4.Problem) error {
		if list = append(list, p); len(list) == 100 {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, err
}

// expectAgreement fails the test unless both e2fsck and Check find an image clean.
func expectAgreement(t *testing.T, image string) {
	t.Helper()
	ext4oracle.Fsck(t, image)
	expectClean(t, image)
}

func expectClean(t *testing.T, image string) {
	t.Helper()
	list, err := checkImage(image)
	reportProblems(t, list, err)
}

func reportProblems(t *testing.T, list []ext4.Problem, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("checking: %v", err)
	}
	for _, p := range list {
		t.Error(p)
	}
}

// The superblock counts free blocks, not clusters.
func TestUsageOfClusters(t *testing.T) {
	ext4oracle.RequireTools(t)
	image := filepath.Join(t.TempDir(), "bigalloc.img")
	ext4oracle.Mke2fs(t, image, 64<<20, "-O", "bigalloc", "-C", "16384")
	if u := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true}).Usage(); u.Free <= 0 || u.Free > 64<<20 {
		t.Errorf("%d bytes are free in an image of 64 MiB", u.Free)
	}
}
