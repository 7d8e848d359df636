package ext4

import (
	"cmp"
	"slices"
)

// connect checks that all directories can be reached from the root, and that ".." leads
// back.
func (c *checker) connect() {
	root := c.dir(rootInode)
	if root == nil {
		c.badInode(ProblemRoot, rootInode, "there is no root directory")
		return
	}
	root.known = true
	for k := range c.dirs {
		if c.stopped() {
			return
		}
		d := &c.dirs[k]
		if c.state(d.ino).bits&stateSystem != 0 {
			continue // yet to be removed
		}
		if d.parent == 0 {
			c.badInode(ProblemUnreachable, d.ino, "a directory without a name")
			d.known = true
		} else if d.dotdot != d.parent && c.state(d.ino).bits&stateSkip == 0 {
			c.badInode(ProblemDirDots, d.ino, "the entry .. leads to inode %d, but it is in directory %d", d.dotdot, d.parent)
		}
		c.climb(d)
	}
}

// climb goes from a directory up to one of which it is known whether the root can be
// reached, and notes that for all on the way.
func (c *checker) climb(d *checkedDir) {
	var way []*checkedDir
	for !d.known {
		d.known = true
		way = append(way, d)
		up := c.dir(d.parent)
		if up == nil {
			return // reported: that has no name, or is no directory
		}
		if up.known && slices.Contains(way, up) {
			c.badInode(ProblemUnreachable, up.ino, "a directory that is beneath itself")
			return
		}
		d = up
	}
}

// countLinks compares the names of all inodes with their counts of links.
func (c *checker) countLinks() {
	pages := make([]uint32, 0, len(c.inodes))
	for p := range c.inodes {
		pages = append(pages, p)
	}
	slices.SortFunc(pages, cmp.Compare)
	for _, p := range pages {
		for k := range c.inodes[p] {
			if c.stopped() {
				return
			}
			s, ino := &c.inodes[p][k], p*inodesOfPage+uint32(k)
			if s.bits&stateUsed != 0 && s.bits&stateSystem == 0 {
				c.countInode(ino, s)
			}
		}
	}
}

func (c *checker) countInode(ino uint32, s *inodeState) {
	seen := s.seen
	switch {
	case seen == 0 && s.kind != ftDir:
		c.badInode(ProblemUnreachable, ino, "is in use and has no name")
		return
	case s.kind == ftDir && seen > maxLinks:
		seen = 1 // nobody counts any more
	}
	if seen != s.links {
		c.badInode(ProblemLinks, ino, "counts %d links and has %d", s.links, seen)
	}
}
