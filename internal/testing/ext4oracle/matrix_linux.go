package ext4oracle

import (
	"path/filepath"
	"testing"
)

// Recipe says how to make an image.
type Recipe struct {
	Name   string
	Size   int64
	Mke2fs []string // arguments of [Mke2fs]
	Mount  []string // options for writing
	Scale  Scale
}

// mib is a MiB.
const mib = 1 << 20

// Matrix lists the formats that a reader should support. Run each in a subtest: [Build]
// skips formats that the running kernel refuses.
var Matrix = []Recipe{
	{Name: "default", Size: 256 * mib, Scale: Normal},
	{Name: "small", Size: 32 * mib},
	{Name: "1k", Size: 256 * mib, Mke2fs: []string{"-b", "1024"}, Scale: Normal},
	{Name: "2k", Size: 256 * mib, Mke2fs: []string{"-b", "2048"}, Scale: Normal},
	{Name: "inline_data", Size: 256 * mib, Mke2fs: []string{"-O", "inline_data"}, Scale: Normal},
	{Name: "inline_data-1k", Size: 64 * mib, Mke2fs: []string{"-b", "1024", "-I", "512", "-O", "inline_data"}},
	{Name: "blockmap", Size: 256 * mib, Mke2fs: []string{"-O", "^extent,^64bit,^metadata_csum"}, Scale: Normal},
	{Name: "blockmap-1k", Size: 256 * mib, Mke2fs: []string{"-b", "1024", "-O", "^extent,^64bit,^metadata_csum"}, Scale: Normal},
	{Name: "orphan_file", Size: 256 * mib, Mke2fs: []string{"-O", "orphan_file,metadata_csum_seed"}, Scale: Normal},
	{Name: "uninit_bg", Size: 256 * mib, Mke2fs: []string{"-O", "^metadata_csum,uninit_bg"}, Scale: Normal},
	{Name: "nochecksums", Size: 64 * mib, Mke2fs: []string{"-O", "^metadata_csum,^uninit_bg"}},
	{Name: "bigalloc", Size: 512 * mib, Mke2fs: []string{"-O", "bigalloc", "-C", "16384"}},
	{Name: "meta_bg", Size: 512 * mib, Mke2fs: []string{"-O", "meta_bg,^resize_inode"}, Scale: Normal},
	{Name: "meta_bg-1k", Size: 256 * mib, Mke2fs: []string{"-b", "1024", "-O", "meta_bg,^resize_inode"}},
	{Name: "ea_inode", Size: 256 * mib, Mke2fs: []string{"-O", "ea_inode,large_dir"}, Scale: Normal},
	{Name: "nojournal", Size: 64 * mib, Mke2fs: []string{"-O", "^has_journal"}},
	{Name: "nodirindex", Size: 64 * mib, Mke2fs: []string{"-O", "^dir_index"}},
	{Name: "noflexbg", Size: 256 * mib, Mke2fs: []string{"-O", "^flex_bg"}},
	{Name: "inode128", Size: 64 * mib, Mke2fs: []string{"-I", "128"}},
	{Name: "inode1024", Size: 64 * mib, Mke2fs: []string{"-I", "1024"}},
	{Name: "sparse_super2", Size: 256 * mib, Mke2fs: []string{"-O", "sparse_super2,^resize_inode"}},
	{Name: "32bit", Size: 64 * mib, Mke2fs: []string{"-O", "^64bit"}},
	{Name: "ext2", Size: 256 * mib, Mke2fs: []string{"-t", "ext2"}, Scale: Normal},
	{Name: "ext3", Size: 256 * mib, Mke2fs: []string{"-t", "ext3"}, Scale: Normal},
	{Name: "ext3-1k-inode128", Size: 64 * mib, Mke2fs: []string{"-t", "ext3", "-b", "1024", "-I", "128"}},
}

// Extra lists formats that are rarely used, and that some kernels do not support.
var Extra = []Recipe{
	{Name: "quota", Size: 64 * mib, Mke2fs: []string{"-O", "quota,project"}},
	{Name: "mmp", Size: 64 * mib, Mke2fs: []string{"-O", "mmp"}},
	{Name: "casefold", Size: 64 * mib, Mke2fs: []string{"-O", "casefold"}},
	{Name: "encrypt", Size: 64 * mib, Mke2fs: []string{"-O", "encrypt,verity"}},
	{Name: "fast_commit", Size: 64 * mib, Mke2fs: []string{"-O", "fast_commit"}},
	{Name: "big", Size: 2048 * mib, Mke2fs: []string{"-N", "400000"}, Scale: Big},
	{Name: "big-1k", Size: 2048 * mib, Mke2fs: []string{"-b", "1024", "-N", "400000", "-O", "large_dir"}, Scale: Big},
}

// Build makes the image of a recipe in a temporary directory, fills it with [Populate],
// and returns it with the tree that the kernel shows. The image is not in use any more. It
// skips the test if the running kernel refuses the format.
func Build(t testing.TB, r Recipe) (image string, tree Tree) {
	t.Helper()
	RequireRoot(t)
	image = filepath.Join(t.TempDir(), r.Name+".img")
	return image, makeOrTakeImage(t, r, image, func() Tree { return buildImage(t, r, image) })
}

// buildImage implements Build.
func buildImage(t testing.TB, r Recipe, image string) Tree {
	t.Helper()
	if err := TryMke2fs(image, r.Size, r.Mke2fs...); err != nil {
		t.Skip("needs a newer e2fsprogs: ", err)
	}
	dir, err := TryMount(t, image, r.Mount...)
	if err != nil {
		t.Skip(err)
	}
	skipped, err := Populate(dir, 1, PopulateOptions{Scale: r.Scale})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("this file system has no room for: %q", skipped)
	Unmount(t, dir)
	return Snapshot(t, image)
}

// Snapshot returns the tree that the kernel shows for an image, which it does not change.
func Snapshot(t testing.TB, image string) Tree {
	t.Helper()
	dir := Mount(t, image, "ro")
	defer Unmount(t, dir)
	tree, err := ReadTree(dir, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
