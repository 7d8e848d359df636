package ext4

// The mapping of files without extents, as ext2 has it: 12 blocks in the inode, then
// one block of pointers, one of pointers to such blocks, and one more level.
const directBlocks = 12

// blockMapPath returns the pointers that lead to the logical block: path[0] is an index into
// the inode's pointers, path[1..depth] are indexes into indirect blocks. ok is false for a
// block beyond the reach of triple indirection.
func (fs *FS) blockMapPath(logical uint64) (path [4]uint64, depth int, ok bool) {
	per := uint64(fs.sb.blockSize / 4)
	if logical < directBlocks {
		return [4]uint64{logical}, 0, true
	}
	logical -= directBlocks
	for depth, span := 1, per; depth <= 3; depth, span = depth+1, span*per {
		if logical >= span {
			logical -= span
			continue
		}
		path[0] = directBlocks + uint64(depth) - 1
		for k := depth; k >= 1; k-- {
			path[k] = logical % per
			logical /= per
		}
		return path, depth, true
	}
	return path, 0, false
}

// lookupBlockMap is lookupExtent for a file without extents.
func (fs *FS) lookupBlockMap(i *inode, logical uint32) (extent, error) {
	path, depth, ok := fs.blockMapPath(uint64(logical))
	if !ok {
		return holeExtent(logical, maxLogical+1), nil
	}
	area := i.blockArea()
	at := uint64(le.Uint32(area[4*path[0]:]))
	ptrs, first := area[:], path[0]
	last := uint64(directBlocks)
	per := uint64(fs.sb.blockSize / 4)
	for k := 1; k <= depth; k++ {
		if at == 0 {
			// The hole reaches to the end of the range that this null pointer covers.
			span := uint64(1)
			for range depth - k + 1 {
				span *= per
			}
			rest := uint64(0)
			for q := k; q <= depth; q++ {
				rest = rest*per + path[q]
			}
			return holeExtent(logical, min(uint64(logical)+span-rest, maxLogical+1)), nil
		}
		b, err := fs.readPointerBlock(i, at)
		if err != nil {
			return extent{}, err
		}
		ptrs, first, last = b, path[k], per
		at = uint64(le.Uint32(ptrs[4*first:]))
	}
	e := extent{logical: logical, n: 1, start: at}
	if at != 0 {
		if at < fs.sb.firstBlock || at >= fs.sb.blocks {
			return extent{}, corruptf("the block map of inode %d is invalid", i.num)
		}
	}
	for k := first + 1; k < last; k++ {
		p := uint64(le.Uint32(ptrs[4*k:]))
		if at == 0 && p != 0 || at != 0 && p != at+uint64(e.n) || p >= fs.sb.blocks {
			break
		}
		e.n++
	}
	return e, nil
}

// readPointerBlock returns an indirect block of an inode.
func (fs *FS) readPointerBlock(i *inode, at uint64) ([]byte, error) {
	if at < fs.sb.firstBlock || at >= fs.sb.blocks {
		return nil, corruptf("the block map of inode %d is invalid", i.num)
	}
	b, err := fs.getBlock(at)
	if err != nil {
		return nil, err
	}
	return b.data, nil
}

// eachBlockMapExtent is eachExtent for a file without extents.
func (fs *FS) eachBlockMapExtent(i *inode, from uint32, f func(extent) (bool, error)) error {
	end := uint64((i.size() + fs.sb.blockSize - 1) / fs.sb.blockSize)
	for logical := uint64(from); logical < min(end, maxLogical); {
		e, err := fs.lookupBlockMap(i, uint32(logical))
		if err != nil {
			return err
		}
		logical = e.endBlock()
		if e.start == 0 {
			continue
		}
		if more, err := f(e); err != nil || !more {
			return err
		}
	}
	return nil
}

// eachPointerBlock calls f for each indirect block of a file without extents, children
// before their parents.
func (fs *FS) eachPointerBlock(i *inode, f func(at uint64) error) error {
	budget := int64(1) << 24
	var walk func(at uint64, depth int) error
	walk = func(at uint64, depth int) error {
		if at == 0 {
			return nil
		}
		if budget--; budget < 0 {
			return corruptf("the block map of inode %d is invalid", i.num)
		}
		b, err := fs.readPointerBlock(i, at)
		if err != nil {
			return err
		}
		if depth > 1 {
			for k := 0; k < len(b); k += 4 {
				if err := walk(uint64(le.Uint32(b[k:])), depth-1); err != nil {
					return err
				}
			}
		}
		return f(at)
	}
	for depth := 1; depth <= 3; depth++ {
		if err := walk(uint64(le.Uint32(i.blockArea()[4*(directBlocks+depth-1):])), depth); err != nil {
			return err
		}
	}
	return nil
}
