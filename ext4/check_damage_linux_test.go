//go:build linux

package ext4_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// damage is something that debugfs does to an image, with checksums made right again,
// and what Check is to say about it.
type damage struct {
	recipe   string
	commands string // separated by semicolons
	codes    string // of which at least one is to be reported
}

var damages = []damage{
	{"default", "clri <12>", "entry-inode"},
	{"default", "clri /files/a", "entry-inode"},
	{"default", "clri /dir", "entry-inode"},
	{"default", "unlink /files/a", "unreachable"},
	{"default", "unlink /dir/sub", "unreachable"},
	{"default", "link /files/a /dir/more", "links"},
	{"default", "link /dir /dir/sub/loop", "directory-parents"},
	{"default", "link /dir /dir/sub/loop; unlink /dir", "unreachable"},
	{"default", "link /dir/sub /dir/sub/self; unlink /dir/sub", "unreachable"},
	{"default", "sif /files/a links_count 3", "links"},
	{"default", "sif /files/a links_count 0", "entry-inode"},
	{"default", "sif /files/a links_count 7", "links"},
	{"default", "sif /dir links_count 9", "links"},
	{"default", "sif /files/a mode 0", "inode-mode"},
	{"default", "sif /files/a mode 0120644", "symlink"},
	{"default", "sif /files/a mode 040755", "directory entry-type inode-size directory-sum"},
	{"default", "sif /files/a mode 020644", "inode entry-type"},
	{"default", "sif /dir mode 0100644", "entry-type"},
	{"default", "sif /files/a size 100000000000000000", "inode-size"},
	{"default", "sif /files/big size 5", "inode-size"},
	{"default", "sif /dir size 8192", "inode-size"},
	{"default", "sif /dir size 0", "inode-size"},
	{"default", "sif /files/a blocks 80", "inode-blocks"},
	{"default", "sif /files/a dtime 12", "inode-deleted"},
	{"default", "sif /files/a dtime 20200101", "inode-deleted"},
	{"default", "sif /files/a flags 0", "mapping"},
	{"default", "sif /files/a flags 0x81000", "inode"},
	{"default", "sif /files/a flags 0x10000000", "inode inline-data"},
	{"default", "sif /files/a block[0] 0", "mapping"},
	{"default", "sif /files/a block[1] 9", "mapping"},
	{"default", "sif /files/a block[4] 0xffff8001", "block-outside"},
	{"default", "sif /files/a block[5] 1", "block-shared"},
	{"default", "sif /files/a block[5] 0x7fffffff", "block-outside"},
	{"default", "sif /files/a file_acl 3", "block-shared xattr"},
	{"default", "sif /files/a file_acl 0x7fffffff", "xattr"},
	{"default", "sif /files/a extra_isize 3", "inode"},
	{"default", "sif /files/a faddr 9", "inode"},
	{"default", "sif /link size 99", "symlink"},
	{"default", "sif /fifo size 99", "inode"},
	{"default", "sif <2> mode 0100755", "root"},
	{"default", "sif <8> links_count 0", "journal"},
	{"default", "sif <8> size 4096", "journal"},
	{"default", "sif <7> block[DIND] 0", "resize-inode"},
	{"default", "sif <7> block[0] 99", "resize-inode"},
	{"default", "freeb 1 1", "block-unmarked"},
	{"default", "setb 9000 5", "block-leaked"},
	{"default", "seti <300>", "inode-leaked"},
	{"default", "freei <12>", "inode-unmarked"},
	{"default", "ssv free_blocks_count 17", "super-count"},
	{"default", "ssv free_inodes_count 17", "super-count"},
	{"default", "ssv r_blocks_count 16000", "super"},
	{"default", "ssv want_extra_isize 999", "super"},
	{"default", "ssv first_ino 20", "entry-inode"},
	{"default", "ssv journal_inum 0", "journal inode"},
	{"default", "ssv mtime 20990101000000", "super-time"},
	{"default", "ssv state 3", "errors-recorded"},
	{"default", "feature -filetype", "entry-type"},
	{"default", "feature -has_journal", "journal"},
	{"default", "feature -extent", "features inode"},
	{"default", "set_bg 0 free_blocks_count 5; set_bg 0 checksum calc", "group-count"},
	{"default", "set_bg 0 free_inodes_count 5; set_bg 0 checksum calc", "group-count"},
	{"default", "set_bg 0 used_dirs_count 99; set_bg 0 checksum calc", "group-count"},
	{"default", "set_bg 0 itable_unused 16380; set_bg 0 checksum calc", "entry-inode inode-leaked"},
	{"default", "set_bg 0 checksum 77", "group-checksum"},
	{"default", "set_bg 0 block_bitmap 5; set_bg 0 checksum calc", "metadata-overlap"},
	{"default", "set_bg 0 inode_table 99999999; set_bg 0 checksum calc", "group"},
	{"default", "set_bg 0 flags 1; set_bg 0 checksum calc", "inode-unmarked entry-inode"},
	{"nochecksums", "clri /files/a", "entry-inode"},
	{"nochecksums", "sif /files/a block[5] 1", "block-shared"},
	{"nochecksums", "unlink /files/a", "unreachable"},
	{"nochecksums", "freeb 1 1", "block-unmarked"},
	{"blockmap", "sif /files/a block[0] 1", "block-shared"},
	{"blockmap", "sif /files/a block[IND] 0x7fffffff", "block-outside"},
	{"blockmap", "sif /files/big block[IND] 0", "inode-blocks"},
	{"blockmap", "sif /dir block[0] 0", "directory"},
}

