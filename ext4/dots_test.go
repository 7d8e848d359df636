package ext4

import (
	"errors"
	"testing"
)

// "." and ".." stand at the beginning of a directory, and are nobody's name elsewhere.
func TestDotEntries(t *testing.T) {
	fs := &FS{sb: &superblock{blockSize: 1024, inodes: 100, incompat: incompatFiletype}}
	dir := &inode{num: 12}
	block := func(names ...string) []byte {
		b := make([]byte, 1024)
		at := 0
		for k, name := range names {
			n := entryLength(len(name))
			if k == len(names)-1 {
				n = len(b) - at
			}
			putEntry(b[at:], uint32(20+k), n, ftDir, name)
			at += n
		}
		return b
	}
	for _, c := range []struct {
		l     uint32
		names []string
		ok    bool
	}{
		{0, []string{".", "..", "a"}, true}, {1, []string{"a", "b"}, true}, {0, []string{"..", ".", "a"}, false}, {0, []string{".", "a", ".."}, false},
		{0, []string{".", "..", ".."}, false}, {0, []string{".", "..", "."}, false}, {1, []string{".", ".."}, false}, {1, []string{"a", ".."}, false},
	} {
		err := fs.checkDotEntries(dir, c.l, block(c.names...))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("block %d of %q: %v", c.l, c.names, err)
		}
	}
}
