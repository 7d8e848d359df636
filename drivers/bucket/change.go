package bucket

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
)

// change is a transaction on the files of one volume, under the lock of its row.
type change struct {
	tx
	b      *Backend
	vol    []byte
	v      volume
	now    int64 // the time that files get
	w      walker
	system bool            // by maintenance
	delta  int64           // by how much the volume grows, in bytes
	meta   driver.Metadata // by how much its metadata does

	session []byte  // of this process; nil: none is needed yet
	marks   *goings // inodes whose rows go with the transaction
	orphans []int64 // inodes that lose their last name while they are open here
	touched []touched
	failure error // what keeps the transaction from being committed
}

// errNeedSession makes a change begin anew, with a session.
var errNeedSession = errors.New("a session is needed")

// change runs fn in a transaction. paths are those that fn is going to resolve: they
// are asked for together with the lock.
func (f *fileSystem) change(ctx context.Context, paths []string, fn func(c *change) error) error {
	if err := f.enterWrite(ctx); err != nil {
		return err
	}
	return f.b.change(ctx, f, paths, fn)
}

// change is that of an FS, which may be closed. It is what handles use.
func (b *Backend) change(ctx context.Context, f *fileSystem, paths []string, fn func(c *change) error) error {
	var session []byte
	marks := goings{b: b, vol: f.vol}
	defer marks.end()
	for {
		var orphans []int64
		err := b.ns.db.write(ctx, f.vol, f.opts.Batch, func(t tx) error {
			c := &change{tx: t, b: b, vol: f.vol, now: time.Now().UnixNano(), session: session, marks: &marks}
			err := c.begin(f, paths)
			if err == nil {
				err = fn(c)
			}
			if err != nil {
				return err
			}
			f.hint.Store(c.v.quota)
			orphans = c.orphans
			return c.finish()
		})
		switch {
		case errors.Is(err, errNeedSession):
			if session, err = b.session.id(ctx); err != nil {
				return err
			}
			continue
		case b.ns.db.isForeign(err):
			b.ns.reserves.forget(b.org)
			return driver.Errorf(driver.ErrCorrupt, "bytes that were written have been swept away meanwhile: the write took longer than the grace time")
		case err != nil:
			return err
		}
		return b.orphaned(ctx, f, orphans)
	}
}

// begin locks the volume and checks that this FS may change it.
func (c *change) begin(f *fileSystem, paths []string) error {
	c.w = walker{vol: c.vol, run: c.run, chain: c.b.ns.db.chain, ready: map[string][]inode{}}
	c.system = f.system
	var found, alive bool
	list := []query{c.b.lockVolume(&found, &c.v, c.vol)}
	if f.att != nil {
		list = append(list, one(&alive, []any{new(int)}, `SELECT 1 FROM attachments a JOIN sessions s ON s.id = a.session
			WHERE a.id = $1 AND s.expires > {now}`, f.att))
	}
	chains := make([][]inode, len(paths))
	for i, p := range paths {
		if ask, ok := c.b.ns.db.chains(c.b.org, c.vol, p, &chains[i]); ok {
			list = append(list, ask)
		}
	}
	if err := c.run(list...); err != nil {
		return err
	}
	for i, p := range paths {
		if len(chains[i]) > 0 {
			c.w.ready[p] = chains[i]
		}
	}
	switch {
	case !found:
		return driver.ErrNotFound
	case f.att != nil && !alive:
		return errAttachmentEnded
	case c.v.writer != nil && !f.system && string(c.v.writer) != string(f.att):
		return c.fenced()
	}
	return nil
}

// fenced is for who is not the exclusive writer of the volume.
func (c *change) fenced() error {
	var list []attachment
	if err := c.run(c.b.liveAttachments(&list, c.vol)); err != nil {
		return err
	}
	for _, a := range list {
		if string(a.id) == string(c.v.writer) {
			return a.inUse()
		}
	}
	c.later(`UPDATE volumes SET writer = NULL WHERE org = $1 AND id = $2`, c.b.org, c.vol) // it died
	return nil
}

// finish checks the quota and writes the volume's row.
func (c *change) finish() error {
	if c.failure != nil {
		return c.failure
	}
	if c.delta > 0 && c.v.quota == 0 && c.delta > math.MaxInt64-c.v.used {
		return driver.Errorf(driver.ErrQuota, "the files of a volume may have %d bytes together", int64(math.MaxInt64))
	}
	if c.delta > 0 && c.v.quota > 0 && c.delta > c.v.quota-c.v.used {
		return driver.Errorf(driver.ErrQuota, "%d bytes more, and the volume would hold more than its quota of %v; %v are free",
			c.delta, driver.Size(c.v.quota), driver.Size(max(0, c.v.quota-c.v.used)))
	}
	if err := driver.MetadataBounds(driver.Size(c.v.quota)).Admit(c.v.metadata(), c.meta); err != nil {
		return err
	}
	for _, d := range c.touched {
		c.later(`UPDATE inodes SET mtime = $3, ctime = $3, nlink = nlink + $4 WHERE vol = $1 AND ino = $2`, c.vol, d.ino, c.now, d.subdirs)
	}
	used := ", " + usedNow
	if c.system {
		used = "" // maintenance is no use
	}
	c.later(`UPDATE volumes SET used = used + $3, entries = entries + $4, metadata = metadata + $5, next_ino = $6, generation = generation + 1`+used+`
		WHERE org = $1 AND id = $2`, c.b.org, c.vol, c.delta, c.meta.Entries, c.meta.Bytes, c.v.nextIno)
	return nil
}

