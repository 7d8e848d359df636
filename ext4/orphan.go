package ext4

import (
	"slices"
	"sync"
)

// Inodes that lost their last name while they are open, or that are being truncated,
// are in a list that begins in the superblock and goes on in their field of the time
// of deletion. After a crash whoever opens the image next finishes what was begun.
// Linux may also keep such inodes in a file (orphan_file).

const (
	orphanMagic = 0x0b10ca04
	maxOrphans  = 1 << 20
)

// openInode is an inode that files refer to.
type openInode struct {
	num  uint32
	refs int // guarded by FS.mu

	// mu is held by who changes the content, for as long as that takes. It is taken
	// before FS.mu.
	mu sync.Mutex
}

// isOrphan reports whether an inode is in the list.
func (fs *FS) isOrphan(num uint32) bool {
	return slices.Contains(fs.orphans, num) || slices.Contains(fs.orphanFile, num)
}

// addOrphan puts an inode in the list. The caller stores it.
func (fs *FS) addOrphan(i *inode) {
	var next uint32
	if len(fs.orphans) > 0 {
		next = fs.orphans[0]
	}
	le.PutUint32(i.raw[inDtime:], next)
	fs.orphans = append([]uint32{i.num}, fs.orphans...)
}

// removeOrphan takes an inode out of the list. The caller stores it.
func (fs *FS) removeOrphan(i *inode) error {
	k := slices.Index(fs.orphans, i.num)
	if k < 0 {
		return nil
	}
	if k > 0 {
		before, err := fs.inode(fs.orphans[k-1])
		if err != nil {
			return err
		}
		le.PutUint32(before.raw[inDtime:], le.Uint32(i.raw[inDtime:]))
		if err := fs.putInode(before); err != nil {
			return err
		}
	}
	le.PutUint32(i.raw[inDtime:], 0)
	fs.orphans = slices.Delete(slices.Clone(fs.orphans), k, k+1)
	return nil
}

// removeOrphans finishes what the list says was begun, and empties the orphan file.
func (fs *FS) removeOrphans() error {
	if err := fs.removeUnlinked(); err != nil {
		return err
	}
	if fs.sb.compat&compatOrphanFile == 0 || fs.sb.ro&roOrphanPresent == 0 {
		return nil
	}
	list, err := fs.readOrphanFile()
	if err != nil {
		return err
	}
	for _, num := range list {
		if err := fs.reclaim(num); err != nil {
			return err
		}
	}
	return fs.clearOrphanFile()
}

// loadOrphans reads the list.
func (fs *FS) loadOrphans() error {
	num := le.Uint32(fs.sb.raw[sbLastOrphan:])
	seen := map[uint32]bool{}
	for num != 0 {
		if seen[num] || len(seen) > maxOrphans || num < fs.sb.firstIno && num != rootInode {
			return corruptf("the list of orphans")
		}
		seen[num] = true
		fs.orphans = append(fs.orphans, num)
		i, err := fs.rawInode(num)
		if err != nil {
			return err
		}
		num = le.Uint32(i.raw[inDtime:])
	}
	return nil
}

// removeUnlinked reclaims all inodes of the list.
func (fs *FS) removeUnlinked() error {
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
		if err := fs.reclaimAny(num, true); err != nil {
			return err
		}
	}
}

// reclaim frees an inode that has no name and is not open, or the blocks behind the
// end of one that has a name, in as many operations as that takes. One that is not in
// the list of orphans any more was reclaimed by another.
func (fs *FS) reclaim(num uint32) error { return fs.reclaimAny(num, false) }

