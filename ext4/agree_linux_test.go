//go:build linux

package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
	"golang.org/x/sys/unix"
)

var agreeAll = flag.Bool("agree.all", false, "compare Check with e2fsck on images of all forms, not on a few")

// imageMaker is a way to make an image: a command line, in which IMAGE and DIR stand for the
// image, sparse and of its size, and for a directory with a few files.
type imageMaker struct {
	size     int64
	commands string // separated by ";"
}

const agreeMiB = 1 << 20

// few are the forms that found a difference once.
var few = []imageMaker{
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR -O quota,project IMAGE; e2fsck -fy IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR -O encrypt,casefold,verity IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR -U clear IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR IMAGE; tune2fs -O ^resize_inode IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext2 -d DIR -o hurd IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR -O mmp IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR -O inline_data IMAGE; debugfs -w -R \"sif f size 5000\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -d DIR IMAGE; debugfs -w -R \"sif f mtime 25220101000000\" IMAGE"},
	{0, "genext2fs -B 1024 -d DIR -b 20000 IMAGE"},
	{20 * agreeMiB, "busybox mke2fs -F IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 -b 1024 -d DIR IMAGE; resize2fs -f IMAGE 60M"},
	{20 * agreeMiB, "mke2fs -t ext4 IMAGE; debugfs -w -R \"ssv free_blocks_count 77\" IMAGE; debugfs -w -R \"ssv free_inodes_count 7\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 IMAGE; debugfs -w -R \"ssv mtime 20400101\" IMAGE; debugfs -w -R \"ssv min_extra_isize 300\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext4 IMAGE; debugfs -w -R \"ssv feature_compat 0\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext2 IMAGE; debugfs -w -R \"sif <7> links_count 0\" IMAGE; debugfs -w -R \"set_bg 0 flags 2\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext2 IMAGE; debugfs -w -R \"ssv journal_uuid random\" IMAGE"},
	{20 * agreeMiB, "mke2fs -t ext2 IMAGE; debugfs -w -R \"ssv journal_inum 12\" IMAGE"},
}

// imageMakers returns every form: each feature with each size of blocks, as mke2fs makes it and as
// tune2fs does, and sizes that resize2fs changed.
func imageMakers() []imageMaker {
	list := few
	features := strings.Fields("inline_data encrypt casefold mmp ea_inode large_dir verity stable_inodes orphan_file fast_commit bigalloc " +
		"meta_bg,^resize_inode sparse_super2 ^64bit ^metadata_csum ^metadata_csum,uninit_bg ^metadata_csum,^uninit_bg ^64bit,^extent " +
		"^flex_bg ^has_journal ^dir_index ^filetype ^sparse_super,^resize_inode ^large_file ^huge_file ^extra_isize ^dir_nlink " +
		"metadata_csum_seed sparse_super2,^resize_inode,^64bit uninit_bg,^metadata_csum,bigalloc ^ext_attr read-only " +
		"encrypt,casefold,verity,inline_data,ea_inode,orphan_file")
	for _, f := range features {
		for _, b := range []string{"1024", "2048", "4096", "65536"} {
			list = append(list, imageMaker{80 * agreeMiB, "mke2fs -t ext4 -d DIR -b " + b + " -O " + f + " IMAGE"})
		}
		for _, t := range []string{"ext2", "ext4", "ext4 -O ^metadata_csum,^64bit"} {
			list = append(list, imageMaker{80 * agreeMiB, "mke2fs -t " + t + " -d DIR IMAGE; tune2fs -O " + f + " IMAGE"},
				imageMaker{80 * agreeMiB, "mke2fs -t " + t + " -d DIR IMAGE; tune2fs -O " + f + " IMAGE; e2fsck -fy IMAGE"})
		}
	}
	for _, a := range []string{"-t ext2 -r 0 -O none", "-t ext2 -I 128", "-t ext3", "-t ext2 -o lites", "-t ext4 -o hurd", "-t ext4 -o freebsd",
		"-t ext4 -I 1024 -O inline_data", "-t ext4 -g 256", "-t ext4 -g 8192 -b 4096", "-t ext4 -E num_backup_sb=1", "-t ext4 -E packed_meta_blocks=1",
		"-t ext4 -G 64", "-t ext4 -m 50", "-t ext4 -E resize=4G", "-t ext4 -J size=1 -b 1024", "-t ext4 -E lazy_itable_init=0"} {
		list = append(list, imageMaker{60*agreeMiB + 777, "mke2fs " + a + " -d DIR IMAGE"})
		for _, to := range []string{"200M", "2G", "40M"} {
			list = append(list, imageMaker{60 * agreeMiB, "mke2fs " + a + " -d DIR IMAGE; resize2fs -f IMAGE " + to})
		}
	}
	return append(list, imageMaker{20 * agreeMiB, "mke2fs -t ext4 -O mmp IMAGE; debugfs -w -R \"set_mmp_value magic 5\" IMAGE"},
		imageMaker{20 << 40, "mke2fs -t ext4 -O bigalloc -C 65536 -J size=8 IMAGE"},
		imageMaker{10 << 40, "mke2fs -t ext4 -b 4096 -E lazy_itable_init=1 -N 1000000 -J size=8 IMAGE"},
		imageMaker{10 << 40, "mke2fs -t ext4 -b 4096 -N 1000000 -J size=8 IMAGE; tune2fs -L far -U random IMAGE"},
		imageMaker{10 << 40, "mke2fs -t ext4 -b 4096 -O ^metadata_csum,uninit_bg -N 1000000 -J size=8 IMAGE; tune2fs -L far IMAGE"},
		imageMaker{600 << 30, "mke2fs -t ext4 -b 1024 -N 1000000 -J size=8 IMAGE; tune2fs -m 1 IMAGE"})
}

