//go:build linux

package ext4_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// Everything that can be made is made once, and Linux sees it as we do.
func TestWriteAll(t *testing.T) {
	ext4oracle.RequireRoot(t)
	t.Run("own", func(t *testing.T) { testWriteAll(t, newImageFile(t, 64<<20)) })
	for _, bs := range []string{"1024", "2048", "4096"} {
		t.Run("mke2fs "+bs, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "disk.raw")
			ext4oracle.Mke2fs(t, image, 64<<20, "-b", bs)
			testWriteAll(t, image)
		})
	}
}

func testWriteAll(t *testing.T, image string) {
	fs := openImageFile(t, image, ext4.OpenOptions{})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := fs.WriteFile(ctx, "a/b/small", strings.NewReader("hello"), ext4.WriteOptions{Mode: 0o640})
	must(err)
	_, err = fs.WriteFile(ctx, "a/large", bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 200_000)), ext4.WriteOptions{})
	must(err)
	must(fs.Mkdir("many", 0o755))
	for i := range 600 {
		_, err := fs.WriteFile(ctx, fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%60), i), strings.NewReader(fmt.Sprint(i)), ext4.WriteOptions{})
		must(err)
	}
	for i := 0; i < 600; i += 3 {
		must(fs.Remove(fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%60), i)))
	}
	must(fs.Symlink("a/b/small", "short"))
	must(fs.Symlink(strings.Repeat("x/", 500), "long"))
	must(fs.Link("a/b/small", "hard"))
	must(fs.Mknod("fifo", 0o644|1<<25, 0))
	f, err := fs.OpenFile("sparse", ext4.OpenFlags{Create: true, Mode: 0o600})
	must(err)
	for i := range int64(700) {
		_, err := f.WriteAt([]byte("data"), i*3*4096+17)
		must(err)
	}
	must(f.PunchHole(100_000, 1_000_000))
	must(f.Truncate(8_000_001))
	must(f.Allocate(9_000_000, 500_000, false))
	_, err = f.Append([]byte("the end"))
	must(err)
	must(f.Close())
	must(fs.Setxattr("sparse", "user.small", []byte("v")))
	must(fs.Setxattr("sparse", "user.large", bytes.Repeat([]byte("L"), 700)))
	must(fs.Chtimes("hard", time.Unix(4_200_000_000, 123456789), time.Unix(-1_000_000_000, 999999999)))
	must(fs.Chown("a", 70_000, 1<<31))
	must(fs.Chmod("a", 0o1777))
	must(fs.Rename("a/b", "moved", false))
	must(fs.Copy(ctx, "many", "copies/of/many", false))
	must(fs.Copy(ctx, "sparse", "sparse2", false))
	must(fs.RemoveAll(ctx, "many"))
	want := readTreeOf(t, fs)
	must(fs.Close())
	ext4oracle.Fsck(t, image)
	expectSameTree(t, "to the kernel", want, ext4oracle.Snapshot(t, image), ext4oracle.SameImage)
}