// must resolves a path where something must be.
func (c *change) must(path string, h how) (place, error) {
	p, err := c.w.resolve(path, h)
	if err == nil && p.node == nil {
		err = driver.ErrNotExist
	}
	return p, err
}

// newIno returns the number of a new inode. Numbers are never used again.
func (c *change) newIno() int64 {
	c.v.nextIno++
	return c.v.nextIno - 1
}

func insertInode(t tx, vol []byte, n *inode) {
	t.later(`INSERT INTO inodes (vol, ino, mode, uid, gid, nlink, size, alloc, atime, mtime, ctime, rdev, target, xattr_bytes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		vol, n.ino, n.mode, n.uid, n.gid, n.nlink, n.size, n.alloc, n.atime, n.mtime, n.ctime, n.rdev, null(n.target), n.xattrs)
}

// insert makes the row of n.
func (c *change) insert(n *inode) {
	insertInode(c, c.vol, n)
	c.meta = c.meta.Plus(n.metadata())
}

// add makes n, as a new inode of this moment, under a name that is free.
func (c *change) add(dir *inode, name string, n *inode) {
	n.ino = c.newIno()
	n.atime, n.mtime, n.ctime = c.now, c.now, c.now
	c.insert(n)
	sub := int64(0)
	if n.isDir() {
		sub = 1
	}
	c.name(dir, name, n.ino, sub)
}

// name adds a directory entry; subdirs is 1 when it is for a directory.
func (c *change) name(dir *inode, name string, ino, subdirs int64) {
	if name == "" || name == "." || name == ".." || len(name) > driver.MaxElemLen || strings.ContainsAny(name, "/\x00") {
		c.failure = driver.Errorf(driver.ErrInvalid, "%q is no name of a file", name)
	}
	c.later(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, c.vol, dir.ino, []byte(name), ino)
	c.named(name)
	c.touch(dir.ino, subdirs)
}

// touch notes that a directory's entries have changed, and by how much the number of
// directories among them.
func (c *change) touch(ino, subdirs int64) {
	for i := range c.touched {
		if c.touched[i].ino == ino {
			c.touched[i].subdirs += subdirs
			return
		}
	}
	c.touched = append(c.touched, touched{ino, subdirs})
}

// touched is a directory whose entries have changed.
type touched struct{ ino, subdirs int64 }

// parents makes the directories that are missing and returns the last one.
func (c *change) parents(p *place, perm int64) *inode {
	dir := &p.parent
	for _, name := range p.missing {
		n := &inode{mode: typeDir | perm, nlink: 2}
		c.add(dir, name, n)
		dir = n
	}
	return dir
}

// replaceable says whether rename(2) puts src in the place of dst.
func (c *change) replaceable(src, dst *inode) error {
	switch {
	case src.isDir() && !dst.isDir():
		return driver.ErrNotDir
	case !src.isDir() && dst.isDir():
		return driver.ErrIsDir
	case dst.isDir():
		return c.empty(dst.ino)
	}
	return nil
}

func (c *change) empty(dir int64) error {
	var full bool
	err := c.run(one(&full, []any{new(int)}, `SELECT 1 FROM dirents WHERE vol = $1 AND parent = $2 LIMIT 1`, c.vol, dir))
	if err == nil && full {
		err = driver.ErrNotEmpty
	}
	return err
}

// unname takes a name away from a file or an empty directory.
func (c *change) unname(p *place) {
	c.removeName(p.parent.ino, p.name)
	if p.node.isDir() {
		c.touch(p.parent.ino, -1)
		c.erase(p.node)
		return
	}
	c.touch(p.parent.ino, 0)
	c.unlink(p.node)
}

// removeName deletes a directory entry.
func (c *change) removeName(dir int64, name string) {
	c.later(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, c.vol, dir, []byte(name))
	c.unnamed(name)
}

// unlink is for an inode that has lost one of its names.
func (c *change) unlink(n *inode) {
	if n.nlink > 1 {
		c.later(`UPDATE inodes SET nlink = nlink - 1, ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, n.ino, c.now)
		return
	}
	if n.isFile() && !c.marks.claim(n.ino) {
		if c.session == nil {
			c.failure = errNeedSession
			return
		}
		c.orphans = append(c.orphans, n.ino)
		c.later(`UPDATE inodes SET nlink = 0, ctime = $3 WHERE vol = $1 AND ino = $2`, c.vol, n.ino, c.now)
		c.later(`INSERT INTO orphans (vol, ino, session) VALUES ($1, $2, $3)`, c.vol, n.ino, c.session)
		return
	}
	if n.isFile() {
		c.delta -= n.size
	}
	c.erase(n)
}

// erase deletes an inode and what belongs to it.
func (c *change) erase(n *inode) {
	if n.isFile() && n.alloc > 0 {
		c.freeFrom(n.ino, 0)
	}
	if n.xattrs > 0 {
		c.later(`DELETE FROM xattrs WHERE vol = $1 AND ino = $2`, c.vol, n.ino)
	}
	c.meta = c.meta.Minus(n.metadata())
	c.later(`DELETE FROM inodes WHERE vol = $1 AND ino = $2`, c.vol, n.ino)
}

// freeFrom deletes the chunks of a file that begin at pos or after it. Blobs that lose
// their last chunk are marked freed by a trigger.
func (c *change) freeFrom(ino, pos int64) {
	c.later(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos >= $3`, c.vol, ino, pos)
}
