package bucket

import (
	"context"
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
)

// Chmod implements driver.FS.
func (f *fileSystem) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.set(ctx, path, how{follow: true}, func(n *inode) error {
		n.mode = n.mode&typeMask | permOf(mode)
		return nil
	})
}

// Chown implements driver.FS.
func (f *fileSystem) Chown(ctx context.Context, path string, uid, gid int) error {
	return f.set(ctx, path, how{}, func(n *inode) error {
		if uid >= 0 {
			n.uid = int64(uid)
		}
		if gid >= 0 {
			n.gid = int64(gid)
		}
		return nil
	})
}

// Chtimes implements driver.FS.
func (f *fileSystem) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	// What was written before must not set the time again when it is flushed.
	if err := f.b.flushVolume(ctx, f.vol); err != nil {
		return err
	}
	return f.set(ctx, path, how{}, func(n *inode) error {
		for _, t := range []struct {
			at  time.Time
			row *int64
		}{{atime, &n.atime}, {mtime, &n.mtime}} {
			if t.at.IsZero() {
				continue
			}
			if y := t.at.Year(); y < 1678 || y > 2261 {
				return driver.Errorf(driver.ErrInvalid, "time %v: years 1678 to 2261 can be kept", t.at)
			}
			*t.row = t.at.UnixNano()
		}
		return nil
	})
}

// set changes the attributes of what is at a path.
func (f *fileSystem) set(ctx context.Context, path string, h how, fn func(n *inode) error) error {
	return f.change(ctx, []string{path}, func(c *change) error {
		p, err := c.must(path, h)
		if err != nil {
			return err
		}
		n := *p.node
		if err := fn(&n); err != nil {
			return err
		}
		c.later(`UPDATE inodes SET mode = $3, uid = $4, gid = $5, atime = $6, mtime = $7, ctime = $8 WHERE vol = $1 AND ino = $2`,
			c.vol, n.ino, n.mode, n.uid, n.gid, n.atime, n.mtime, c.now)
		return nil
	})
}
