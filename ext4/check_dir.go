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
	index *indexCheck // nil: the directory has no index
}

// maxNames is how many names of a directory are compared with each other.
const maxNames = 1 << 19 // of a directory that are compared with each other

// checkDirectories checks the entries of all directories.
func (c *checker) checkDirectories() {
	if root := c.findDirectory(rootInode); root != nil {
		root.parent = rootInode
	}
	for k := 0; k < len(c.dirs) && !c.shouldStop(); k++ {
		num := c.dirs[k].ino
		i := c.readRawInode(num)
		if i == nil || c.stateOfInode(num).flags&(stateSkip|stateSystem) != 0 {
			continue // there is no sense in it, or it is yet to be removed
		}
		d := &dirCheck{c: c, dir: i, names: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
		if i.hasFlag(flagInline) && c.sb.incompat&incompatInlineData != 0 {
			d.checkInlineEntries()
			continue
		}
		d.checkBlocks()
	}
}

// checkBlocks checks the blocks of a directory.
func (d *dirCheck) checkBlocks() {
	c := d.c
	total := uint32(d.dir.size() / c.sb.blockSize)
	d.startIndexCheck(total)
	l := uint32(0)
	err := c.fs.eachExtent(d.dir, 0, func(e extent) (bool, error) {
		for k := uint32(0); k < e.n && l < total; k++ {
			if c.shouldStop() {
				return false, nil
			}
			at := e.start + uint64(k)
			buf := make([]byte, c.sb.blockSize)
			if err := c.fs.readBlockUncached(at, buf); err != nil {
				c.err = err
				return false, nil
			}
			d.checkBlock(l, at, buf)
			l++
		}
		return true, nil
	})
	if err != nil {
		c.reportInode(ProblemDir, d.dir.num, "%v", err)
		return
	}
	if d.index != nil {
		d.index.checkHashRanges()
	}
}

// checkBlock checks block l of a directory.
func (d *dirCheck) checkBlock(l uint32, at uint64, b []byte) {
	c := d.c
	kind := leafBlock
	if d.index != nil {
		kind = d.index.classifyBlock(l, b)
	}
	end := len(b)
	if kind == leafBlock {
		end = c.fs.entriesEnd()
		if has := c.fs.checkDirTail(d.dir, b); has != "" {
			d.reportBlock(ProblemDirSum, at, "has %s", has)
		}
	}
	d.checkEntries(l, at, b, end, kind)
	if kind != leafBlock {
		d.index.checkIndexNode(l, at, b)
	}
}

// reportBlock reports a problem of a block of the directory.
func (d *dirCheck) reportBlock(code string, at uint64, format string, args ...any) {
	d.c.reportBlock(code, d.dir.num, at, format, args...)
}

// checkEntries checks the entries of a block up to end. In an inner node of an index all
// are unused, except the first two of block 0.
func (d *dirCheck) checkEntries(l uint32, at uint64, b []byte, end int, kind blockKind) {
	here := map[string]struct{}{}
	for off, n := 0, 0; off < end && d.c.err == nil; n++ {
		e, ok := d.parseEntry(b, off, end)
		if !ok {
			d.reportBlock(ProblemDir, at, "the entry at offset %d is invalid", off)
			return
		}
		switch {
		case l == 0 && n == 0:
			d.checkDotEntry(at, e, b, false)
		case l == 0 && n == 1:
			d.checkDotEntry(at, e, b, true)
		case e.ino != 0:
			d.checkEntry(at, e, here)
			if d.index != nil && kind == leafBlock {
				d.index.addLeafName(l, string(e.name))
			}
		}
		off += e.len
		if l == 0 && n == 1 && kind == rootBlock {
			return // the index follows
		}
		if l == 0 && off >= end && n == 0 {
			d.reportBlock(ProblemDirDots, at, "the entry .. is missing")
		}
	}
}

// parseEntry reads an entry, and reports whether its lengths are sound.
func (d *dirCheck) parseEntry(b []byte, off, end int) (dirent, bool) {
	if off+entryHeaderLen > end {
		return dirent{}, false
	}
	e := dirent{off: off, ino: le.Uint32(b[off:]), len: int(le.Uint16(b[off+4:])), kind: b[off+7]}
	if len(b) == 65536 && (e.len == 0 || e.len == 65535) {
		e.len = 65536
	}
	n := int(b[off+6])
	if e.len < 12 || e.len%4 != 0 || off+e.len > end && !(off+e.len == len(b) && end < len(b) && e.ino == 0) || entryHeaderLen+n > e.len {
		return e, false
	}
	e.name = b[off+entryHeaderLen : off+entryHeaderLen+n]
	return e, true
}

// checkDotEntry checks the entry "." or, with parent, "..".
func (d *dirCheck) checkDotEntry(at uint64, e dirent, b []byte, parent bool) {
	want := "."
	if parent {
		want = ".."
	}
	if e.ino == 0 || string(e.name) != want || b[e.off+entryHeaderLen+len(want)] != 0 {
		d.reportBlock(ProblemDirDots, at, "the entry %s is missing", want)
		if e.ino != 0 && !isDotName(string(e.name)) {
			d.checkEntry(at, e, map[string]struct{}{})
		}
		return
	}
	d.checkEntryType(at, e)
	switch {
	case parent:
		if own := d.c.findDirectory(d.dir.num); own != nil {
			own.dotdot = e.ino
		}
	case e.ino != d.dir.num:
		d.reportBlock(ProblemDirDots, at, "the entry . leads to inode %d", e.ino)
		return
	case e.len > 24:
		d.reportBlock(ProblemDirDots, at, "the entry . has %d bytes", e.len)
	}
	d.countName(at, e)
}

// countName counts a name of an inode, and returns the inode's state; nil if it is not in
// use.
func (d *dirCheck) countName(at uint64, e dirent) *inodeState {
	if e.ino > d.c.sb.inodes || e.ino < d.c.sb.firstUserInode && e.ino != rootInode {
		d.reportBlock(ProblemEntryInode, at, "%q leads to inode %d", e.name, e.ino)
		return nil
	}
	s := d.c.stateOfInode(e.ino)
	if s == nil {
		d.reportBlock(ProblemEntryInode, at, "%q leads to inode %d, which is unused", e.name, e.ino)
		return nil
	}
	s.names = min(s.names, 1<<16-2) + 1
	return s
}

// checkEntryType compares the type in an entry with that of its inode.
func (d *dirCheck) checkEntryType(at uint64, e dirent) {
	s := d.c.stateOfInode(e.ino)
	if s == nil {
		return
	}
	want := s.kind
	if d.c.sb.incompat&incompatFiletype == 0 {
		want = 0
	}
	if e.kind != want {
		d.reportBlock(ProblemEntryType, at, "%q has type %d and inode %d type %d", e.name, e.kind, e.ino, want)
	}
}

// checkEntry checks an entry other than the first two. here holds the names in its block.
func (d *dirCheck) checkEntry(at uint64, e dirent, here map[string]struct{}) {
	switch {
	case len(e.name) == 0:
		d.reportBlock(ProblemName, at, "inode %d has an empty name", e.ino)
		return
	case isDotName(string(e.name)) && !d.dir.hasFlag(flagEncrypted):
		d.reportBlock(ProblemDirDots, at, "the entry %s occurs again", e.name)
		return
	case invalidEntryName(e.name) && !d.dir.hasFlag(flagEncrypted):
		d.reportBlock(ProblemName, at, "%q", e.name)
	}
	if e.ino == d.dir.num || e.ino == rootInode {
		d.reportBlock(ProblemEntryInode, at, "%q leads to the directory itself, or the root", e.name)
		return
	}
	s := d.countName(at, e)
	if s == nil {
		return
	}
	d.checkEntryType(at, e)
	d.checkDuplicateName(at, e, here)
	if sub := d.c.findDirectory(e.ino); sub != nil {
		if sub.parent != 0 {
			d.reportBlock(ProblemTwoParents, at, "%q leads to directory %d, which is also in %d", e.name, e.ino, sub.parent)
			return
		}
		sub.parent = d.dir.num
	}
}

// checkDuplicateName reports names that occur twice. Across blocks it compares hashes of
// them, as many as maxNames.
func (d *dirCheck) checkDuplicateName(at uint64, e dirent, here map[string]struct{}) {
	name := string(e.name)
	_, twice := here[name]
	here[name] = struct{}{}
	if h := maphash.Bytes(d.seed, e.name); len(d.names) < maxNames {
		_, ok := d.names[h]
		twice = twice || ok
		d.names[h] = struct{}{}
	}
	if twice {
		d.reportBlock(ProblemNameTwice, at, "%q", name)
	}
}

// checkInlineEntries checks a directory that lies in its inode.
func (d *dirCheck) checkInlineEntries() {
	i := d.dir
	if n, ok := d.c.inlineDataSize(i); !ok || i.size() != int64(n) || n < 4 {
		return // was reported
	}
	data, err := d.c.fs.readInlineData(i)
	if err != nil {
		d.reportBlock(ProblemInline, 0, "%v", err)
		return
	}
	own := d.c.findDirectory(i.num)
	own.dotdot = le.Uint32(data)
	d.countName(0, dirent{ino: i.num, name: []byte(".")})
	d.countName(0, dirent{ino: own.dotdot, name: []byte("..")})
	here := map[string]struct{}{}
	for _, part := range [][]byte{data[4:min(len(data), blockAreaLen)], data[min(len(data), blockAreaLen):]} {
		part = bytes.Clone(part)
		for off := 0; off < len(part) && d.c.err == nil; {
			e, ok := d.parseEntry(part, off, len(part))
			if !ok {
				d.reportBlock(ProblemDir, 0, "the entry at offset %d is invalid", off)
				break
			}
			if e.ino != 0 {
				d.checkEntry(0, e, here)
			}
			off += e.len
		}
	}
}
