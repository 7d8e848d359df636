package ext4

import (
	"cmp"
	"slices"
)

// blockClaims is a set of blocks, or clusters, that have an owner: per group a list of
// runs, or a bitmap when the runs would take more memory.
type blockClaims struct {
	c        *checker
	perGroup uint32 // of a group
	groups   map[uint32]*groupClaims
}

// groupClaims is the part of blockClaims in one group.
type groupClaims struct {
	runs []claimRun // in order, not adjacent; not used when there is a bitmap
	bits []byte
}

// claimRun is a run of numbers from..to-1.
type claimRun struct{ from, to uint32 }

// claimCost is the memory that a group without runs takes, in bytes.
const claimCost = 120 // bytes of memory of a group without runs

// newBlockClaims returns an empty set; perGroup is the number of blocks, or clusters, of a
// group.
func newBlockClaims(c *checker, per uint32) *blockClaims {
	return &blockClaims{c, per, map[uint32]*groupClaims{}}
}

// claimRange claims n blocks from at on, counted from the first block of group 0. It
// returns the first of them that was claimed before, if any.
func (m *blockClaims) claimRange(at, n uint64) (taken uint64, twice bool) {
	for n > 0 {
		g, from := uint32(at/uint64(m.perGroup)), uint32(at%uint64(m.perGroup))
		k := uint32(min(n, uint64(m.perGroup-from)))
		s := m.groups[g]
		if s == nil {
			if !m.c.chargeMemory(claimCost) {
				return taken, twice
			}
			s = &groupClaims{}
			m.groups[g] = s
		}
		if t, ok := s.claimGroupRange(m, from, from+k); ok && !twice {
			taken, twice = at-uint64(from)+uint64(t), true
		}
		at, n = at+uint64(k), n-uint64(k)
	}
	return taken, twice
}

// claimGroupRange is claimRange within a group.
func (s *groupClaims) claimGroupRange(m *blockClaims, from, to uint32) (taken uint32, twice bool) {
	if s.bits != nil {
		for i := from; i < to && !twice; i++ {
			taken, twice = i, testBit(s.bits, uint64(i))
		}
		setBits(s.bits, uint64(from), uint64(to-from))
		return taken, twice
	}
	// All runs that touch or overlap the new one are joined with it; i..j-1 are these.
	i, _ := slices.BinarySearchFunc(s.runs, from, func(r claimRun, v uint32) int { return cmp.Compare(r.to, v) })
	j, now := i, claimRun{from, to}
	for ; j < len(s.runs) && s.runs[j].from <= to; j++ {
		r := s.runs[j]
		if a := max(r.from, from); !twice && a < min(r.to, to) {
			taken, twice = a, true
		}
		now.from, now.to = min(now.from, r.from), max(now.to, r.to)
	}
	before := cap(s.runs)
	s.runs = slices.Replace(s.runs, i, j, now)
	if len(s.runs)*16 > int(m.perGroup)/8 {
		m.c.chargeMemory(int(m.perGroup)/8 - before*8)
		s.bits = make([]byte, (m.perGroup+7)/8)
		for _, r := range s.runs {
			setBits(s.bits, uint64(r.from), uint64(r.to-r.from))
		}
		s.runs = nil
	} else if grown := cap(s.runs) - before; grown > 0 {
		m.c.chargeMemory(grown * 8)
	}
	return taken, twice
}

// isClaimed reports whether a block is claimed.
func (m *blockClaims) isClaimed(at uint64) bool {
	s, i := m.groups[uint32(at/uint64(m.perGroup))], uint32(at%uint64(m.perGroup))
	switch {
	case s == nil:
		return false
	case s.bits != nil:
		return testBit(s.bits, uint64(i))
	}
	k, _ := slices.BinarySearchFunc(s.runs, i+1, func(r claimRun, v uint32) int { return cmp.Compare(r.to, v) })
	return k < len(s.runs) && s.runs[k].from <= i
}

// copyToBitmap sets the bits of the claimed blocks of a group.
func (m *blockClaims) copyToBitmap(g uint32, bits []byte) {
	s := m.groups[g]
	if s == nil {
		return
	}
	copy(bits, s.bits)
	for _, r := range s.runs {
		setBits(bits, uint64(r.from), uint64(r.to-r.from))
	}
}

// clusterOf returns the number of a block's cluster, counted from the start of group 0.
func (c *checker) clusterOf(at uint64) uint64 {
	return (at - c.sb.firstBlock) / uint64(c.sb.clusterBlocks)
}

// inodeState is what the check knows about an inode. There is one for each inode in use,
// so it is small.
type inodeState struct {
	links uint16 // as the inode says
	names uint16 // names that lead to it, as many as can be counted
	kind  byte   // type, as in entries
	flags byte
}

// Flags of an inodeState.
const (
	stateUsed   = 1 << iota
	stateSkip   // the mapping is not sound, so that the content is not looked at
	stateSystem // needs no name
	stateEA     // holds the value of an attribute
	stateOdd    // the type is none, or the fields contradict it

	inodesOfPage = 256
)

// inodePage is the states of inodesOfPage inodes, allocated at once.
type inodePage [inodesOfPage]inodeState

// stateOfInode returns the state of an inode; nil if it is not in use.
func (c *checker) stateOfInode(ino uint32) *inodeState {
	p := c.inodes[ino/inodesOfPage]
	if p == nil || p[ino%inodesOfPage].flags&stateUsed == 0 {
		return nil
	}
	return &p[ino%inodesOfPage]
}

// markInodeUsed records that an inode is in use, and returns its state.
func (c *checker) markInodeUsed(ino uint32) *inodeState {
	p := c.inodes[ino/inodesOfPage]
	if p == nil {
		c.chargeMemory(inodesOfPage*6 + 64)
		p = &inodePage{}
		c.inodes[ino/inodesOfPage] = p
	}
	s := &p[ino%inodesOfPage]
	s.flags |= stateUsed
	return s
}

// checkedDir is a directory in use.
type checkedDir struct {
	ino               uint32
	parent            uint32 // that holds its name; 0: none
	dotdot            uint32
	reachabilityKnown bool // it is known whether the root can be reached
}

// findDirectory returns the state of a directory; nil if the inode is not one.
func (c *checker) findDirectory(ino uint32) *checkedDir {
	i, ok := slices.BinarySearchFunc(c.dirs, ino, func(d checkedDir, v uint32) int { return cmp.Compare(d.ino, v) })
	if !ok {
		return nil
	}
	return &c.dirs[i]
}

// addDirectory records a directory. They must be added in the order of inode numbers.
func (c *checker) addDirectory(ino uint32) {
	if len(c.dirs) == cap(c.dirs) {
		c.chargeMemory(cap(c.dirs)*16 + 1024)
	}
	c.dirs = append(c.dirs, checkedDir{ino: ino})
}
