package bucket

import (
	"context"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/internal/sqldb"
)

// checkXattrName returns ErrUnsupported unless the name is one of a user's attribute.
func checkXattrName(name string) error {
	if rest, ok := strings.CutPrefix(name, "user."); !ok || rest == "" {
		return driver.Errorf(driver.ErrUnsupported, "attribute %q: names begin with \"user.\"", name)
	}
	return nil
}

// Getxattr implements driver.FS.
func (fsys *volumeFS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	defer fsys.b.ns.metrics.observeSince("fs_getxattr", time.Now())
	target, err := fsys.mustResolve(ctx, path, resolveMode{})
	if err != nil {
		return nil, err
	}
	var value []byte
	err = fsys.b.ns.db.RunQueries(ctx, sqldb.SelectRow(driver.ErrNoXattr, []any{&value}, `SELECT value FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`,
		fsys.vol, target.node.ino, []byte(name)))
	return value, err
}

// Listxattr implements driver.FS.
func (fsys *volumeFS) Listxattr(ctx context.Context, path string) ([]string, error) {
	defer fsys.b.ns.metrics.observeSince("fs_listxattr", time.Now())
	target, err := fsys.mustResolve(ctx, path, resolveMode{})
	if err != nil {
		return nil, err
	}
	var list [][]byte
	err = fsys.b.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, func(n *[]byte) []any { return []any{n} },
		`SELECT name FROM xattrs WHERE vol = $1 AND ino = $2 ORDER BY name`, fsys.vol, target.node.ino))
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = string(n)
	}
	return names, err
}

// Setxattr implements driver.FS.
func (fsys *volumeFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	defer fsys.b.ns.metrics.observeSince("fs_setxattr", time.Now())
	if value == nil {
		value = []byte{}
	}
	return fsys.updateXattr(ctx, path, name, func(tx *volumeTx, ino int64, _ bool, others int64) error {
		tx.metaDelta = tx.metaDelta.Plus(driver.XattrMetadata(name, len(value)))
		if others+int64(len(name)+len(value)) > manifest.MaxXattrs {
			return driver.Errorf(driver.ErrNoSpace, "the attributes of one file can hold at most %d bytes", manifest.MaxXattrs)
		}
		tx.QueueExec(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, tx.vol, ino, []byte(name))
		tx.QueueExec(`INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, $2, $3, $4)`, tx.vol, ino, []byte(name), value)
		tx.QueueExec(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, tx.vol, ino, others+int64(len(name)+len(value)))
		return nil
	})
}

// Removexattr implements driver.FS.
func (fsys *volumeFS) Removexattr(ctx context.Context, path, name string) error {
	defer fsys.b.ns.metrics.observeSince("fs_removexattr", time.Now())
	return fsys.updateXattr(ctx, path, name, func(tx *volumeTx, ino int64, exists bool, others int64) error {
		if !exists {
			return driver.ErrNoXattr
		}
		tx.QueueExec(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, tx.vol, ino, []byte(name))
		tx.QueueExec(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, tx.vol, ino, others)
		return nil
	})
}

// updateXattr runs fn in a transaction with the inode at a path. It tells fn whether the
// attribute exists, and how many bytes all others of the inode have.
func (fsys *volumeFS) updateXattr(ctx context.Context, path, name string, fn func(tx *volumeTx, ino int64, exists bool, others int64) error) error {
	return fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
		target, err := tx.mustResolve(path, resolveMode{})
		if err != nil {
			return err
		}
		if err := checkXattrName(name); err != nil {
			return err
		}
		if target.node.isSymlink() {
			return driver.Errorf(driver.ErrPermission, "a symbolic link cannot have user attributes, see xattr(7)")
		}
		var exists bool
		var others, size int64
		err = tx.RunQueries(
			sqldb.SelectOne(&exists, []any{&size}, `SELECT length(value) FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, tx.vol, target.node.ino, []byte(name)),
			sqldb.SelectAggregate([]any{&others}, `SELECT CAST(coalesce(sum(length(name) + length(value)), 0) AS BIGINT) FROM xattrs
				WHERE vol = $1 AND ino = $2 AND name <> $3`, tx.vol, target.node.ino, []byte(name)))
		if err != nil {
			return err
		}
		if exists {
			tx.metaDelta = tx.metaDelta.Minus(driver.XattrMetadata(name, int(size)))
		}
		tx.QueueExec(`UPDATE inodes SET ctime = $3 WHERE vol = $1 AND ino = $2`, tx.vol, target.node.ino, tx.now)
		return fn(tx, target.node.ino, exists, others)
	})
}
