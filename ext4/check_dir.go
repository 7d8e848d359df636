package ext4

import (
	"bytes"
	"hash/maphash"
)

// dirCheck is the state of the check of one directory.
type dirCheck struct {
	c     *checker
	dir   *inode
	names map[uint64]struct{} // hashes of the names, as many as are kept
	seed  maphash.Seed
	tree  *indexCheck // nil: the directory has no index
}

const maxNames = 1 << 19 // of a directory that are compared with each other

// scanDirs checks what all directories hold.
func (c *checker) scanDirs() {
	if root := c.dir(rootInode); root != nil {
		root.parent = rootInode
	}
	for k := 0; k < len(c.dirs) && !c.stopped(); k++ {
		num := c.dirs[k].ino
		i := c.rawInode(num)
		if i == nil || c.state(num).bits&(stateSkip|stateSystem) != 0 {
			continue // there is no sense in it, or it is yet to be removed
		}
		d := &dirCheck{c: c, dir: i, names: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
		if i.has(flagInline) && c.sb.incompat&incompatInlineData != 0 {
			d.inline()
			continue
		}
		d.blocks()
	}
}

// blocks checks a directory that has blocks.
func (d *dirCheck) blocks() {
	c := d.c
	total := uint32(d.dir.size() / c.sb.blockSize)
	d.startIndex(total)
	l := uint32(0)
	err := c.fs.eachExtent(d.dir, 0, func(e extent) (bool, error) {
		for k := uint32(0); k < e.n && l < total; k++ {
			if c.stopped() {
				return false, nil
			}
			at := e.start + uint64(k)
			buf := make([]byte, c.sb.blockSize)
			if err := c.fs.readBlock(at, buf); err != nil {
				c.err = err
				return false, nil
			}
			d.block(l, at, buf)
			l++
		}
		return true, nil
	})
	if err != nil {
		c.badInode(ProblemDir, d.dir.num, "%v", err)
		return
	}
	if d.tree != nil {
		d.tree.finish()
	}
}

// block checks one block of a directory.
func (d *dirCheck) block(l uint32, at uint64, b []byte) {
	c := d.c
	kind := leafBlock
	if d.tree != nil {
		kind = d.tree.kindOf(l, b)
	}
	end := len(b)
	if kind == leafBlock && c.sb.csum {
		end -= dirTailLen
		d.checkTail(at, b)
	}
	d.entries(l, at, b, end, kind)
	if kind != leafBlock {
		d.tree.node(l, at, b)
	}
}

// checkTail checks the checksum of a block of entries.
func (d *dirCheck) checkTail(at uint64, b []byte) {
	t := b[len(b)-dirTailLen:]
	if le.Uint32(t) != 0 || le.Uint16(t[4:]) != dirTailLen || t[6] != 0 || t[7] != 0xde {
		d.bad(ProblemDirSum, at, "there is no checksum")
		return
	}
	if ownedChecksum(d.c.sb.seed, d.dir.num, d.dir.generation(), b[:len(b)-dirTailLen]) != le.Uint32(t[8:]) {
		d.bad(ProblemDirSum, at, "checksum")
	}
}

func (d *dirCheck) bad(code string, at uint64, format string, args ...any) {
	d.c.badBlock(code, d.dir.num, at, format, args...)
}

// entries checks the entries of a block up to end. A block of an index has only
// entries that are not in use, but for the first two.
func (d *dirCheck) entries(l uint32, at uint64, b []byte, end int, kind blockKind) {
	here := map[string]struct{}{}
	for off, n := 0, 0; off < end && d.c.err == nil; n++ {
		e, ok := d.parse(b, off, end)
		if !ok {
			d.bad(ProblemDir, at, "the entry at %d", off)
			return
		}
		switch {
		case l == 0 && n == 0:
			d.dot(at, e, b, false)
		case l == 0 && n == 1:
			d.dot(at, e, b, true)
		case e.ino != 0:
			d.entry(at, e, here)
			if d.tree != nil && kind == leafBlock {
				d.tree.add(l, string(e.name))
			}
		}
		off += e.len
		if l == 0 && n == 1 && kind == rootBlock {
			return // what follows is the index
		}
		if l == 0 && off >= end && n == 0 {
			d.bad(ProblemDirDots, at, "there is no entry ..")
		}
	}
}

// parse reads an entry, and reports whether it is sound as such.
func (d *dirCheck) parse(b []byte, off, end int) (dirent, bool) {
	if off+entHeader > end {
		return dirent{}, false
	}
	e := dirent{off: off, ino: le.Uint32(b[off:]), len: int(le.Uint16(b[off+4:])), kind: b[off+7]}
	if len(b) == 65536 && (e.len == 0 || e.len == 65535) {
		e.len = 65536
	}
	n := int(b[off+6])
	if e.len < 12 || e.len%4 != 0 || off+e.len > end && !(off+e.len == len(b) && end < len(b) && e.ino == 0) || entHeader+n > e.len {
		return e, false
	}
	e.name = b[off+entHeader : off+entHeader+n]
	return e, true
}

// dot checks the entry "." or "..".
func (d *dirCheck) dot(at uint64, e dirent, b []byte, parent bool) {
	want := "."
	if parent {
		want = ".."
	}
	if e.ino == 0 || string(e.name) != want || b[e.off+entHeader+len(want)] != 0 {
		d.bad(ProblemDirDots, at, "there is no entry %s", want)
		if e.ino != 0 && !isDot(string(e.name)) {
			d.entry(at, e, map[string]struct{}{})
		}
		return
	}
	d.checkType(at, e)
	switch {
	case parent:
		if own := d.c.dir(d.dir.num); own != nil {
			own.dotdot = e.ino
		}
	case e.ino != d.dir.num:
		d.bad(ProblemDirDots, at, "the entry . leads to inode %d", e.ino)
		return
	case e.len > 24:
		d.bad(ProblemDirDots, at, "the entry . has %d bytes", e.len)
	}
	d.count(at, e)
}

// count notes a name of an inode.
func (d *dirCheck) count(at uint64, e dirent) *inodeState {
	if e.ino > d.c.sb.inodes || e.ino < d.c.sb.firstIno && e.ino != rootInode {
		d.bad(ProblemEntryInode, at, "%q leads to inode %d", e.name, e.ino)
		return nil
	}
	s := d.c.state(e.ino)
	if s == nil {
		d.bad(ProblemEntryInode, at, "%q leads to inode %d, which is not in use", e.name, e.ino)
		return nil
	}
	s.seen = min(s.seen, 1<<16-2) + 1
	return s
}

// checkType compares the type in an entry with that of the inode.
func (d *dirCheck) checkType(at uint64, e dirent) {
	s := d.c.state(e.ino)
	if s == nil {
		return
	}
	want := s.kind
	if d.c.sb.incompat&incompatFiletype == 0 {
		want = 0
	}
	if e.kind != want {
		d.bad(ProblemEntryType, at, "%q has type %d and inode %d type %d", e.name, e.kind, e.ino, want)
	}
}

// entry checks an entry other than the first two.
func (d *dirCheck) entry(at uint64, e dirent, here map[string]struct{}) {
	switch {
	case len(e.name) == 0:
		d.bad(ProblemName, at, "inode %d has an empty name", e.ino)
		return
	case isDot(string(e.name)) && !d.dir.has(flagEncrypted):
		d.bad(ProblemDirDots, at, "another entry %s", e.name)
		return
	case badName(e.name) && !d.dir.has(flagEncrypted):
		d.bad(ProblemName, at, "%q", e.name)
	}
	if e.ino == d.dir.num || e.ino == rootInode {
		d.bad(ProblemEntryInode, at, "%q leads to the directory itself, or the root", e.name)
		return
	}
	s := d.count(at, e)
	if s == nil {
		return
	}
	d.checkType(at, e)
	d.checkTwice(at, e, here)
	if sub := d.c.dir(e.ino); sub != nil {
		if sub.parent != 0 {
			d.bad(ProblemTwoParents, at, "%q leads to directory %d, which is also in %d", e.name, e.ino, sub.parent)
			return
		}
		sub.parent = d.dir.num
	}
}

// checkTwice finds names that are there twice.
func (d *dirCheck) checkTwice(at uint64, e dirent, here map[string]struct{}) {
	name := string(e.name)
	_, twice := here[name]
	here[name] = struct{}{}
	if h := maphash.Bytes(d.seed, e.name); len(d.names) < maxNames {
		_, ok := d.names[h]
		twice = twice || ok
		d.names[h] = struct{}{}
	}
	if twice {
		d.bad(ProblemNameTwice, at, "%q", name)
	}
}

// inline checks a directory that lies in its inode.
func (d *dirCheck) inline() {
	i := d.dir
	if n, ok := d.c.inlineSize(i); !ok || i.size() != int64(n) || n < 4 {
		return // was reported
	}
	data, err := d.c.fs.inlineData(i)
	if err != nil {
		d.bad(ProblemInline, 0, "%v", err)
		return
	}
	own := d.c.dir(i.num)
	own.dotdot = le.Uint32(data)
	d.count(0, dirent{ino: i.num, name: []byte(".")})
	d.count(0, dirent{ino: own.dotdot, name: []byte("..")})
	here := map[string]struct{}{}
	for _, part := range [][]byte{data[4:min(len(data), blockAreaLen)], data[min(len(data), blockAreaLen):]} {
		part = bytes.Clone(part)
		for off := 0; off < len(part) && d.c.err == nil; {
			e, ok := d.parse(part, off, len(part))
			if !ok {
				d.bad(ProblemDir, 0, "the entry at %d", off)
				break
			}
			if e.ino != 0 {
				d.entry(0, e, here)
			}
			off += e.len
		}
	}
}
