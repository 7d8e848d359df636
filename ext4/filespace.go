package ext4

// Truncate sets the size. A file that grows reads as zeros in its new part.
func (f *File) Truncate(size int64) error {
	if size < 0 {
		return errInvalid
	}
	if size > maxLogical*f.fs.sb.blockSize {
		return errTooBig
	}
	if !f.write {
		return errClosed
	}
	f.openInode.mu.Lock()
	defer f.openInode.mu.Unlock()
	return f.truncateLocked(size)
}

// truncateLocked is Truncate with the inode's mutex held.
func (f *File) truncateLocked(size int64) error {
	first := true
	return f.modifyInStepsLocked(func(i *inode) (bool, error) {
		done, err := f.fs.truncateInode(i, size, first)
		first = first && err != nil // an operation that fails may be tried again
		return done, err
	})
}

// truncateInode sets the size of a file, in several operations if it has many extents.
// Until the last one the inode is in the orphan list, so that recovery finishes a
// truncation that a crash interrupted. first: this is the first of the operations.
func (fs *FS) truncateInode(i *inode, size int64, first bool) (done bool, err error) {
	if !i.hasFlag(flagExtents) {
		return false, unsupportedf("truncating inode %d, which has no extents", i.num)
	}
	blockSize := fs.sb.blockSize
	if first {
		fs.setTimesToNow(i, stampMtime, stampCtime)
		old := i.size()
		if err := fs.zeroBlockPart(i, min(size, old), roundUpTo(min(size, old), blockSize)); err != nil {
			return false, err
		}
		fs.setFileSize(i, size)
		if size > old {
			return true, nil
		}
	}
	if done, err = fs.unmapBeyond(i, size); err != nil {
		return false, err
	}
	listed := fs.isOrphan(i.num)
	switch {
	case done && listed && i.linkCount() > 0:
		err = fs.removeOrphan(i)
	case !done && !listed:
		fs.addOrphan(i)
	}
	return done, err
}

// PunchHole makes a range read as zeros and frees its space. The size stays.
func (f *File) PunchHole(off, length int64) error {
	if off < 0 || length <= 0 || off+length < off {
		return errInvalid
	}
	blockSize := f.fs.sb.blockSize
	first, at := true, int64(0)
	return f.modifyInSteps(func(i *inode) (bool, error) {
		if !i.hasFlag(flagExtents) {
			return false, unsupportedf("punching inode %d, which has no extents", i.num)
		}
		end := off + length
		if end > i.size() {
			end = roundUpTo(i.size(), blockSize) // as Linux does: the rest of the last block too
		}
		if off >= min(end, i.size()) {
			return true, nil
		}
		if first {
			at = roundUpTo(off, blockSize)
			if err := f.fs.zeroPunchEdges(i, off, end); err != nil {
				return false, err
			}
			f.fs.setTimesToNow(i, stampMtime, stampCtime)
		}
		last := end / blockSize
		if at/blockSize >= last {
			return true, nil
		}
		to, err := f.fs.removeExtents(i, uint64(at/blockSize), uint64(last))
		if err != nil {
			return false, err // and this may be tried again
		}
		first, at = false, int64(to)*blockSize
		return to >= uint64(last), nil
	})
}

// zeroPunchEdges zeroes the parts of blocks at both ends of a hole.
func (fs *FS) zeroPunchEdges(i *inode, off, end int64) error {
	blockSize := fs.sb.blockSize
	if err := fs.zeroBlockPart(i, off, min(roundUpTo(off, blockSize), end)); err != nil {
		return err
	}
	if tail := end / blockSize * blockSize; tail >= roundUpTo(off, blockSize) {
		return fs.zeroBlockPart(i, tail, end)
	}
	return nil
}

// Allocate reserves space for a range, as fallocate(2) does: holes in it still read as
// zeros. With keepSize the size does not grow.
func (f *File) Allocate(off, length int64, keepSize bool) error {
	blockSize := f.fs.sb.blockSize
	if off < 0 || length <= 0 || off+length < off {
		return errInvalid
	}
	if off+length > maxLogical*blockSize {
		return errTooBig
	}
	from, end := uint64(off/blockSize), uint64(roundUpTo(off+length, blockSize)/blockSize)
	return f.modifyInSteps(func(i *inode) (bool, error) {
		if !i.hasFlag(flagExtents) {
			return false, unsupportedf("allocating for inode %d, which has no extents", i.num)
		}
		l := from
		for l < end && !f.fs.operationFull() {
			n, err := f.fs.preallocateBlocks(i, uint32(l), end)
			if err != nil {
				return false, err
			}
			l += n
		}
		if size := min(off+length, int64(l)*blockSize); size > i.size() && !keepSize {
			if err := f.fs.zeroBlockPart(i, i.size(), roundUpTo(i.size(), blockSize)); err != nil {
				return false, err
			}
			f.fs.setFileSize(i, size)
		}
		f.fs.setTimesToNow(i, stampCtime)
		from = l
		return l >= end, nil
	})
}

// preallocateBlocks maps the hole at a logical block with an unwritten extent, or skips
// blocks that are mapped. It returns how many blocks it got past.
func (fs *FS) preallocateBlocks(i *inode, logical uint32, end uint64) (uint64, error) {
	ext, err := fs.lookupExtent(i, logical)
	if err != nil {
		return 0, err
	}
	n := min(ext.endBlock(), end) - uint64(logical)
	if ext.start != 0 {
		return n, nil
	}
	r, err := fs.allocBlocks(fs.chooseBlockGoal(i, logical), uint32(min(n, maxUnwritten)))
	if err != nil {
		return 0, err
	}
	fs.changeBlockCount(i, int64(r.n))
	return uint64(r.n), fs.insertExtent(i, extent{logical: logical, n: r.n, start: r.start, unwritten: true})
}
