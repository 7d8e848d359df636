package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
)

// CopyTree copies the directory src to dst, which must not exist: directories,
// regular files and links, with their permissions and times, owned by the caller. What
// else there is, and what the caller may not read, is left out.
func CopyTree(ctx context.Context, src, dst string) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	from, err := os.OpenRoot(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	return copyDir(ctx, from, to, ".")
}

func copyDir(ctx context.Context, from, to *os.Root, dir string) error {
	if strings.Count(dir, "/") >= maxDepth {
		return driver.Errorf(vole.ErrUnsupported, "%.200q...: deeper than %d directories", dir, maxDepth)
	}
	list, err := readDir(from, dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyEntry(ctx, from, to, path.Join(dir, e.Name()), e); err != nil {
			return err
		}
	}
	return nil
}

func copyEntry(ctx context.Context, from, to *os.Root, name string, e fs.DirEntry) error {
	st, err := e.Info()
	if err != nil {
		return err
	}
	mode := st.Mode()
	switch {
	case mode.IsDir():
		if err := to.Mkdir(name, 0o700); err != nil {
			return err
		}
		if err := copyDir(ctx, from, to, name); err != nil {
			return err
		}
	case mode&fs.ModeSymlink != 0:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		return to.Symlink(target, name)
	case mode.IsRegular():
		if err := copyRegular(ctx, from, to, name); errors.Is(err, fs.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
	default:
		return nil
	}
	if err := to.Chmod(name, mode.Perm()|mode&fs.ModeSticky); err != nil {
		return err
	}
	return to.Chtimes(name, st.ModTime(), st.ModTime())
}

// copyRegular copies a file and its holes: a file of a few bytes may say that it has
// terabytes.
func copyRegular(ctx context.Context, from, to *os.Root, name string) error {
	in, err := from.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may have become a fifo
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = sparse.Copy(ctx, sparse.File(ctx, in), st.Size(), func(b []byte, off int64) error {
		_, err := out.WriteAt(b, off)
		return err
	})
	if err == nil {
		err = out.Truncate(st.Size())
	}
	return errors.Join(err, out.Close())
}