// What is damaged so that checksums are right is found by what is wrong.
func TestCheckDamaged(t *testing.T) {
	ext4oracle.RequireTools(t)
	base := map[string]string{}
	for _, r := range ext4oracle.Matrix {
		switch r.Name {
		case "default", "nochecksums", "blockmap":
			r.Size = 64 << 20
			base[r.Name] = buildSmallImage(t, r)
		}
	}
	for _, d := range damages {
		t.Run(d.recipe+" "+d.commands, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "damaged.img")
			if err := ext4oracle.CopyImage(image, base[d.recipe]); err != nil {
				t.Fatal(err)
			}
			for command := range strings.SplitSeq(d.commands, ";") {
				command = strings.TrimSpace(command)
				if out := ext4oracle.Debugfs(t, image, command); strings.Contains(out, "nvalid") || strings.Contains(out, "not found") {
					t.Fatalf("debugfs %q: %s", command, out)
				}
			}
			expectDamage(t, image, d)
		})
	}
}

func expectDamage(t *testing.T, image string, d damage) {
	t.Helper()
	list, err := checkImage(image)
	found := err != nil
	for _, p := range list {
		found = found || strings.Contains(" "+d.codes+" ", " "+p.Code+" ")
	}
	if !found {
		t.Errorf("Check says (%v) %v, want one of %s", err, list, d.codes)
	}
	clean, output := ext4oracle.FsckStatus(image)
	if clean && d.codes != ext4.ProblemErrors {
		t.Errorf("e2fsck finds nothing, and Check %v", list)
	}
	t.Logf("Check: %v %v\n%s", err, list, output)
}

// buildSmallImage makes an image with a few files, by debugfs.
func buildSmallImage(t *testing.T, r ext4oracle.Recipe) string {
	t.Helper()
	dir := t.TempDir()
	image, small, big := filepath.Join(dir, r.Name+".img"), filepath.Join(dir, "small"), filepath.Join(dir, "big")
	ext4oracle.Mke2fs(t, image, r.Size, r.Mke2fs...)
	for name, n := range map[string]int{small: 5000, big: 300000} {
		if err := os.WriteFile(name, []byte(strings.Repeat("x", n)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{
		"mkdir /files", "mkdir /dir", "mkdir /dir/sub", "write " + small + " /files/a", "write " + big + " /files/big",
		"write " + small + " /files/b", "symlink link target", "mknod fifo p", "ea_set /files/b user.a value",
	} {
		ext4oracle.Debugfs(t, image, command)
	}
	ext4oracle.Fsck(t, image)
	return image
}