func (fs *FS) reclaimAny(num uint32, evenOpen bool) error {
	for done := false; !done; {
		_, err := fs.update(func() error {
			if !fs.isOrphan(num) || !evenOpen && fs.inodes[num] != nil {
				done = true
				return nil
			}
			i, err := fs.inode(num)
			if err != nil {
				return err
			}
			done, err = fs.reclaimSome(i)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (fs *FS) reclaimSome(i *inode) (done bool, err error) {
	if i.links() != 0 {
		if i.isRegular() {
			if done, err = fs.cutTo(i, i.size()); err != nil {
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
		return done, fs.putInode(i)
	}
	if done, err = fs.freeBlocks(i); err != nil {
		return false, err
	}
	if !done {
		return false, fs.putInode(i)
	}
	if err := fs.dropXattrBlock(i); err != nil {
		return false, err
	}
	if err := fs.removeOrphan(i); err != nil {
		return false, err
	}
	return true, fs.freeInode(i)
}

// ownsBlocks reports whether an inode's area maps blocks: device nodes and short
// symbolic links have something else there.
func (fs *FS) ownsBlocks(i *inode) bool {
	switch i.kind() {
	case typeRegular, typeDir:
		return !i.has(flagInline)
	case typeSymlink:
		return !fs.isFastSymlink(i)
	}
	return false
}

// freeBlocks frees all content of an inode, and reports whether it is done.
func (fs *FS) freeBlocks(i *inode) (bool, error) {
	if !fs.ownsBlocks(i) {
		return true, nil
	}
	if !i.has(flagExtents) {
		return true, fs.freeMapped(i)
	}
	return fs.cutTo(i, 0)
}

// freeMapped frees the blocks of an inode without extents, in one operation.
func (fs *FS) freeMapped(i *inode) error {
	err := fs.eachMapped(i, 0, func(e extent) (bool, error) {
		return true, fs.freeRun(i, run{e.start, e.n})
	})
	if err != nil {
		return err
	}
	if err := fs.mapMeta(i, func(at uint64) error { return fs.freeMeta(i, at) }); err != nil {
		return err
	}
	clear(i.area())
	return nil
}

// cutTo unmaps what lies behind the block that holds the last byte of size, and
// reports whether it is done.
func (fs *FS) cutTo(i *inode, size int64) (bool, error) {
	bs := fs.sb.blockSize
	from := uint64(roundUp(size, bs) / bs)
	// From the end, so that what remains is always one piece.
	for {
		at, ok, err := fs.lastExtent(i)
		if err != nil {
			return false, err
		}
		if !ok || at.end() <= from {
			return true, fs.shrinkRoot(i)
		}
		if fs.opFull() {
			return false, nil
		}
		lo := max(from, uint64(at.logical))
		if _, err := fs.removeExtents(i, lo, at.end()); err != nil {
			return false, err
		}
	}
}

// lastExtent returns the extent at the end of an inode's tree.
func (fs *FS) lastExtent(i *inode) (extent, bool, error) {
	n, err := fs.extRoot(i)
	if err != nil || n.count() == 0 {
		return extent{}, false, err
	}
	for n.depth() > 0 {
		if n, err = fs.extBlock(i, n.child(n.count()-1), n.depth()-1); err != nil {
			return extent{}, false, err
		}
	}
	return n.extent(n.count() - 1), true, nil
}

// eachOrphanBlock calls f for each block of the orphan file.
func (fs *FS) eachOrphanBlock(f func(i *inode, at uint64, b []byte) error) error {
	i, err := fs.inode(le.Uint32(fs.sb.raw[sbOrphanFile:]))
	if err != nil {
		return err
	}
	for l := range uint32(min(i.size()/fs.sb.blockSize, 512)) {
		e, err := fs.lookup(i, l)
		if err != nil {
			return err
		}
		if e.start == 0 {
			return corruptf("the orphan file has a hole")
		}
		at := e.start + uint64(l-e.logical)
		b, err := fs.get(at)
		if err != nil {
			return err
		}
		if err := f(i, at, b.data); err != nil {
			return err
		}
	}
	return nil
}

func (fs *FS) orphanSum(i *inode, at uint64, b []byte) uint32 {
	c := crc32c32(crc32c32(fs.sb.seed, i.num), i.generation())
	return crc32c(crc32c64(c, at), b[:len(b)-8])
}

func (fs *FS) readOrphanFile() (list []uint32, err error) {
	err = fs.eachOrphanBlock(func(i *inode, at uint64, b []byte) error {
		tail := b[len(b)-8:]
		if le.Uint32(tail) != orphanMagic || fs.sb.csum && fs.orphanSum(i, at, b) != le.Uint32(tail[4:]) {
			return corruptf("the orphan file")
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

func (fs *FS) clearOrphanFile() error {
	_, err := fs.update(func() error {
		err := fs.eachOrphanBlock(func(i *inode, at uint64, _ []byte) error {
			b, err := fs.mod(at)
			if err != nil {
				return err
			}
			clear(b[:len(b)-8])
			if fs.sb.csum {
				le.PutUint32(b[len(b)-4:], fs.orphanSum(i, at, b))
			}
			return nil
		})
		if err == nil {
			fs.sb.ro &^= roOrphanPresent
			le.PutUint32(fs.sb.raw[sbROCompat:], fs.sb.ro)
			fs.orphanFile = nil
		}
		return err
	})
	return err
}
