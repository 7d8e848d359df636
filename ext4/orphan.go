package ext4

import (
	"slices"
	"sync"
)

// The orphan list holds inodes that lost their last name while they were open, and inodes
// that are being truncated. It begins in the superblock, and is linked by the inodes' fields
// for the time of deletion. After a crash the next open finishes the removals and
// truncations. Linux may also keep such inodes in a file (orphan_file).

// The magic number of a block of the orphan file, and a limit for orphans, which are held
// in memory.
const (
	orphanMagic = 0x0b10ca04
	maxOrphans  = 1 << 20
)

// openInode is the state that all open files of one inode share.
type openInode struct {
	num  uint32
	refs int // guarded by FS.mu

	// mu is held for the whole time that a call changes the content, which may take several
	// operations. It is taken before FS.mu.
	mu sync.Mutex
}

// isOrphan reports whether an inode is in the orphan list or the orphan file.
func (fs *FS) isOrphan(num uint32) bool {
	return slices.Contains(fs.orphans, num) || slices.Contains(fs.orphanFile, num)
}

// addOrphan puts an inode at the head of the orphan list. The caller stores the inode.
func (fs *FS) addOrphan(i *inode) {
	var next uint32
	if len(fs.orphans) > 0 {
		next = fs.orphans[0]
	}
	le.PutUint32(i.raw[inDtime:], next)
	fs.orphans = append([]uint32{i.num}, fs.orphans...)
}

// removeOrphan takes an inode out of the orphan list. The caller stores the inode.
func (fs *FS) removeOrphan(i *inode) error {
	k := slices.Index(fs.orphans, i.num)
	if k < 0 {
		return nil
	}
	if k > 0 {
		before, err := fs.readInode(fs.orphans[k-1])
		if err != nil {
			return err
		}
		le.PutUint32(before.raw[inDtime:], le.Uint32(i.raw[inDtime:]))
		if err := fs.storeInode(before); err != nil {
			return err
		}
	}
	le.PutUint32(i.raw[inDtime:], 0)
	fs.orphans = slices.Delete(slices.Clone(fs.orphans), k, k+1)
	return nil
}

// reclaimOrphans finishes the removals and truncations that a crash interrupted, and
// empties the orphan file.
func (fs *FS) reclaimOrphans() error {
	if err := fs.reclaimOrphanList(); err != nil {
		return err
	}
	if fs.sb.compat&compatOrphanFile == 0 || fs.sb.roCompat&roOrphanPresent == 0 {
		return nil
	}
	list, err := fs.readOrphanFile()
	if err != nil {
		return err
	}
	for _, num := range list {
		if err := fs.reclaimInode(num); err != nil {
			return err
		}
	}
	return fs.clearOrphanFile()
}

// loadOrphanList reads the orphan list from the superblock and the inodes in it.
func (fs *FS) loadOrphanList() error {
	num := le.Uint32(fs.sb.raw[sbLastOrphan:])
	seen := map[uint32]bool{}
	for num != 0 {
		if seen[num] || len(seen) > maxOrphans || num < fs.sb.firstUserInode && num != rootInode {
			return corruptf("the orphan list is invalid")
		}
		seen[num] = true
		fs.orphans = append(fs.orphans, num)
		i, err := fs.readRawInode(num)
		if err != nil {
			return err
		}
		num = le.Uint32(i.raw[inDtime:])
	}
	return nil
}

// reclaimOrphanList reclaims all inodes of the orphan list, also open ones.
func (fs *FS) reclaimOrphanList() error {
	for {
		fs.mu.RLock()
		var num uint32
		if n := len(fs.orphans); n > 0 {
			num = fs.orphans[n-1]
		}
		fs.mu.RUnlock()
		if num == 0 {
			return nil
		}
		if err := fs.reclaimInSteps(num, true); err != nil {
			return err
		}
	}
}

// reclaimInode frees an inode that has no name and is not open, or the blocks beyond the
// end of one that has a name, in as many operations as it takes. An inode that is no
// longer an orphan was reclaimed by another goroutine.
func (fs *FS) reclaimInode(num uint32) error { return fs.reclaimInSteps(num, false) }

