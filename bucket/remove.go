package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
)

// Remove implements driver.FS.
func (f *fileSystem) Remove(ctx context.Context, path string) error {
	return f.change(ctx, []string{path}, func(c *change) error {
		p, err := c.must(path, how{})
		if err != nil {
			return err
		}
		if p.node.isDir() {
			if err := c.empty(p.node.ino); err != nil {
				return err
			}
		}
		c.unname(&p)
		return nil
	})
}

// RemoveAll implements driver.FS. A directory loses its name in one short transaction;
// what was beneath it goes in as many as it takes, and in the background when this
// process dies or ctx ends before.
func (f *fileSystem) RemoveAll(ctx context.Context, path string) error {
	tree := false
	err := f.change(ctx, []string{path}, func(c *change) error {
		tree = false
		p, err := c.w.resolve(path, how{})
		if errors.Is(err, driver.ErrNotExist) {
			return nil
		}
		if err != nil || p.node == nil {
			return err
		}
		if !p.node.isDir() {
			c.unname(&p)
			return nil
		}
		if c.session == nil {
			return errNeedSession
		}
		tree = true
		c.removeName(p.parent.ino, p.name)
		c.touch(p.parent.ino, -1)
		// While this process lives the tree is its own to remove: it alone knows what in it
		// is open here.
		c.later(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, p.node.ino, c.session)
		return nil
	})
	if err != nil || !tree {
		return err
	}
	if err := f.b.reapTrees(ctx, f); err != nil {
		f.b.ns.log.Warn("removing a tree goes on in the background", "volume", idText(f.vol), "error", err)
		f.b.background(func() { f.b.finishTrees(f.vol) })
	}
	return nil
}

// finishTrees removes the trees of this process in a volume until none is left. They
// stay its own: what in them is open here, only it knows. When the Backend is closed,
// others take over.
func (b *Backend) finishTrees(vol []byte) {
	f := b.system(vol)
	for b.reapTrees(b.life, f) != nil {
		select {
		case <-b.life.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

const (
	// reapDirs and reapEntries bound one transaction that removes trees.
	reapDirs    = 64
	reapEntries = 500
)

// reapTrees removes what no name leads to, and no other session holds, in one volume.
func (b *Backend) reapTrees(ctx context.Context, f *fileSystem) error {
	for {
		more := false
		err := b.change(ctx, f, nil, func(c *change) (err error) {
			c.session = b.session.present()
			more, err = c.reap()
			return err
		})
		if errors.Is(err, driver.ErrNotFound) {
			return nil
		}
		if err != nil || !more {
			return err
		}
	}
}

// reapEntry is a directory entry of what is removed.
type reapEntry struct {
	inode
	parent int64
	name   []byte
}

func (e *reapEntry) dest() []any { return append(e.inode.dest(), &e.parent, &e.name) }

// selectReaped has the roots of what is to be removed: what no session holds, and the
// directories of this process's own.
const selectReaped = ` FROM (SELECT r.ino FROM orphans r JOIN inodes d ON d.vol = r.vol AND d.ino = r.ino
	WHERE r.vol = $1 AND (r.session IS NULL OR r.session = $3 AND d.mode BETWEEN 16384 AND 20479) ORDER BY r.ino LIMIT CAST($2 AS INTEGER)) o `

// reap removes entries of directories that have no name; subdirectories become such
// themselves, so that it does not matter how deep a tree is, nor where this ends.
func (c *change) reap() (more bool, err error) {
	var roots []inode
	var list []reapEntry
	err = c.run(
		all(&roots, (*inode).dest, `SELECT `+inodeCols+selectReaped+`JOIN inodes i ON i.vol = $1 AND i.ino = o.ino`, c.vol, reapDirs, null(c.session)),
		all(&list, (*reapEntry).dest, `SELECT `+inodeCols+`, e.parent, e.name`+selectReaped+`
			JOIN dirents e ON e.vol = $1 AND e.parent = o.ino JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			ORDER BY e.parent, e.name LIMIT CAST($4 AS INTEGER)`, c.vol, reapDirs, null(c.session), reapEntries))
	if err != nil || len(roots) == 0 {
		return false, err
	}
	names := map[int64]int64{} // how many names of an inode went here
	for i := range list {
		e := &list[i]
		c.removeName(e.parent, string(e.name))
		if e.isDir() {
			c.later(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, e.ino, null(c.session))
			continue
		}
		e.nlink -= names[e.ino]
		names[e.ino]++
		c.unlink(&e.inode)
	}
	if len(list) == reapEntries {
		return true, nil // some of the directories may not be empty yet
	}
	for i := range roots {
		r := &roots[i]
		c.later(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, c.vol, r.ino)
		if r.isFile() { // its session has ended
			if !c.marks.claim(r.ino) {
				c.later(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, NULL)`, c.vol, r.ino)
				continue
			}
			c.delta -= r.size
		}
		c.erase(r)
	}
	return len(list) > 0 || len(roots) == reapDirs, nil
}
