//go:build linux

package ext4_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// fastScene is a change that Linux logs as fast commits.
type fastScene struct {
	name    string
	mke2fs  []string // its options
	before  func(d fastDir)
	act     func(d fastDir)
	remount bool // in between, so that nothing of what was there before is in the log
	// kernelErrs: what Linux itself replays has errors, for which e2fsck is asked.
	kernelErrs bool
	readOnly   bool // it has features with which nothing is written
}

// fastDir is a mounted file system. Its methods end the test when they fail.
type fastDir struct {
	t    *testing.T
	path string
	open *[]*os.File // until it is unmounted
}

func (d fastDir) fullPath(name string) string { return filepath.Join(d.path, name) }

func (d fastDir) failOnError(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d fastDir) writeFile(name string, n int) { d.writeAt(name, 0, n) }

// writeAt writes n bytes to a file, and syncs it.
func (d fastDir) writeAt(name string, off int64, n int) {
	d.t.Helper()
	f, err := os.OpenFile(d.fullPath(name), os.O_RDWR|os.O_CREATE, 0o640)
	d.failOnError(err)
	_, err = f.WriteAt(bytes.Repeat([]byte(name+" "), n/(len(name)+1)+1)[:n], off)
	d.failOnError(errors.Join(err, f.Sync(), f.Close()))
}

func (d fastDir) fsyncFile(name string) {
	d.t.Helper()
	f, err := os.Open(d.fullPath(name))
	d.failOnError(err)
	d.failOnError(errors.Join(f.Sync(), f.Close()))
}

// commitFully has Linux make a whole commit.
func (d fastDir) commitFully() {
	d.t.Helper()
	f, err := os.Open(d.path)
	d.failOnError(err)
	d.failOnError(errors.Join(unix.Syncfs(int(f.Fd())), f.Close()))
}

func (d fastDir) readTree() ext4oracle.Tree {
	d.t.Helper()
	tree, err := ext4oracle.ReadTree(d.path, ext4oracle.ReadOptions{})
	d.failOnError(err)
	return tree
}

func (d fastDir) rename(a, b string) {
	d.t.Helper()
	d.failOnError(os.Rename(d.fullPath(a), d.fullPath(b)))
}
func (d fastDir) remove(a string) { d.t.Helper(); d.failOnError(os.Remove(d.fullPath(a))) }
func (d fastDir) mkdir(a string)  { d.t.Helper(); d.failOnError(os.Mkdir(d.fullPath(a), 0o755)) }
func (d fastDir) link(a, b string) {
	d.t.Helper()
	d.failOnError(os.Link(d.fullPath(a), d.fullPath(b)))
}

func (d fastDir) punch(name string, mode uint32, off, n int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.fullPath(name), os.O_RDWR|os.O_CREATE, 0o640)
	d.failOnError(err)
	d.failOnError(errors.Join(unix.Fallocate(int(f.Fd()), mode, off, n), f.Sync(), f.Close()))
}

// TestFastCommitsUseOrphansNumber replays fast commits that give the number of a deleted file
// to a new one, when the last transaction has the deleted file as an orphan. The kernel and
// e2fsck show the blocks of the deleted file in the hole of the new one; e2fsck finds no
// fault in that.
func TestFastCommitsUseOrphansNumber(t *testing.T) {
	t.Parallel()
	var number uint64
	image := buildFastImage(t, fastScene{before: func(d fastDir) {
		d.writeFile("secret", 96<<10)
		f, err := os.Open(d.fullPath("secret"))
		d.failOnError(err)
		*d.open = append(*d.open, f)
		var st unix.Stat_t
		d.failOnError(unix.Fstat(int(f.Fd()), &st))
		number = st.Ino
		d.remove("secret")
	}, act: func(d fastDir) {
		d.failOnError((*d.open)[0].Close())
		d.writeAt("new", 96<<10, 1)
	}})
	if !hasOrphans(t, image) {
		t.Skip(kernelRelease(), "leaves no orphan")
	}
	if n := ext4oracle.Recovered(t, image)["new"]; n == nil || n.Ino != number {
		t.Skip(kernelRelease(), "does not use the number again")
	} else if len(n.Data) == 1 && n.Data[0].Off == 0 {
		t.Log(kernelRelease(), "shows the deleted file")
	}
	for _, readOnly := range []bool{true, false} {
		fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: readOnly})
		got, ok := readTreeOf(t, fs)["new"]
		if !ok || got.Size != 96<<10+1 || got.Blocks != 8 || len(got.Data) != 1 || got.Data[0].Off != 96<<10 {
			t.Errorf("the new file, which has one block behind a hole: %+v", got)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ext4oracle.Fsck(t, image)
}

