package ext4

import "context"

// Usage is how much of the file system is in use. Sizes are bytes.
type Usage struct {
	Size       int64 // available for files and their metadata
	Free       int64 // part of Size that is free
	Inodes     int64
	FreeInodes int64
	// FileBytes is by how much the sum of the sizes of all regular files has changed
	// since the FS was opened; SumSizes tells the sum itself.
	FileBytes int64
}

// Usage returns how much of the file system is in use.
func (fs *FS) Usage() Usage {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	c, sb := fs.counters, fs.sb
	over := int64(fs.overheadBlocks()) * sb.blockSize
	return Usage{
		Size: max(int64(sb.blocks)*sb.blockSize-over, 0), Free: int64(c.freeBlocks) * sb.blockSize,
		Inodes: int64(sb.inodes), FreeInodes: int64(c.freeInodes), FileBytes: c.fileBytes,
	}
}

// overheadBlocks returns how many blocks cannot hold files: as the superblock says, or an
// estimate.
func (fs *FS) overheadBlocks() uint64 {
	if n := uint64(le.Uint32(fs.sb.raw[sbOverhead:])); n > 0 && n < fs.sb.blocks {
		return n * uint64(fs.sb.clusterBlocks)
	}
	n := fs.sb.inodeTableBlocks() + 2
	return min(n*uint64(fs.sb.groups), fs.sb.blocks)
}

// SumSizes adds up the sizes of all regular files that have a name or are open.
func (fs *FS) SumSizes(ctx context.Context) (int64, error) {
	var sum int64
	for g := range fs.sb.groups {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		n, err := fs.sumGroupSizes(g)
		if sum += n; err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// sumGroupSizes is SumSizes for the inodes of one group, with mu held shared.
func (fs *FS) sumGroupSizes(g uint32) (sum int64, err error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return 0, errClosed
	}
	d, err := fs.readGroupDesc(g)
	if err != nil || d.freeInodes() >= fs.sb.inodesPerGroup {
		return 0, err
	}
	bitmap, err := fs.readGroupBitmap(g, d, true)
	if err != nil || bitmap == nil {
		return 0, err
	}
	for k := range fs.sb.inodesPerGroup {
		num := g*fs.sb.inodesPerGroup + k + 1
		if !testBit(bitmap, uint64(k)) || num < fs.sb.firstUserInode ||
			num == le.Uint32(fs.sb.raw[sbOrphanFile:]) && fs.sb.compat&compatOrphanFile != 0 {
			continue
		}
		i, err := fs.readInode(num)
		if err != nil {
			return sum, err
		}
		if i.isRegular() && !i.hasFlag(flagEAInode) && (i.linkCount() > 0 || fs.openInodes[num] != nil) {
			sum += i.size()
		}
	}
	return sum, nil
}
