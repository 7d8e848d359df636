package ext4oracle

import (
	"path/filepath"
	"testing"
)

// DirtyRecipe says how to make an image as a power cut leaves it: with a journal to
// recover. All have blocks that were revoked and then used for data, and data that looks
// like a block of the journal.
type DirtyRecipe struct {
	Name    string
	Size    int64    // 0 for 64 MiB
	Mke2fs  []string // arguments of [Mke2fs]
	Mount   []string // options for writing
	Orphans bool     // leave files that were removed while they were open
	Small   bool     // write less, so that data fits into the journal
	Room    int64    // free space to write to; 0 for 14 MiB
	Damage  Damage
}

// DirtyImages lists images that recovery should handle. Run each in a subtest.
var DirtyImages = []DirtyRecipe{
	{Name: "ordered"},
	{Name: "writeback", Mount: []string{"data=writeback"}},
	{Name: "data-journal", Mount: []string{"data=journal"}, Small: true},
	{Name: "nochecksums", Mke2fs: []string{"-O", "^metadata_csum"}},
	{Name: "1k", Mke2fs: []string{"-b", "1024"}},
	{Name: "1k-data-journal", Mke2fs: []string{"-b", "1024"}, Mount: []string{"data=journal"}, Small: true},
	{Name: "nochecksums-data-journal", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"data=journal"}, Small: true},
	{Name: "32bit", Mke2fs: []string{"-O", "^64bit"}},
	{Name: "32bit-nochecksums", Mke2fs: []string{"-O", "^64bit,^metadata_csum"}},
	{Name: "64bit", Mke2fs: []string{"-O", "64bit,metadata_csum,metadata_csum_seed"}},
	{Name: "journal_checksum", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_checksum"}},
	{Name: "journal_checksum-last-commit-missing", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_checksum"}, Damage: ZeroLastCommit},
	{Name: "journal_checksum-last-commit-corrupt", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_checksum"}, Damage: CorruptLastCommit},
	{Name: "journal_checksum-block-corrupt", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_checksum"}, Damage: CorruptBlock},
	{Name: "journal_async_commit", Mount: []string{"journal_async_commit", "data=writeback"}},
	{Name: "journal_async_commit-last-commit-corrupt", Mount: []string{"journal_async_commit", "data=writeback"}, Damage: CorruptLastCommit},
	{Name: "journal_async_commit-block-corrupt", Mount: []string{"journal_async_commit", "data=writeback"}, Damage: CorruptBlock},
	{Name: "journal_async_commit-nochecksums", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_async_commit", "data=writeback"}},
	{Name: "journal_async_commit-nochecksums-last-commit-corrupt", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_async_commit", "data=writeback"}, Damage: CorruptLastCommit},
	{Name: "journal_async_commit-nochecksums-block-corrupt", Mke2fs: []string{"-O", "^metadata_csum"}, Mount: []string{"journal_async_commit", "data=writeback"}, Damage: CorruptBlock},
	{Name: "inline_data", Mke2fs: []string{"-O", "inline_data"}},
	{Name: "bigalloc", Size: 128 * mib, Mke2fs: []string{"-O", "bigalloc", "-C", "16384"}, Room: 60 * mib},
	{Name: "ext3", Mke2fs: []string{"-t", "ext3", "-b", "1024"}},
	{Name: "orphans", Orphans: true},
	{Name: "orphans-nochecksums", Mke2fs: []string{"-O", "^metadata_csum"}, Orphans: true},
	{Name: "orphans-ext3", Mke2fs: []string{"-t", "ext3"}, Orphans: true},
	{Name: "orphan_file", Mke2fs: []string{"-O", "orphan_file"}, Orphans: true},
	{Name: "orphan_file-data-journal", Mke2fs: []string{"-O", "orphan_file"}, Mount: []string{"data=journal"}, Orphans: true, Small: true},
	{Name: "last-commit-missing", Damage: ZeroLastCommit},
	{Name: "last-commit-missing-nochecksums", Mke2fs: []string{"-O", "^metadata_csum"}, Damage: ZeroLastCommit},
	{Name: "last-commit-corrupt", Damage: CorruptLastCommit},
	{Name: "half-a-log", Damage: ZeroHalf},
	{Name: "half-a-log-nochecksums", Mke2fs: []string{"-O", "^metadata_csum"}, Damage: ZeroHalf},
	{Name: "descriptor-corrupt", Damage: CorruptDescriptor},
	{Name: "block-corrupt", Damage: CorruptBlock},
}

// BuildDirty makes the image of a recipe in a temporary directory, and returns it with the
// tree that the kernel shows after recovering a copy. The tree is nil if the kernel
// refuses to recover it, as it does when the log is damaged before its end. It skips the
// test if the running kernel refuses the format.
func BuildDirty(t testing.TB, r DirtyRecipe) (image string, want Tree) {
	t.Helper()
	RequireRoot(t)
	image = filepath.Join(t.TempDir(), r.Name+".img")
	return image, makeOrTakeImage(t, r, image, func() Tree {
		copyImageInUse(t, r, image)
		if err := r.Damage.applyTo(image); err != nil {
			t.Fatal(err)
		}
		return Recovered(t, image)
	})
}

// copyImageInUse fills the image of a recipe, and copies it while it is mounted.
func copyImageInUse(t testing.TB, r DirtyRecipe, image string) {
	t.Helper()
	if r.Size == 0 {
		r.Size = 64 * mib
	}
	if r.Room == 0 {
		r.Room = 14 * mib
	}
	live := filepath.Join(t.TempDir(), "live.img")
	if err := TryMke2fs(live, r.Size, append([]string{"-J", "size=24"}, r.Mke2fs...)...); err != nil {
		t.Skip("needs a newer e2fsprogs: ", err)
	}
	// Nothing must be committed while the image is copied.
	mounted, err := TryMount(t, live, append([]string{"commit=900"}, r.Mount...)...)
	if err != nil {
		t.Skip(err)
	}
	// The same seed for all images: they differ by format and options alone.
	w := &dirtyWriter{small: r.Small, room: r.Room}
	w.populator = populator{root: mounted, block: 4096, random: newRandomSource(7)}
	defer w.closeUnlinked()
	w.makeTransactions(r.Orphans)
	if w.err == nil {
		w.stopOnError(CopyImage(image, live))
	}
	w.closeUnlinked()
	Unmount(t, mounted)
	if w.err != nil {
		t.Fatal(w.err)
	}
}

// Recovered returns the tree that the kernel shows for a copy of an image after recovering
// its journal; nil if it refuses to.
func Recovered(t testing.TB, image string) Tree {
	t.Helper()
	scratch := filepath.Join(t.TempDir(), "recovered.img")
	if err := recoverCopyTo(t, scratch, image); err != nil {
		t.Log(err)
		return nil
	}
	return Snapshot(t, scratch)
}

// RecoverCopy lets the kernel recover a copy of an image, and returns the copy.
func RecoverCopy(t testing.TB, image string) (recovered string, err error) {
	t.Helper()
	recovered = filepath.Join(t.TempDir(), "recovered.img")
	return recovered, recoverCopyTo(t, recovered, image)
}

// recoverCopyTo lets the kernel recover a copy of an image at path scratch.
func recoverCopyTo(t testing.TB, scratch, image string) error {
	t.Helper()
	if err := CopyImage(scratch, image); err != nil {
		t.Fatal(err)
	}
	dir, err := TryMount(t, scratch)
	if err == nil {
		Unmount(t, dir)
	}
	return err
}
