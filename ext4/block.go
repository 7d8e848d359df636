package ext4

import (
	"sync"
	"sync/atomic"
)

// block is a block of metadata in memory. Its data never changes once openTx is nil: a
// change makes a new version, so a committing transaction keeps the one that it froze.
type block struct {
	data   []byte
	openTx *transaction // the open transaction that may change data in place
	lastOp uint64       // the last operation that changed data in place
	pinned atomic.Bool  // not yet at its place on the device: must stay in memory
	inLog  bool         // an older version may be in the log

	// verified says which check of its content data has passed, and for whom; 0: none.
	// Blocks are checked once, not at each use.
	verified atomic.Uint64
}

// A check of a block's content, for block.passed.
const (
	checkDir = 1 + iota
	checkIndex
	checkExtents
	checkXattr
	checkBitmap
	checkDesc
	checkInode
)

// verifiedKey is the value of block.verified after a check for an owner, such as the inode
// whose directory block it is.
func verifiedKey(check int, owner uint32) uint64 { return uint64(check)<<32 | uint64(owner) }

// defaultCache is how much memory clean blocks take, in bytes.
const defaultCache = 32 << 20

// blockCache holds blocks of metadata: all pinned ones, and the clean ones that were used
// lately. Pinned are those whose newest version is not in place on the device.
type blockCache struct {
	mu         sync.RWMutex // guards the fields below
	blocks     map[uint64]*block
	cleanCount int // blocks that are not pinned
	cleanLimit int // most of them
}

// lookupBlock returns a cached block, or nil.
func (c *blockCache) lookupBlock(n uint64) *block {
	c.mu.RLock()
	b := c.blocks[n]
	c.mu.RUnlock()
	return b
}

// addClean adds a clean block that was read from the device, and returns the block to use:
// a concurrent reader may have added its own first.
func (c *blockCache) addClean(n uint64, b *block) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.blocks[n]; old != nil {
		return old
	}
	if c.cleanCount >= c.cleanLimit {
		c.evictClean()
	}
	c.blocks[n] = b
	c.cleanCount++
	return b
}

// evictClean drops an eighth of the clean blocks. Go ranges over maps in random order, so
// this is random replacement.
func (c *blockCache) evictClean() {
	drop := c.cleanLimit/8 + 1
	for n, b := range c.blocks {
		if b.pinned.Load() {
			continue
		}
		delete(c.blocks, n)
		c.cleanCount--
		if drop--; drop == 0 {
			return
		}
	}
}

// replaceBlock makes b the cached version of block n; nil removes it.
func (c *blockCache) replaceBlock(n uint64, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.blocks[n]; old != nil && !old.pinned.Load() {
		c.cleanCount--
	}
	if b == nil {
		delete(c.blocks, n)
		return
	}
	c.blocks[n] = b
	if !b.pinned.Load() {
		c.cleanCount++
	}
}

// unpin makes a block clean, since its content is in place on the device.
func (c *blockCache) unpin(n uint64, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !b.pinned.Load() {
		return
	}
	b.pinned.Store(false)
	if c.blocks[n] == b {
		c.cleanCount++
		if c.cleanCount > c.cleanLimit {
			c.evictClean()
		}
	}
}

// getBlock returns a block of metadata, from the cache or the device. The caller must not
// change it: see modifyBlock.
func (fs *FS) getBlock(n uint64) (*block, error) {
	if fs.fastReplay != nil {
		if err := fs.fastReplay.countBlockUse(); err != nil {
			return nil, err
		}
	}
	if b := fs.cache.lookupBlock(n); b != nil {
		return b, nil
	}
	if n >= fs.sb.blocks {
		return nil, corruptf("block %d does not exist: there are %d", n, fs.sb.blocks)
	}
	data := make([]byte, fs.sb.blockSize)
	if err := fs.readBlockUncached(n, data); err != nil {
		return nil, err
	}
	return fs.cache.addClean(n, &block{data: data}), nil
}

// readBlockUncached reads a block past the cache. When a log was replayed in memory only,
// the newest version is in the log, or in memory.
func (fs *FS) readBlockUncached(n uint64, data []byte) error {
	if l, ok := fs.replayedBlocks[n]; ok {
		return fs.readLoggedVersion(l, data)
	}
	return readFull(fs.dev, data, int64(n)*fs.sb.blockSize)
}
