package bucket

import (
	"context"
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
)

// Chmod implements driver.FS.
func (fsys *volumeFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	defer fsys.b.ns.metrics.observeSince("fs_chmod", time.Now())
	return fsys.updateAttributes(ctx, path, resolveMode{followLast: true}, func(n *inode) error {
		n.mode = n.mode&typeMask | permissionBits(mode)
		return nil
	})
}

// Chown implements driver.FS.
func (fsys *volumeFS) Chown(ctx context.Context, path string, uid, gid int) error {
	defer fsys.b.ns.metrics.observeSince("fs_chown", time.Now())
	return fsys.updateAttributes(ctx, path, resolveMode{}, func(n *inode) error {
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
func (fsys *volumeFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	defer fsys.b.ns.metrics.observeSince("fs_chtimes", time.Now())
	// A flush later would set the time of the last write again.
	if err := fsys.b.flushVolumeBestEffort(ctx, fsys.vol); err != nil {
		return err
	}
	return fsys.updateAttributes(ctx, path, resolveMode{}, func(n *inode) error {
		for _, t := range []struct {
			at  time.Time
			row *int64
		}{{atime, &n.atime}, {mtime, &n.mtime}} {
			if t.at.IsZero() {
				continue
			}
			if y := t.at.Year(); y < 1678 || y > 2261 {
				return driver.Errorf(driver.ErrInvalid, "time %v is out of range: use years 1678 to 2261", t.at)
			}
			*t.row = t.at.UnixNano()
		}
		return nil
	})
}

// updateAttributes lets fn change the mode, owner and times of the inode at a path.
func (fsys *volumeFS) updateAttributes(ctx context.Context, path string, mode resolveMode, fn func(n *inode) error) error {
	return fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
		target, err := tx.mustResolve(path, mode)
		if err != nil {
			return err
		}
		n := *target.node
		if err := fn(&n); err != nil {
			return err
		}
		tx.QueueExec(`UPDATE inodes SET mode = $3, uid = $4, gid = $5, atime = $6, mtime = $7, ctime = $8 WHERE vol = $1 AND ino = $2`,
			tx.vol, n.ino, n.mode, n.uid, n.gid, n.atime, n.mtime, tx.now)
		return nil
	})
}
