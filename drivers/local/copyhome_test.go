//go:build unix

package local_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/unix"
)

// copyHome copies a home that nobody has open, with its links, modes and holes: a test that
// needs the same home many times makes it once. What the ballast holds is left out; whoever
// opens the copy takes it again.
func copyHome(t *testing.T, from string) (to string) {
	t.Helper()
	to = filepath.Join(t.TempDir(), "home")
	links := map[uint64]string{} // by inode: the copy of a file with several names
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		copied := to + path[len(from):]
		switch {
		case d.IsDir() && d.Name() == "ballast-inodes":
			return fs.SkipDir
		case d.Name() == "ballast":
			return nil
		case d.IsDir():
			info, err := d.Info()
			if err != nil {
				return err
			}
			return os.Mkdir(copied, info.Mode().Perm()|0o700)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, copied)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if first, ok := links[st.Ino]; ok {
			return os.Link(first, copied)
		}
		links[st.Ino] = copied
		return copyFile(t, path, copied, &st)
	}))
	return to
}

// copyFile copies a regular file and leaves its holes.
func copyFile(t *testing.T, from, to string, st *unix.Stat_t) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	content := sparse.File(t.Context(), in)
	defer content.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	err = sparse.Copy(t.Context(), content, st.Size, func(b []byte, off int64) error {
		_, err := out.WriteAt(b, off)
		return err
	})
	if err == nil {
		err = out.Truncate(st.Size)
	}
	if err == nil {
		err = out.Chmod(fs.FileMode(st.Mode & 0o777))
	}
	return err
}
