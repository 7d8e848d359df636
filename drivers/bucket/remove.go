package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
)

// freeing is write for what gives room back: on a full disk it uses what is kept for it.
func (ns *Namespace) freeing(ctx context.Context, vol []byte, fn func(t tx) error) error {
	return ns.ballast.Freeing(func() error { return ns.db.write(ctx, vol, false, fn) })
}

// freeing is change for what gives room back.
func (f *fileSystem) freeing(ctx context.Context, path string, fn func(c *change) error) error {
	return f.b.ns.ballast.Freeing(func() error { return f.change(ctx, []string{path}, fn) })
}

// Remove implements driver.FS.
func (f *fileSystem) Remove(ctx context.Context, path string) error {
	return f.freeing(ctx, path, func(c *change) error {
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
	err := f.freeing(ctx, path, func(c *change) error {
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
		f.b.ns.log.WarnContext(ctx, "removing a tree goes on in the background", "volume", idText(f.vol), "error", err)
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
	// reapSteps is how many transactions remove trees or rows of one volume before it is
	// another's turn.
	reapSteps = 100
)

// reapTrees removes what no name leads to, and no other session holds, in one volume.
func (b *Backend) reapTrees(ctx context.Context, f *fileSystem) error {
	for more := true; more; {
		var err error
		if more, err = b.reapSome(ctx, f, reapSteps); err != nil {
			return err
		}
	}
	return nil
}

// reapSome does some steps of reapTrees.
func (b *Backend) reapSome(ctx context.Context, f *fileSystem, steps int) (more bool, err error) {
	more = true
	for range steps {
		err := b.change(ctx, f, nil, func(c *change) (err error) {
			c.session = b.session.present()
			more, err = c.reap()
			return err
		})
		if errors.Is(err, driver.ErrNotFound) {
			return false, nil
		}
		if err != nil || !more {
			return more, err
		}
	}
	return more, nil
}

// reapEntry is a directory entry of what is removed.
type reapEntry struct {
	inode
	name []byte
}

func (e *reapEntry) dest() []any { return append(e.inode.dest(), &e.name) }

// selectReaped has the roots of what is to be removed: what no session holds, and the
// directories of this process's own.
const selectReaped = `SELECT ` + inodeCols + ` FROM orphans r JOIN inodes i ON i.vol = r.vol AND i.ino = r.ino
	WHERE r.vol = $1 AND (r.session IS NULL OR r.session = $3 AND i.mode BETWEEN 16384 AND 20479) ORDER BY r.ino LIMIT CAST($2 AS INTEGER)`

// reaping is one transaction that removes trees.
type reaping struct {
	c     *change
	todo  []reaped        // what is without a name now; the last one goes first
	left  int             // entries that may still go
	gone  int             // inodes and names that went
	names map[int64]int64 // how many names of an inode went
}

// reaped is an inode that has no name.
type reaped struct {
	inode
	root bool // it has a row in orphans
}

// reap removes entries of directories that have no name, and of their subdirectories. One
// that it does not come to has no name itself from then on, so that it does not matter how
// deep a tree is, nor where this ends.
func (c *change) reap() (more bool, err error) {
	var roots []inode
	if err := c.run(all(&roots, (*inode).dest, selectReaped, c.vol, reapDirs, null(c.session))); err != nil {
		return false, err
	}
	r := &reaping{c: c, left: reapEntries, names: map[int64]int64{}}
	for _, n := range roots {
		r.todo = append(r.todo, reaped{n, true})
	}
	for i := 0; i < reapDirs && len(r.todo) > 0 && r.left > 0; i++ {
		if err := r.next(); err != nil {
			return false, err
		}
	}
	for _, d := range r.todo {
		if !d.root {
			c.later(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, d.ino, null(c.session))
		}
	}
	return len(r.todo) > 0 || len(roots) == reapDirs && r.gone > 0, nil
}

// next removes the last one of what is to be removed, or as many of its entries as may go.
func (r *reaping) next() error {
	c, d := r.c, r.todo[len(r.todo)-1]
	r.todo = r.todo[:len(r.todo)-1]
	if d.isFile() { // its session has ended
		if !c.marks.claim(d.ino) {
			return nil // its last handle removes it
		}
		c.delta -= d.size
	}
	full := false
	if d.isDir() {
		var list []reapEntry
		err := c.run(all(&list, (*reapEntry).dest, `SELECT `+inodeCols+`, e.name FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			WHERE e.vol = $1 AND e.parent = $2 ORDER BY e.name LIMIT CAST($3 AS INTEGER)`, c.vol, d.ino, r.left+1))
		if err != nil {
			return err
		}
		if full = len(list) > r.left; full {
			list = list[:r.left]
			r.todo = append(r.todo, d)
		}
		r.left -= len(list)
		r.gone += len(list)
		for i := range list {
			r.entry(d.ino, &list[i])
		}
	}
	if full {
		return nil
	}
	if d.root {
		c.later(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, c.vol, d.ino)
	}
	r.gone++
	c.erase(&d.inode)
	return nil
}

// entry removes a name from a directory.
func (r *reaping) entry(dir int64, e *reapEntry) {
	r.c.removeName(dir, string(e.name))
	if e.isDir() {
		r.todo = append(r.todo, reaped{inode: e.inode})
		return
	}
	e.nlink -= r.names[e.ino]
	r.names[e.ino]++
	r.c.unlink(&e.inode)
}
