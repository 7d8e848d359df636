//go:build linux

package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/ext4/internal/oracle"
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

func (d fastDir) at(name string) string { return filepath.Join(d.path, name) }

func (d fastDir) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d fastDir) write(name string, n int) { d.writeAt(name, 0, n) }

// writeAt writes n bytes to a file, and syncs it.
func (d fastDir) writeAt(name string, off int64, n int) {
	d.t.Helper()
	f, err := os.OpenFile(d.at(name), os.O_RDWR|os.O_CREATE, 0o640)
	d.must(err)
	_, err = f.WriteAt(bytes.Repeat([]byte(name+" "), n/(len(name)+1)+1)[:n], off)
	d.must(errors.Join(err, f.Sync(), f.Close()))
}

func (d fastDir) sync(name string) {
	d.t.Helper()
	f, err := os.Open(d.at(name))
	d.must(err)
	d.must(errors.Join(f.Sync(), f.Close()))
}

// commit has Linux make a whole commit.
func (d fastDir) commit() {
	d.t.Helper()
	f, err := os.Open(d.path)
	d.must(err)
	d.must(errors.Join(unix.Syncfs(int(f.Fd())), f.Close()))
}

func (d fastDir) readTree() oracle.Tree {
	d.t.Helper()
	tree, err := oracle.ReadTree(d.path, oracle.ReadOptions{})
	d.must(err)
	return tree
}

func (d fastDir) rename(a, b string) { d.t.Helper(); d.must(os.Rename(d.at(a), d.at(b))) }
func (d fastDir) remove(a string)    { d.t.Helper(); d.must(os.Remove(d.at(a))) }
func (d fastDir) mkdir(a string)     { d.t.Helper(); d.must(os.Mkdir(d.at(a), 0o755)) }
func (d fastDir) link(a, b string)   { d.t.Helper(); d.must(os.Link(d.at(a), d.at(b))) }

func (d fastDir) punch(name string, mode uint32, off, n int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.at(name), os.O_RDWR|os.O_CREATE, 0o640)
	d.must(err)
	d.must(errors.Join(unix.Fallocate(int(f.Fd()), mode, off, n), f.Sync(), f.Close()))
}