// buildFastImage has the kernel make an image whose log has fast commits to be replayed.
func buildFastImage(t *testing.T, s fastScene) string {
	t.Helper()
	ext4oracle.RequireRoot(t)
	dir := t.TempDir()
	live, image := filepath.Join(dir, "live"), filepath.Join(dir, "image")
	if err := ext4oracle.TryMke2fs(live, 16<<20, append([]string{"-O", "fast_commit"}, s.mke2fs...)...); err != nil {
		t.Skip("needs a newer e2fsprogs: ", err)
	}
	mounted, err := ext4oracle.TryMount(t, live, "commit=900")
	if err != nil {
		t.Skip(err)
	}
	d := fastDir{t, mounted, &[]*os.File{}}
	if s.before != nil {
		s.before(d)
	}
	if s.remount {
		ext4oracle.Unmount(t, mounted)
		if mounted, err = ext4oracle.TryMount(t, live, "commit=900"); err != nil {
			t.Fatal(err)
		}
		d.path = mounted
	}
	d.commitFully()
	d.writeFile("first", 1) // Linux may make a whole commit of the first
	s.act(d)
	d.failOnError(ext4oracle.CopyImage(image, live))
	for _, f := range *d.open {
		f.Close()
	}
	ext4oracle.Unmount(t, mounted)
	if len(fastBlockOffsets(t, image)) == 0 {
		t.Skip(kernelRelease(), "makes no fast commits of it")
	}
	return image
}

// fastBlockOffsets returns where the block with the head of the fast commits lies, and those
// that follow it and are not empty.
func fastBlockOffsets(t *testing.T, image string) (at []int64) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(1024) << b[1024+0x18]
	for off := int64(0); off < int64(len(b)); off += size {
		switch {
		case len(at) == 0 && bytes.HasPrefix(b[off:], []byte{9, 0, 8, 0, 0, 0, 0, 0}):
			at = append(at, off)
		case len(at) > 0 && (b[off] == 0 || b[off] > 9 || b[off+1] != 0):
			return at
		case len(at) > 0:
			at = append(at, off)
		}
	}
	return at
}

// TestReplayFastCommits compares what is replayed of fast commits with what the kernel
// makes of them. Where that has errors it is what e2fsck mends of it.
func TestReplayFastCommits(t *testing.T) {
	t.Parallel()
	for _, s := range fastScenes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var image string
			var want ext4oracle.Tree
			if s.kernelErrs {
				image = buildFastImage(t, s)
				want = treeAfterRepair(t, image)
			} else {
				var recovered string
				image, recovered = buildSoundFastImage(t, s)
				want = ext4oracle.Snapshot(t, recovered)
			}
			if want != nil {
				skipUnlessPending(t, image, want)
			}
			testFastReplay(t, image, want, s.readOnly)
		})
	}
}

