package ext4

import (
	"context"
	"fmt"
)

// Trim punches holes into the image where the file system has free blocks, so that the
// host gets their storage back. It returns the bytes of free space in those holes, most of
// which may have been holes before. First it makes all changes durable.
//
// Other calls can run at the same time. Errors: [ErrUnsupported], the device is neither an
// [*os.File] on a system and file system that support holes, nor does it have a method
// PunchHole(off, length int64) error; [ErrReadOnly]; errors of ctx, with the bytes until
// then; errors of the device.
func (fs *FS) Trim(ctx context.Context) (int64, error) {
	fs.mu.RLock()
	err := fs.checkWritable()
	groups := fs.sb.groups
	fs.mu.RUnlock()
	if err == nil {
		// Afterwards no block is busy: neither the last commit nor the log refers to a free one.
		err = fs.commitAndCheckpoint()
	}
	var n int64
	for g := uint32(0); g < groups && err == nil; g++ {
		if err = ctx.Err(); err != nil {
			break
		}
		var freed int64
		freed, err = fs.trimGroup(g)
		n += freed
	}
	if err != nil {
		return n, fmt.Errorf("trimming: %w", err)
	}
	return n, nil
}

// trimGroup punches holes for the free blocks of a group. mu is held shared, so none of
// them can be allocated at the same time.
func (fs *FS) trimGroup(g uint32) (int64, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if err := fs.checkWritable(); err != nil {
		return 0, err
	}
	d, err := fs.readGroupDesc(g)
	if err != nil || d.freeBlocks() == 0 {
		return 0, err
	}
	m, err := fs.groupFreeMap(g, d)
	if err != nil {
		return 0, err
	}
	var n int64
	for at := m.nextBlock(0, false); at < m.len; {
		end := m.nextBlock(at, true)
		length := int64(end-at) * fs.sb.blockSize
		if err := punchHole(fs.dev, int64(fs.sb.groupStart(g)+uint64(at))*fs.sb.blockSize, length); err != nil {
			return n, err
		}
		n += length
		at = m.nextBlock(end, false)
	}
	return n, nil
}
