package ext4

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// OpenOptions says how to open an image. The zero value opens for reading and writing.
type OpenOptions struct {
	// Size of the image in bytes. 0: that of the device, if it is an *os.File.
	Size int64
	// ReadOnly leaves the device as it is: a dirty log is replayed in memory.
	ReadOnly bool
	// Batch makes changes durable together, by Sync or Close, not one by one as they
	// return. A crash before leaves the effects of some prefix of the calls.
	Batch bool
	// Discard makes Close punch holes for blocks that were freed, as Trim does for all free
	// blocks, if the device can.
	Discard bool
	// UID and GID own new files.
	UID, GID uint32
	// Now tells the time. Default: time.Now.
	Now func() time.Time
	// SideLog returns a log for an image that has none of its own, so that its changes
	// too survive crashes whole; nil: there is none. Only Open calls it, perhaps several
	// times. Give it also for an image that has got one of its own since.
	SideLog func() (SideLog, error)
	// CacheSize is how many bytes of unchanged metadata are kept. Default: 32 MiB.
	CacheSize int64

	allowDamaged bool // open in spite of recorded errors: for Check
	forGrow      bool // for Grow
}

// FS is an open file system. Its methods may be called from any number of goroutines.
//
// Locks, in the order in which they are taken: openInode.mu (changes of one file's
// content), commitMu (the log), mu (everything in memory), blockCache.mu. An operation
// changes blocks in memory, under mu, as part of the open transaction; commitUpTo writes
// that transaction to the log, and a checkpoint writes logged blocks to their places.
type FS struct {
	// These do not change after Open, or have locks of their own.
	dev            Device
	size           int64
	opts           OpenOptions
	now            func() time.Time
	cache          blockCache
	replayedBlocks map[uint64]logBlock // newest versions of blocks that lie in the log; read-only
	maxTxBlocks    int                 // most blocks of a transaction
	lastDir        atomic.Pointer[lastDir]

	// mu guards the fields below. Readers of the file system hold it shared, an operation
	// that changes it alone.
	mu             sync.RWMutex
	sb             *superblock
	counters       counters
	tx             *transaction // open
	committing     *transaction // being written to the log
	heldBlocks     busyBlocks   // free blocks with an old version in the log: not to be used before a checkpoint
	fastReplay     *fastReplay  // in progress; nil: none
	op             operation
	delayed        delayedData           // data that is not on the device yet
	journaledTails map[uint64]struct{}   // blocks of file data that are in transactions
	openInodes     map[uint32]*openInode // by inode number
	orphans        []uint32              // the orphan list, from its head
	orphanFile     []uint32              // inodes in the orphan file, while it is being emptied
	allocHints     map[uint32]uint32     // by group: the block after the last one allocated
	nameChanges    uint64                // counts removed and changed entries, which invalidate lastDir
	closed         bool
	writeFailure   error // of a commit: nothing more is written

	// commitMu is held by the goroutine that commits or checkpoints, and guards the fields
	// below. It is taken before mu.
	commitMu           sync.Mutex
	journal            *journal          // nil: none
	sideLog            SideLog           // in its place; nil: none
	sideLogInImage     bool              // the side log is a part of the image
	awaitingCheckpoint map[uint64]*block // in the log, not at their place yet
	committedSeq       uint64            // last transaction in the log
	groupsToDiscard    map[uint32]bool   // groups in which blocks were freed
	logBuf             []byte            // for writing to it
	needsRecovery      bool              // the superblock on the device says that the log is in use
	superOnDevice      []byte            // the superblock on the device
}

