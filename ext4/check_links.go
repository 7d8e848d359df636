package ext4

import (
	"maps"
	"slices"
)

// checkConnectivity checks that all directories can be reached from the root, and that
// ".." leads back.
func (c *checker) checkConnectivity() {
	root := c.findDirectory(rootInode)
	if root == nil {
		c.reportInode(ProblemRoot, rootInode, "the root directory is missing")
		return
	}
	root.reachabilityKnown = true
	for k := range c.dirs {
		if c.shouldStop() {
			return
		}
		d := &c.dirs[k]
		if c.stateOfInode(d.ino).flags&stateSystem != 0 {
			continue // yet to be removed
		}
		if d.parent == 0 {
			c.reportInode(ProblemUnreachable, d.ino, "is a directory without a name")
			d.reachabilityKnown = true
		} else if d.dotdot != d.parent && c.stateOfInode(d.ino).flags&stateSkip == 0 {
			c.reportInode(ProblemDirDots, d.ino, "the entry .. leads to inode %d, but the directory is in %d", d.dotdot, d.parent)
		}
		c.climbTowardsRoot(d)
	}
}

// climbTowardsRoot goes up from a directory to one whose reachability is known, and
// records the same for all on the way. A directory met twice is beneath itself.
func (c *checker) climbTowardsRoot(d *checkedDir) {
	var way []*checkedDir
	for !d.reachabilityKnown {
		d.reachabilityKnown = true
		way = append(way, d)
		up := c.findDirectory(d.parent)
		if up == nil {
			return // reported: that has no name, or is no directory
		}
		if up.reachabilityKnown && slices.Contains(way, up) {
			c.reportInode(ProblemUnreachable, up.ino, "is a directory beneath itself")
			return
		}
		d = up
	}
}

// compareLinkCounts compares the names of all inodes with their link counts.
func (c *checker) compareLinkCounts() {
	for _, p := range slices.Sorted(maps.Keys(c.inodes)) {
		for k := range c.inodes[p] {
			if c.shouldStop() {
				return
			}
			s, ino := &c.inodes[p][k], p*inodesOfPage+uint32(k)
			if s.flags&stateUsed != 0 && s.flags&stateSystem == 0 {
				c.compareLinkCount(ino, s)
			}
		}
	}
}

// compareLinkCount compares the names of one inode with its link count.
func (c *checker) compareLinkCount(ino uint32, s *inodeState) {
	seen := s.names
	switch {
	case seen == 0 && s.kind != ftDir:
		c.reportInode(ProblemUnreachable, ino, "is used, but has no name")
		return
	case s.kind == ftDir && seen > maxLinks:
		seen = 1 // not counted (dir_nlink)
	}
	if seen != s.links {
		c.reportInode(ProblemLinks, ino, "counts %d links, but has %d", s.links, seen)
	}
}