var fastScenes = []fastScene{
	{name: "create", act: func(d fastDir) { d.write("a", 10); d.write("b", 100000) }},
	{name: "append", before: func(d fastDir) { d.write("a", 5000) }, act: func(d fastDir) { d.writeAt("a", 5000, 50000); d.writeAt("a", 1<<20, 4096) }},
	{name: "link", before: func(d fastDir) { d.write("a", 10) }, act: func(d fastDir) { d.link("a", "b"); d.sync("b") }},
	{name: "unlink", before: func(d fastDir) { d.write("a", 100000); d.write("b", 1) },
		act: func(d fastDir) { d.remove("a"); d.write("b", 2) }},
	{name: "unlink one of two", before: func(d fastDir) { d.write("a", 100); d.link("a", "b") },
		act: func(d fastDir) { d.remove("a"); d.sync("b") }},
	{name: "create and remove", act: func(d fastDir) { d.write("a", 8192); d.remove("a"); d.write("b", 1) }},
	{name: "rename", before: func(d fastDir) { d.write("a", 10) }, act: func(d fastDir) { d.rename("a", "b"); d.sync("b") }},
	{name: "rename over", before: func(d fastDir) { d.write("a", 10000); d.write("b", 20000) },
		act: func(d fastDir) { d.rename("a", "b"); d.sync("b") }},
	{name: "new over old", before: func(d fastDir) { d.write("a", 10000) },
		act: func(d fastDir) { d.write("tmp", 5000); d.rename("tmp", "a"); d.sync("a") }},
	{name: "across directories", before: func(d fastDir) { d.mkdir("x"); d.mkdir("y"); d.write("x/a", 10) },
		act: func(d fastDir) { d.rename("x/a", "y/b"); d.sync("y/b") }},
	{name: "truncate", before: func(d fastDir) { d.write("a", 1<<20) },
		act: func(d fastDir) { d.must(os.Truncate(d.at("a"), 12345)); d.sync("a") }},
	{name: "truncate to nothing", before: func(d fastDir) { d.write("a", 1<<20) },
		act: func(d fastDir) { d.must(os.Truncate(d.at("a"), 0)); d.writeAt("a", 0, 9000) }},
	{name: "preallocate", act: func(d fastDir) { d.punch("a", 0, 0, 1<<20); d.writeAt("a", 65536, 10000) }},
	{name: "punch", before: func(d fastDir) { d.write("a", 1<<20) },
		act: func(d fastDir) { d.punch("a", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100000, 300000) }},
	{name: "mkdir", act: func(d fastDir) { d.mkdir("x"); d.mkdir("x/y"); d.write("x/y/a", 100); d.write("x/b", 1) }, kernelErrs: true},
	{name: "rmdir", before: func(d fastDir) { d.mkdir("x"); d.write("x/a", 1); d.write("b", 1) },
		act: func(d fastDir) { d.remove("x/a"); d.remove("x"); d.write("b", 2) }, kernelErrs: true},
	{name: "rename a directory", before: func(d fastDir) { d.mkdir("x"); d.write("x/a", 1) },
		act: func(d fastDir) { d.rename("x", "y"); d.write("y/a", 2) }, kernelErrs: true},
	{name: "symlink", act: func(d fastDir) { d.must(os.Symlink("target", d.at("s"))); d.write("a", 1) }, kernelErrs: true},
	{name: "node", act: func(d fastDir) {
		d.must(unix.Mknod(d.at("n"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		d.write("a", 1)
	}, kernelErrs: true},
	{name: "mode", before: func(d fastDir) { d.write("a", 1) }, act: func(d fastDir) {
		d.must(os.Chmod(d.at("a"), 0o4711))
		d.must(os.Chown(d.at("a"), 70000, 80000))
		d.sync("a")
	}},
	{name: "many", before: func(d fastDir) { d.mkdir("x") }, act: func(d fastDir) {
		for k := range 75 {
			d.must(os.WriteFile(d.at(fmt.Sprintf("x/a name so long that a block has no room for all of them %d", k)), []byte("small"), 0o600))
		}
		for k := range 25 {
			d.remove(fmt.Sprintf("x/a name so long that a block has no room for all of them %d", 3*k))
		}
		d.write("x/last", 1)
	}},
	{name: "holes", act: func(d fastDir) {
		for k := range 40 {
			d.writeAt("a", int64(k)*16384, 4096)
		}
	}},
	{name: "no checksums", mke2fs: []string{"-O", "fast_commit,^metadata_csum"}, before: func(d fastDir) { d.write("a", 10) },
		act: func(d fastDir) { d.write("b", 100000); d.rename("b", "a"); d.sync("a") }},
	{name: "32 bit", mke2fs: []string{"-O", "fast_commit,^metadata_csum,^64bit"}, act: func(d fastDir) { d.write("b", 100000) }},
	{name: "open without a name", before: func(d fastDir) { d.write("a", 50000) }, act: func(d fastDir) {
		f, err := os.Open(d.at("a"))
		d.must(err)
		*d.open = append(*d.open, f)
		d.remove("a")
		d.write("b", 2)
	}, kernelErrs: true},
	{name: "named late", act: func(d fastDir) {
		fd, err := unix.Open(d.path, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		d.must(err)
		f := os.NewFile(uintptr(fd), "")
		_, err = f.WriteString("text")
		d.must(errors.Join(err, f.Sync()))
		d.must(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d.at("t"), unix.AT_SYMLINK_FOLLOW))
		d.must(errors.Join(f.Sync(), f.Close()))
		d.write("b", 2)
	}, kernelErrs: true},
	{name: "mapped by a tree", before: func(d fastDir) {
		for k := range 20 {
			d.writeAt("a", int64(k)*16384, 4096)
		}
	}, act: func(d fastDir) {
		for k := range 20 {
			d.writeAt("a", int64(2*k+1)*8192, 4096)
		}
		d.must(os.Truncate(d.at("a"), 100000))
		d.sync("a")
	}},
	{name: "many commits", act: func(d fastDir) {
		for k := range 60 {
			d.write(fmt.Sprintf("f%d", k), k*1000)
			if k%3 == 2 {
				d.rename(fmt.Sprintf("f%d", k), fmt.Sprintf("f%d", k-1))
				d.remove(fmt.Sprintf("f%d", k-2))
			}
		}
		d.write("last", 1)
	}},
	{name: "inodes of many blocks", before: func(d fastDir) {
		for k := range 800 {
			d.must(os.WriteFile(d.at(fmt.Sprintf("f%d", k)), nil, 0o600))
		}
	}, act: func(d fastDir) {
		for k := range 50 {
			d.must(os.Chmod(d.at(fmt.Sprintf("f%d", 16*k)), 0o644))
		}
		d.write("last", 1)
	}},
	{name: "not in the log", remount: true, before: func(d fastDir) {
		for _, dir := range []string{"x", "y"} {
			d.mkdir(dir)
			for k := range 100 {
				d.must(os.WriteFile(d.at(fmt.Sprintf("%s/f%d", dir, k)), make([]byte, 100*k), 0o600))
			}
		}
	}, act: func(d fastDir) {
		for k := range 50 {
			switch f := fmt.Sprintf("x/f%d", 2*k); k % 3 {
			case 0:
				d.remove(f)
			case 1:
				d.rename(f, fmt.Sprintf("y/f%d", k))
			case 2:
				d.writeAt(f, 8000, 5000)
			}
		}
		d.write("last", 1)
	}},
	{name: "encrypt", mke2fs: []string{"-O", "fast_commit,encrypt"}, readOnly: true, before: func(d fastDir) { d.write("a", 10000) },
		act: func(d fastDir) { d.write("b", 20000); d.rename("b", "a"); d.sync("a"); d.write("c", 1) }},
	{name: "quota", mke2fs: []string{"-O", "fast_commit,quota,project"}, readOnly: true, before: func(d fastDir) { d.write("a", 10000) },
		act: func(d fastDir) { d.write("b", 20000); d.rename("b", "a"); d.sync("a"); d.write("c", 1) }},
	{name: "number used again", before: func(d fastDir) { d.write("a", 50000); d.write("b", 1) },
		act: func(d fastDir) { d.remove("a"); d.write("b", 2); d.write("c", 3); d.mkdir("d"); d.write("d/e", 5) }, kernelErrs: true},
}

// TestFastCommitsUseOrphansNumber replays fast commits that give the number of a deleted file
// to a new one, when the last transaction has the deleted file as an orphan. The kernel and
// e2fsck show the blocks of the deleted file in the hole of the new one; e2fsck finds no
// fault in that.
func TestFastCommitsUseOrphansNumber(t *testing.T) {
	t.Parallel()
	var number uint64
	image := fastImage(t, fastScene{before: func(d fastDir) {
		d.write("secret", 96<<10)
		f, err := os.Open(d.at("secret"))
		d.must(err)
		*d.open = append(*d.open, f)
		var st unix.Stat_t
		d.must(unix.Fstat(int(f.Fd()), &st))
		number = st.Ino
		d.remove("secret")
	}, act: func(d fastDir) {
		d.must((*d.open)[0].Close())
		d.writeAt("new", 96<<10, 1)
	}})
	if !hasOrphans(t, image) {
		t.Skip(kernelName(), "leaves no orphan")
	}
	if n := oracle.Recovered(t, image)["new"]; n == nil || n.Ino != number {
		t.Skip(kernelName(), "does not use the number again")
	} else if len(n.Data) == 1 && n.Data[0].Off == 0 {
		t.Log(kernelName(), "shows the deleted file")
	}
	for _, readOnly := range []bool{true, false} {
		fs := openImage(t, image, ext4.OpenOptions{ReadOnly: readOnly})
		got, ok := treeOf(t, fs)["new"]
		if !ok || got.Size != 96<<10+1 || got.Blocks != 8 || len(got.Data) != 1 || got.Data[0].Off != 96<<10 {
			t.Errorf("the new file, which has one block behind a hole: %+v", got)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Fsck(t, image)
}

// fastImage has the kernel make an image whose log has fast commits to be replayed.
func fastImage(t *testing.T, s fastScene) string {
	t.Helper()
	oracle.RequireRoot(t)
	dir := t.TempDir()
	live, image := filepath.Join(dir, "live"), filepath.Join(dir, "image")
	if err := oracle.TryMke2fs(live, 16<<20, append([]string{"-O", "fast_commit"}, s.mke2fs...)...); err != nil {
		t.Skip("needs a newer e2fsprogs: ", err)
	}
	mounted, err := oracle.TryMount(t, live, "commit=900")
	if err != nil {
		t.Skip(err)
	}
	d := fastDir{t, mounted, &[]*os.File{}}
	if s.before != nil {
		s.before(d)
	}
	if s.remount {
		oracle.Unmount(t, mounted)
		if mounted, err = oracle.TryMount(t, live, "commit=900"); err != nil {
			t.Fatal(err)
		}
		d.path = mounted
	}
	d.commit()
	d.write("first", 1) // Linux may make a whole commit of the first
	s.act(d)
	d.must(oracle.CopyImage(image, live))
	for _, f := range *d.open {
		f.Close()
	}
	oracle.Unmount(t, mounted)
	if len(fastBlocks(t, image)) == 0 {
		t.Skip(kernelName(), "makes no fast commits of it")
	}
	return image
}

// fastBlocks returns where the block with the head of the fast commits lies, and those
// that follow it and are not empty.
func fastBlocks(t *testing.T, image string) (at []int64) {
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
			image := fastImage(t, s)
			testFastReplay(t, image, fastWant(t, image, s), s.readOnly)
		})
	}
}

// fastWant returns what the kernel makes of an image, or e2fsck where that has errors;
// nil: neither can replay it.
func fastWant(t *testing.T, image string, s fastScene) oracle.Tree {
	t.Helper()
	recovered, err := oracle.RecoverCopy(t, image)
	if err != nil && s.kernelErrs {
		err = oracle.CopyImage(recovered, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	if clean, said := oracle.FsckStatus(recovered); !clean {
		if _, err := oracle.Repair(recovered); err != nil && s.kernelErrs {
			t.Log("neither the kernel nor e2fsck replays it")
			return nil
		}
		if !s.kernelErrs {
			t.Errorf("what the kernel replays has errors: %s", said)
		}
	}
	want := oracle.Snapshot(t, recovered)
	skipUnlessPending(t, image, want)
	return want
}

// skipUnlessPending skips the test when an image shows the same without its fast commits.
func skipUnlessPending(t *testing.T, image string, want oracle.Tree) {
	t.Helper()
	if oracle.Diff(want, oracle.Recovered(t, withoutFastCommits(t, image)), oracle.SameContent) == nil {
		t.Skip(kernelName(), "makes a whole commit of it")
	}
}

// withoutFastCommits returns a copy of an image whose log has none.
func withoutFastCommits(t *testing.T, image string) string {
	t.Helper()
	without := filepath.Join(t.TempDir(), "without")
	if err := oracle.CopyImage(without, image); err != nil {
		t.Fatal(err)
	}
	overwrite(t, without, make([]byte, 16), fastBlocks(t, image)[0])
	return without
}

func kernelName() string {
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
func testFastReplay(t *testing.T, image string, want oracle.Tree, readOnly bool) {
	t.Helper()
	check := func(what string, got oracle.Tree) {
		t.Helper()
		// Extent trees may be a level deeper than the kernel's; e2fsck counts their blocks.
		same(t, what, dirTimesAside(want), dirTimesAside(got), oracle.DiffOptions{LostFound: true, Blocks: true})
	}
	before := hashFile(t, image)
	if list, err := checkImage(image); err != nil || len(list) > 0 {
		t.Errorf("the check of it: %v %v", list, err)
	}
	fs := openImage(t, image, ext4.OpenOptions{ReadOnly: true})
	if want == nil {
		want = treeOf(t, fs)
	}
	check("replayed in memory", treeOf(t, fs))
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if hashFile(t, image) != before {
		t.Error("reading changed the image")
	}
	if readOnly {
		return
	}
	rw := openImage(t, image, ext4.OpenOptions{})
	check("replayed on the device", treeOf(t, rw))
	if err := rw.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Fsck(t, image)
	check("to the kernel", oracle.Snapshot(t, image))
}

// dirTimesAside leaves the times of directories out, which the kernel sets to when it
// replays their names.
func dirTimesAside(tree oracle.Tree) oracle.Tree {
	out := oracle.Tree{}
	for name, n := range tree {
		c := *n
		if c.IsDir() {
			c.Mtime, c.Ctime = oracle.Time{}, oracle.Time{}
		}
		out[name] = &c
	}
	return out
}