// Open opens the file system on dev. Like a mount by Linux it replays a log that a crash
// left, and removes inodes whose removal a crash interrupted; it also completes an
// interrupted Grow.
//
// ErrUnsupported: the image has features that this package does not understand, or does
// not write; ErrCorrupt: it is inconsistent, or errors were recorded in it. The message
// says what to do.
func Open(dev Device, opts OpenOptions) (*FS, error) {
	if opts.Size == 0 {
		opts.Size = deviceSize(dev)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.CacheSize <= 0 {
		opts.CacheSize = defaultCache
	}
	if !opts.ReadOnly && !opts.forGrow {
		if err := completeGrow(dev, opts); err != nil {
			return nil, err
		}
	}
	fs := &FS{
		dev: dev, size: opts.Size, opts: opts, now: opts.Now,
		heldBlocks: busyBlocks{}, journaledTails: map[uint64]struct{}{}, openInodes: map[uint32]*openInode{},
		allocHints: map[uint32]uint32{}, awaitingCheckpoint: map[uint64]*block{}, groupsToDiscard: map[uint32]bool{}, tx: newTransaction(1),
	}
	fs.cache.blocks = map[uint64]*block{}
	if err := fs.loadAndReplay(); err != nil {
		return nil, err
	}
	fs.cache.cleanLimit = int(max(opts.CacheSize/fs.sb.blockSize, 64))
	if err := fs.loadOrphanList(); err != nil && !opts.ReadOnly {
		return nil, err
	}
	if opts.ReadOnly {
		return fs, nil
	}
	return fs, fs.prepareForWriting()
}

// loadAndReplay reads the superblock, replays the log of a crash, and counts free space.
func (fs *FS) loadAndReplay() error {
	sb, fromBackup, err := loadSuperblock(fs.dev, fs.size)
	if err != nil {
		return err
	}
	fs.sb = sb
	fs.cache.cleanLimit = 64
	if !fs.opts.allowDamaged {
		if err := fs.checkMayOpen(); err != nil {
			return err
		}
	}
	dirty := sb.incompat&incompatRecover != 0 || fromBackup
	if dirty && sb.compat&compatJournal != 0 {
		if err := fs.replayJournal(fromBackup); err != nil {
			return err
		}
	} else if sb.incompat&incompatRecover != 0 {
		return corruptf("needs_recovery is set, but there is no journal")
	}
	if err := fs.replaySideLog(); err != nil {
		return err
	}
	fs.counters = counters{freeBlocks: fs.sb.splitCount(sbFreeBlocksLo, sbFreeBlocksHi),
		freeInodes: le.Uint32(fs.sb.raw[sbFreeInodes:])}
	// Linux brings the superblock's counts up to date only when it unmounts, and other
	// programs perhaps never.
	if dirty {
		return fs.recountFree()
	}
	if said := fs.counters; fs.sb.groups <= maxRecountedGroups && fs.recountFree() != nil {
		fs.counters = said // a damaged descriptor is reported when it is needed
	}
	return nil
}

// checkMayOpen returns why an image that can be parsed is not opened: errors were recorded
// in it or, for writing, features that this package does not write.
func (fs *FS) checkMayOpen() error {
	if le.Uint16(fs.sb.raw[sbState:])&stateErrors != 0 || le.Uint32(fs.sb.raw[sbErrorCount:]) != 0 &&
		le.Uint16(fs.sb.raw[sbState:])&stateClean == 0 {
		return corruptf("errors are recorded in the superblock")
	}
	if fs.opts.ReadOnly {
		return nil
	}
	sb := fs.sb
	if x := sb.incompat &^ writableIncompat; x != 0 {
		return unsupportedf("writing with features %s; it can be read only", featureNames(incompatNames, x))
	}
	if x := neededIncompat &^ sb.incompat; x != 0 && !fs.opts.forGrow {
		return unsupportedf("writing without features %s; it can be read only", featureNames(incompatNames, x))
	}
	if x := sb.roCompat &^ writableROCompat; x != 0 {
		return unsupportedf("writing with features %s; it can be read only", featureNames(roNames, x))
	}
	if sb.blockSize > defaultBlock || sb.inodeSize < 256 && !fs.opts.forGrow || sb.descSize > 64 {
		return unsupportedf("writing with blocks of %d, inodes of %d and descriptors of %d bytes; it can be read only",
			sb.blockSize, sb.inodeSize, sb.descSize)
	}
	return nil
}

// maxRecountedGroups is the largest number of groups whose free counts are added up at
// every open: those of 1 TiB.
const maxRecountedGroups = 8192

// recountFree computes the free counts of the file system from the group descriptors.
func (fs *FS) recountFree() error {
	fs.counters = counters{}
	for g := range fs.sb.groups {
		d, err := fs.readGroupDesc(g)
		if err != nil {
			return err
		}
		fs.counters.freeBlocks += uint64(d.freeBlocks()) * uint64(fs.sb.clusterBlocks)
		fs.counters.freeInodes += d.freeInodes()
	}
	return nil
}

// prepareForWriting opens the log and finishes what a crash interrupted: orphans, and
// trees in lost+found that Copy or RemoveAll left.
func (fs *FS) prepareForWriting() error {
	if err := fs.repairSuperAndPrepareLog(); err != nil {
		return err
	}
	if fs.needsRecovery {
		// Store the counts, and take the mark away that the log is in use.
		if _, err := fs.runOperation(func() error { _, err := fs.modifyBlock(fs.sb.superblockNumber()); return err }); err != nil {
			return err
		}
	}
	if fs.sb.incompat&incompatExtents == 0 {
		if len(fs.orphans) > 0 {
			return unsupportedf("growing ext2 or ext3 with orphaned files; mount it once, or run e2fsck")
		}
		return nil
	}
	if err := fs.reclaimOrphans(); err != nil {
		return err
	}
	return fs.emptyTrash()
}

// Label returns the volume label.
func (fs *FS) Label() string { return fs.sb.volumeLabel() }

// UUID returns the UUID of the file system.
func (fs *FS) UUID() (id [16]byte) {
	copy(id[:], fs.sb.raw[sbUUID:])
	return id
}

// Close makes all changes durable, leaves an empty log, and ends the use of the FS.
// The device stays open. Files that are still open can no longer be used.
func (fs *FS) Close() error {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return nil
	}
	err := fs.writeFailure
	if !fs.opts.ReadOnly && err == nil {
		fs.mu.Unlock()
		err = errors.Join(fs.reclaimOrphanList(), fs.commitAndEmptyLog())
		fs.mu.Lock()
	}
	fs.closed = true
	fs.mu.Unlock()
	return err
}
