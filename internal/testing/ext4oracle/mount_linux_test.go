package ext4oracle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// small makes an image with a file.
func small(t *testing.T) string {
	t.Helper()
	RequireRoot(t)
	image := filepath.Join(t.TempDir(), "small.img")
	Mke2fs(t, image, 8*mib)
	dir := Mount(t, image)
	if err := os.WriteFile(dir+"/file", []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	Unmount(t, dir)
	return image
}

func TestFsckNotices(t *testing.T) {
	image := small(t)
	Fsck(t, image)
	Debugfs(t, image, "set_inode_field /file links_count 5")
	if clean, output := FsckStatus(image); clean || !strings.Contains(output, "ref count") {
		t.Errorf("clean = %v with a wrong link count:\n%s", clean, output)
	}
	if _, err := Repair(image); err != nil {
		t.Error(err)
	}
	Fsck(t, image)
	if clean, _ := FsckStatus("/dev/null"); clean {
		t.Error("/dev/null is clean")
	}
	if _, err := Repair("/dev/null"); err == nil {
		t.Error("/dev/null was mended")
	}
}

func TestMountEndsWithTheTest(t *testing.T) {
	image := small(t)
	var dir string
	t.Run("mounted", func(t *testing.T) {
		dir = Mount(t, image, "ro")
		leaked, err := Leaked()
		if err != nil || !slices.Contains(leaked, dir) {
			t.Errorf("mounts: %q, %v, want %s among them", leaked, err, dir)
		}
		if err := os.WriteFile(dir+"/new", nil, 0o600); err == nil {
			t.Error("a read-only mount was written to")
		}
	})
	if leaked, err := Leaked(); err != nil || slices.Contains(leaked, dir) {
		t.Errorf("mounts: %q, %v, want %s gone", leaked, err, dir)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	for _, name := range glob(t, "/sys/block/loop*/loop/backing_file") {
		if b, _ := os.ReadFile(name); strings.Contains(string(b), image) {
			t.Errorf("%s still has the image", name)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestKernelSaysWhy(t *testing.T) {
	image := small(t)
	Debugfs(t, image, "set_super_value feature_incompat 0x40000000")
	_, err := TryMount(t, image)
	if err == nil || !strings.Contains(err.Error(), "kernel refuses") {
		t.Errorf("err = %v", err)
	}
}

// TestReadTree checks the reader of trees against what was written.
func TestReadTree(t *testing.T) {
	image := small(t)
	dir := Mount(t, image)
	for _, step := range []error{
		unix.Lsetxattr(dir+"/file", "trusted.x", []byte("v\x00"), 0),
		os.Symlink("target", dir+"/sym\nlink\xff"),
		unix.Mknod(dir+"/dev", unix.S_IFBLK|0o600, int(unix.Mkdev(300, 70000))),
		os.Link(dir+"/file", dir+"/other"),
		os.Truncate(dir+"/file", 1<<40),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	Unmount(t, dir)
	tree := Snapshot(t, image)
	want := []string{".", "dev", "file", "lost+found", "other", "sym\nlink\xff"}
	if got := tree.Paths(); !slices.Equal(got, want) {
		t.Fatalf("paths %q, want %q", got, want)
	}
	if n := tree["dev"]; n.Type() != TypeBlock || n.Major != 300 || n.Minor != 70000 {
		t.Errorf("dev: %+v", n)
	}
	if n := tree["sym\nlink\xff"]; n.Target != "target" {
		t.Errorf("symlink: %+v", n)
	}
	n := tree["file"]
	if n.Xattrs["trusted.x"] != "v\x00" || n.Size != 1<<40 || !slices.Equal(n.Data, []Range{{0, 4096}}) {
		t.Errorf("file: %+v", n)
	}
	padded := append([]byte("content"), make([]byte, unit)...)
	sum := newContentSummer()
	sum.addPiece(0, padded[:unit])
	if want := sum.finishSum(1 << 40); n.Sum != want {
		t.Errorf("sum %v, want %v", n.Sum, want)
	}
	if l := tree.Links(); l["other"] != "file" || l["file"] != "file" || len(l) != 2 {
		t.Errorf("links: %v", l)
	}
}

func TestCopyImage(t *testing.T) {
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, 3 << 20, 1 << 30} {
		if _, err := f.WriteAt(make([]byte, 5000), off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, off+100); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(2 << 30); err != nil {
		t.Fatal(err)
	}
	if err := CopyImage(dst, src); err != nil {
		t.Fatal(err)
	}
	trees := [2]Tree{}
	for i, dir := range []string{filepath.Dir(src), filepath.Dir(dst)} {
		tree, err := ReadTree(dir, ReadOptions{NoHoles: true})
		if err != nil {
			t.Fatal(err)
		}
		trees[i] = Tree{"x": tree["src"]}
		if i == 1 {
			trees[i] = Tree{"x": tree["dst"]}
		}
	}
	opts := SameContent
	if d := Diff(trees[0], trees[1], opts); d != nil {
		t.Error(d)
	}
	if b := trees[1]["x"].Blocks; b > 200 {
		t.Errorf("the copy takes %d sectors", b)
	}
}

// TestPopulateRepeats fills two images and compares them.
func TestPopulateRepeats(t *testing.T) {
	RequireRoot(t)
	var trees [2]Tree
	for i := range trees {
		_, trees[i] = Build(t, Matrix[1])
	}
	if d := Diff(trees[0], trees[1], SameContent); d != nil {
		t.Error(strings.Join(d, "\n"))
	}
	other := filepath.Join(t.TempDir(), "other.img")
	Mke2fs(t, other, Matrix[1].Size)
	dir := Mount(t, other)
	if _, err := Populate(dir, 2, PopulateOptions{}); err != nil {
		t.Fatal(err)
	}
	Unmount(t, dir)
	if d := Diff(trees[0], Snapshot(t, other), SameContent); d == nil {
		t.Error("another seed gives the same content")
	}
}