// buildSoundFastImage has the kernel make an image whose fast commits it replays without errors,
// and returns what it makes of them, too. Some of what it logs it refuses: the inode of a
// file that it was removing at that instant.
func buildSoundFastImage(t *testing.T, s fastScene) (image, recovered string) {
	t.Helper()
	for range 5 {
		image = buildFastImage(t, s)
		recovered, err := ext4oracle.RecoverCopy(t, image)
		if err != nil {
			t.Log(err)
		} else if clean, said := ext4oracle.FsckStatus(recovered); !clean {
			t.Log(said)
		} else {
			return image, recovered
		}
	}
	t.Skip(kernelRelease(), "does not replay its fast commits")
	return "", ""
}

// treeAfterRepair returns what the kernel and then e2fsck make of an image, or e2fsck alone
// when the kernel refuses it; nil: neither can replay it.
func treeAfterRepair(t *testing.T, image string) ext4oracle.Tree {
	t.Helper()
	recovered, err := ext4oracle.RecoverCopy(t, image)
	if err != nil {
		err = ext4oracle.CopyImage(recovered, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	if clean, _ := ext4oracle.FsckStatus(recovered); !clean {
		if _, err := ext4oracle.Repair(recovered); err != nil {
			t.Log("neither the kernel nor e2fsck replays it")
			return nil
		}
	}
	return ext4oracle.Snapshot(t, recovered)
}

// skipUnlessPending skips the test when an image shows the same without its fast commits.
func skipUnlessPending(t *testing.T, image string, want ext4oracle.Tree) {
	t.Helper()
	if ext4oracle.Diff(want, ext4oracle.Recovered(t, withoutFastCommits(t, image)), ext4oracle.SameContent) == nil {
		t.Skip(kernelRelease(), "makes a whole commit of it")
	}
}

// withoutFastCommits returns a copy of an image whose log has none.
func withoutFastCommits(t *testing.T, image string) string {
	t.Helper()
	without := filepath.Join(t.TempDir(), "without")
	if err := ext4oracle.CopyImage(without, image); err != nil {
		t.Fatal(err)
	}
	overwrite(t, without, make([]byte, 16), fastBlockOffsets(t, image)[0])
	return without
}

func kernelRelease() string {
	var name unix.Utsname
	_ = unix.Uname(&name)
	return "the kernel (Linux " + unix.ByteSliceToString(name.Release[:]) + ")"
}

func overwrite(t *testing.T, image string, b []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// testFastReplay replays an image in memory and on the device.
func testFastReplay(t *testing.T, image string, want ext4oracle.Tree, readOnly bool) {
	t.Helper()
	check := func(what string, got ext4oracle.Tree) {
		t.Helper()
		// Extent trees may be a level deeper than the kernel's; e2fsck counts their blocks.
		expectSameTree(t, what, dirTimesAside(want), dirTimesAside(got), ext4oracle.DiffOptions{LostFound: true, Blocks: true})
	}
	before := hashFile(t, image)
	if list, err := checkImage(image); err != nil || len(list) > 0 {
		t.Errorf("the check of it: %v %v", list, err)
	}
	fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	if want == nil {
		want = readTreeOf(t, fs)
	}
	check("replayed in memory", readTreeOf(t, fs))
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if hashFile(t, image) != before {
		t.Error("reading changed the image")
	}
	if readOnly {
		return
	}
	rw := openImageFile(t, image, ext4.OpenOptions{})
	check("replayed on the device", readTreeOf(t, rw))
	if err := rw.Close(); err != nil {
		t.Fatal(err)
	}
	ext4oracle.Fsck(t, image)
	check("to the kernel", ext4oracle.Snapshot(t, image))
}

// dirTimesAside leaves the times of directories out, which the kernel sets to when it
// replays their names.
func dirTimesAside(tree ext4oracle.Tree) ext4oracle.Tree {
	out := ext4oracle.Tree{}
	for name, n := range tree {
		c := *n
		if c.IsDir() {
			c.Mtime, c.Ctime = ext4oracle.Time{}, ext4oracle.Time{}
		}
		out[name] = &c
	}
	return out
}
