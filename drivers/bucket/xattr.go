package bucket

import (
	"context"
	"strings"

	"github.com/volehq/vole/driver"
)

const (
	// maxXattrs is the most bytes of names and values that one inode may have, so that
	// a volume without bytes cannot fill the database.
	maxXattrs = 1 << 20
)

func checkXattr(name string) error {
	if rest, ok := strings.CutPrefix(name, "user."); !ok || rest == "" {
		return driver.Errorf(driver.ErrUnsupported, "attribute %q: names begin with \"user.\"", name)
	}
	return nil
}

// Getxattr implements driver.FS.
func (f *fileSystem) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	p, err := f.there(ctx, path, how{})
	if err != nil {
		return nil, err
	}
	var value []byte
	var found bool
	err = f.b.ns.db.read(ctx, one(&found, []any{&value}, `SELECT value FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`,
		f.vol, p.node.ino, []byte(name)))
	if err == nil && !found {
		err = driver.ErrNoXattr
	}
	return value, err
}

// Listxattr implements driver.FS.
func (f *fileSystem) Listxattr(ctx context.Context, path string) ([]string, error) {
	p, err := f.there(ctx, path, how{})
	if err != nil {
		return nil, err
	}
	var list [][]byte
	err = f.b.ns.db.read(ctx, all(&list, func(n *[]byte) []any { return []any{n} },
		`SELECT name FROM xattrs WHERE vol = $1 AND ino = $2 ORDER BY name`, f.vol, p.node.ino))
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = string(n)
	}
	return names, err
}

// Setxattr implements driver.FS.
func (f *fileSystem) Setxattr(ctx context.Context, path, name string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return f.changeXattr(ctx, path, name, func(c *change, ino int64, _ bool, others int64) error {
		c.meta = c.meta.Plus(driver.XattrMetadata(name, len(value)))
		if others+int64(len(name)+len(value)) > maxXattrs {
			return driver.Errorf(driver.ErrNoSpace, "the attributes of one file hold %d bytes at most", maxXattrs)
		}
		c.later(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, c.vol, ino, []byte(name))
		c.later(`INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, $2, $3, $4)`, c.vol, ino, []byte(name), value)
		c.later(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, c.vol, ino, others+int64(len(name)+len(value)))
		return nil
	})
}

// Removexattr implements driver.FS.
func (f *fileSystem) Removexattr(ctx context.Context, path, name string) error {
	return f.changeXattr(ctx, path, name, func(c *change, ino int64, there bool, others int64) error {
		if !there {
			return driver.ErrNoXattr
		}
		c.later(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, c.vol, ino, []byte(name))
		c.later(`UPDATE inodes SET xattr_bytes = $3 WHERE vol = $1 AND ino = $2`, c.vol, ino, others)
		return nil
	})
}

// changeXattr tells fn whether the attribute is there, and how many bytes all others
// of the inode have.
func (f *fileSystem) changeXattr(ctx context.Context, path, name string, fn func(c *change, ino int64, there bool, others int64) error) error {
	return f.change(ctx, []string{path}, func(c *change) error {
		p, err := c.must(path, how{})
		if err != nil {
			return err
		}
		if err := checkXattr(name); err != nil {
			return err
		}
		if p.node.isLink() {
			return driver.Errorf(driver.ErrPermission, "a symbolic link has no attributes of users, see xattr(7)")
		}
		var there, sum bool
		var others, size int64
		err = c.run(
			one(&there, []any{&size}, `SELECT length(value) FROM xattrs WHERE vol = $1 AND ino = $2 AND name = $3`, c.vol, p.node.ino, []byte(name)),
			one(&sum, []any{&others}, `SELECT CAST(coalesce(sum(length(name) + length(value)), 0) AS BIGINT) FROM xattrs
				WHERE vol = $1 AND ino = $2 AND name <> $3`, c.vol, p.node.ino, []byte(name)))
		if err != nil {
			return err
		}
		if there {
			c.meta = c.meta.Minus(driver.XattrMetadata(name, int(size)))
		}
		c.later(`UPDATE inodes SET ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, p.node.ino, c.now)
		return fn(c, p.node.ino, there, others)
	})
}