// Check finds something in an image if and only if e2fsck -fn does, in whatever form other
// programs made it.
func TestAgreesWithE2fsck(t *testing.T) {
	t.Parallel()
	ext4oracle.RequireTools(t)
	list := few
	if *agreeAll {
		list = imageMakers()
	}
	dir := t.TempDir()
	long := strings.Repeat("target", 20)
	for name, n := range map[string]int{"f": 3, "big": 300000, "sub/with-a-name": 1} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"short": "f", "long": long} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range list {
		t.Run(m.commands, func(t *testing.T) { testAgreement(t, m, dir) })
	}
}

func testAgreement(t *testing.T, m imageMaker, dir string) {
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(m.size); errors.Is(err, unix.EFBIG) {
		t.Skip(err) // tmpfs has larger files
	} else if err != nil {
		t.Fatal(err)
	}
	for command := range strings.SplitSeq(m.commands, ";") {
		command = strings.NewReplacer("IMAGE", image, "DIR", dir, "mke2fs -t", "mke2fs -q -F -t").Replace(strings.TrimSpace(command))
		cmd := exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; "+command)
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(command, "e2fsck -fy") {
			t.Skipf("%s: %v: %s", command, err, out) // not known here
		}
	}
	clean, output := ext4oracle.FsckPasses(image)
	found, err := checkImage(image)
	found = slices.DeleteFunc(found, ext4.Problem.Harmless)
	if clean != (err == nil && len(found) == 0) {
		t.Errorf("e2fsck finds nothing: %v; Check: %v %v\n%s", clean, err, found, output)
	}
	if clean {
		if fs, err := ext4.Open(f, ext4.OpenOptions{ReadOnly: true}); err != nil {
			t.Error(err)
		} else if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A short symbolic link may have an attribute inode. Attribute inodes that newer versions of e2fsck and Linux refuse are found.
func TestCheckAttributeInodes(t *testing.T) {
	ext4oracle.RequireRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	ext4oracle.Mke2fs(t, image, 16<<20, "-O", "ea_inode")
	mounted, err := ext4oracle.TryMount(t, image)
	if err != nil {
		t.Skip(err)
	}
	short, value := filepath.Join(mounted, "s"), make([]byte, 6000)
	err = errors.Join(os.Mkdir(filepath.Join(mounted, "d"), 0o755), os.Symlink("short", short),
		unix.Lsetxattr(short, "trusted.big", value, 0), unix.Setxattr(filepath.Join(mounted, "d"), "trusted.big", value, 0))
	if err != nil {
		t.Fatal(err)
	}
	ext4oracle.Unmount(t, mounted)
	if found, err := checkImage(image); err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	for command, code := range map[string]string{"feature -ea_inode": "features", "sif d flags 0x280000": "inode"} {
		damaged := filepath.Join(t.TempDir(), "damaged")
		if err := ext4oracle.CopyImage(damaged, image); err != nil {
			t.Fatal(err)
		}
		ext4oracle.Debugfs(t, damaged, command)
		found, err := checkImage(damaged)
		if err != nil || len(found) == 0 || found[0].Code != code {
			t.Errorf("%s: %v, %v", command, found, err)
		}
	}
}

func TestCheckMountGuard(t *testing.T) {
	ext4oracle.RequireTools(t)
	image := filepath.Join(t.TempDir(), "image")
	ext4oracle.Mke2fs(t, image, 16<<20, "-O", "mmp")
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := make([]byte, 8)
	if _, err := f.ReadAt(at, 1024+0x168); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, int64(binary.LittleEndian.Uint64(at))*4096+1020); err != nil {
		t.Fatal(err)
	}
	if found, err := checkImage(image); err != nil || len(found) != 1 || found[0].Code != ext4.ProblemMMP {
		t.Error(found, err)
	}
}

// An inline file that is longer than its data reads as zeros behind it, as in Linux.
func TestInlineLonger(t *testing.T) {
	ext4oracle.RequireTools(t)
	image := filepath.Join(t.TempDir(), "image")
	ext4oracle.Mke2fs(t, image, 16<<20, "-O", "inline_data")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	ext4oracle.DebugfsAll(t, image, "write "+text+" f", "sif f size 300")
	got, err := iofs.ReadFile(openImageFile(t, image, ext4.OpenOptions{ReadOnly: true}).Std(), "f")
	if want := append([]byte("text"), make([]byte, 296)...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}