// reclaimInSteps is reclaimInode; with evenOpen it does not spare open inodes.
func (fs *FS) reclaimInSteps(num uint32, evenOpen bool) error {
	for done := false; !done; {
		_, err := fs.runOperation(func() error {
			if !fs.isOrphan(num) || !evenOpen && fs.openInodes[num] != nil {
				done = true
				return nil
			}
			i, err := fs.readInode(num)
			if err != nil {
				return err
			}
			done, err = fs.reclaimStep(i)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reclaimStep frees as much of an orphan as one operation may, and reports whether it is
// done.
func (fs *FS) reclaimStep(i *inode) (done bool, err error) {
	// An inode with links is in the list because it is being truncated.
	if i.linkCount() != 0 {
		if i.isRegular() {
			if done, err = fs.unmapBeyond(i, i.size()); err != nil {
				return false, err
			}
		} else {
			done = true
		}
		if done {
			if err := fs.removeOrphan(i); err != nil {
				return false, err
			}
		}
		return done, fs.storeInode(i)
	}
	if done, err = fs.freeContent(i); err != nil {
		return false, err
	}
	if !done {
		return false, fs.storeInode(i)
	}
	return true, fs.freeEmptiedInode(i)
}

// freeEmptiedInode frees an inode without content, and its attribute block.
func (fs *FS) freeEmptiedInode(i *inode) error {
	if err := fs.releaseXattrBlock(i); err != nil {
		return err
	}
	if err := fs.removeOrphan(i); err != nil {
		return err
	}
	return fs.freeInode(i)
}

// mapsBlocks reports whether an inode's block area maps blocks: device nodes, short
// symbolic links and inline data have something else there.
func (fs *FS) mapsBlocks(i *inode) bool {
	switch i.fileType() {
	case typeRegular, typeDir:
		return !i.hasFlag(flagInline)
	case typeSymlink:
		return !fs.isFastSymlink(i)
	}
	return false
}

// freeContent frees the blocks of an inode, and reports whether it is done.
func (fs *FS) freeContent(i *inode) (bool, error) {
	if !fs.mapsBlocks(i) {
		return true, nil
	}
	if !i.hasFlag(flagExtents) {
		return true, fs.freeBlockMap(i)
	}
	return fs.unmapBeyond(i, 0)
}

// freeBlockMap frees the blocks of an inode without extents, in one operation.
func (fs *FS) freeBlockMap(i *inode) error {
	err := fs.eachBlockMapExtent(i, 0, func(e extent) (bool, error) {
		return true, fs.freeDataBlocks(i, run{e.start, e.n})
	})
	if err != nil {
		return err
	}
	if err := fs.eachPointerBlock(i, func(at uint64) error { return fs.freeMetadataBlock(i, at) }); err != nil {
		return err
	}
	clear(i.blockArea())
	return nil
}

// unmapBeyond unmaps the blocks after the one that holds the last byte of size, and
// reports whether it is done.
func (fs *FS) unmapBeyond(i *inode, size int64) (bool, error) {
	blockSize := fs.sb.blockSize
	from := uint64(roundUpTo(size, blockSize) / blockSize)
	// From the end, so that the mapping stays valid between operations.
	for {
		at, ok, err := fs.lastExtent(i)
		if err != nil {
			return false, err
		}
		if !ok || at.endBlock() <= from {
			return true, fs.flattenExtentTree(i)
		}
		if fs.operationFull() {
			return false, nil
		}
		lo := max(from, uint64(at.logical))
		if _, err := fs.removeExtents(i, lo, at.endBlock()); err != nil {
			return false, err
		}
	}
}

// lastExtent returns the last extent of an inode; false if it has none.
func (fs *FS) lastExtent(i *inode) (extent, bool, error) {
	path, err := fs.findExtentPath(i, maxLogical)
	if err != nil {
		return extent{}, false, err
	}
	leaf := path[len(path)-1]
	if leaf.entry < 0 {
		return extent{}, false, nil
	}
	return leaf.node.extentAt(leaf.entry), true, nil
}

// eachOrphanBlock calls f for each block of the orphan file.
func (fs *FS) eachOrphanBlock(f func(i *inode, at uint64, b []byte) error) error {
	i, err := fs.readInode(le.Uint32(fs.sb.raw[sbOrphanFile:]))
	if err != nil {
		return err
	}
	for l := range uint32(min(i.size()/fs.sb.blockSize, 512)) {
		e, err := fs.lookupExtent(i, l)
		if err != nil {
			return err
		}
		if e.start == 0 {
			return corruptf("the orphan file has a hole")
		}
		at := e.start + uint64(l-e.logical)
		b, err := fs.getBlock(at)
		if err != nil {
			return err
		}
		if err := f(i, at, b.data); err != nil {
			return err
		}
	}
	return nil
}

// orphanBlockChecksum computes the checksum of a block of the orphan file.
func (fs *FS) orphanBlockChecksum(i *inode, at uint64, b []byte) uint32 {
	c := crc32cUint32(crc32cUint32(fs.sb.csumSeed, i.num), i.generation())
	return crc32c(crc32cUint64(c, at), b[:len(b)-8])
}

// readOrphanFile returns the inodes in the orphan file.
func (fs *FS) readOrphanFile() (list []uint32, err error) {
	err = fs.eachOrphanBlock(func(i *inode, at uint64, b []byte) error {
		tail := b[len(b)-8:]
		if le.Uint32(tail) != orphanMagic || fs.sb.metadataCsum && fs.orphanBlockChecksum(i, at, b) != le.Uint32(tail[4:]) {
			return corruptf("the orphan file is invalid")
		}
		for k := 0; k < len(b)-8; k += 4 {
			if num := le.Uint32(b[k:]); num != 0 {
				list = append(list, num)
			}
		}
		return nil
	})
	fs.orphanFile = list
	return list, err
}

// clearOrphanFile empties the orphan file and clears its feature flag orphan_present.
func (fs *FS) clearOrphanFile() error {
	_, err := fs.runOperation(func() error {
		err := fs.eachOrphanBlock(func(i *inode, at uint64, _ []byte) error {
			b, err := fs.modifyBlock(at)
			if err != nil {
				return err
			}
			clear(b[:len(b)-8])
			if fs.sb.metadataCsum {
				le.PutUint32(b[len(b)-4:], fs.orphanBlockChecksum(i, at, b))
			}
			return nil
		})
		if err == nil {
			fs.sb.roCompat &^= roOrphanPresent
			le.PutUint32(fs.sb.raw[sbROCompat:], fs.sb.roCompat)
			fs.orphanFile = nil
		}
		return err
	})
	return err
}
