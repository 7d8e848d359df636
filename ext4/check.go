package ext4

import (
	"context"
	"fmt"
	"strings"
)

// Values of [Problem].Code. They are stable.
const (
	ProblemErrors       = "errors-recorded"   // Linux found errors before
	ProblemSuper        = "super"             // the superblock
	ProblemTime         = "super-time"        // the superblock was written in the future
	ProblemFeatures     = "features"          // features that do not go together, or are missing
	ProblemDescChecksum = "group-checksum"    // the checksum of a group descriptor
	ProblemDesc         = "group"             // a group descriptor: places, flags
	ProblemOverlap      = "metadata-overlap"  // two parts of the metadata in one place
	ProblemInodeSum     = "inode-checksum"    // the checksum of an inode
	ProblemInode        = "inode"             // fields of an inode
	ProblemInodeMode    = "inode-mode"        // the type of an inode
	ProblemDeleted      = "inode-deleted"     // deleted and in use at once, or neither
	ProblemInodeSize    = "inode-size"        // size against blocks mapped
	ProblemInodeBlocks  = "inode-blocks"      // the count of storage
	ProblemMapping      = "mapping"           // an extent tree or a block map
	ProblemMapSum       = "mapping-checksum"  // the checksum of an extent block
	ProblemOutside      = "block-outside"     // a block that the file system does not have
	ProblemShared       = "block-shared"      // a block with two owners
	ProblemInline       = "inline-data"       // content that lies in the inode
	ProblemSymlink      = "symlink"           // a symbolic link
	ProblemXattr        = "xattr"             // extended attributes
	ProblemXattrSum     = "xattr-checksum"    // the checksum of a block of them
	ProblemXattrHash    = "xattr-hash"        // the hash of one of them
	ProblemXattrRefs    = "xattr-references"  // how many inodes share them
	ProblemDir          = "directory"         // a directory's blocks or entries
	ProblemDirSum       = "directory-sum"     // the checksum of a block of a directory
	ProblemDirDots      = "directory-dots"    // the entries . and ..
	ProblemName         = "name"              // a name that cannot be
	ProblemNameTwice    = "name-twice"        // a name that occurs twice
	ProblemEntryInode   = "entry-inode"       // an entry that leads to an inode that is not in use
	ProblemEntryType    = "entry-type"        // an entry that has another type than its inode
	ProblemIndex        = "index"             // the index of a directory
	ProblemTwoParents   = "directory-parents" // a directory with two names
	ProblemUnreachable  = "unreachable"       // an inode without a name, or a loop of directories
	ProblemLinks        = "links"             // the count of links
	ProblemBlockFree    = "block-unmarked"    // used blocks that a bitmap marks as free
	ProblemBlockLeaked  = "block-leaked"      // unused blocks that a bitmap marks as used
	ProblemInodeFree    = "inode-unmarked"    // used inodes that a bitmap marks as free
	ProblemInodeLeaked  = "inode-leaked"      // unused inodes that a bitmap marks as used
	ProblemBitmapSum    = "bitmap-checksum"   // the checksum of a bitmap
	ProblemBitmapEnd    = "bitmap-padding"    // bits of a bitmap that stand for nothing
	ProblemGroupCount   = "group-count"       // the counts in a group descriptor
	ProblemSuperCount   = "super-count"       // the counts in the superblock
	ProblemJournal      = "journal"           // the journal
	ProblemResize       = "resize-inode"      // the inode that holds the blocks kept for descriptors
	ProblemOrphans      = "orphans"           // the list or file of inodes that lost their last name
	ProblemRoot         = "root"              // the root directory
	ProblemMMP          = "mmp"               // the block against mounting twice
)

// Problem is one inconsistency of a file system.
type Problem struct {
	Code   string // one of the constants
	Inode  uint32 // 0: no inode
	Block  uint64 // 0: no block
	Group  int64  // -1: no group
	Detail string // for people

	minor bool
}

// String describes the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Code)
	if p.Inode != 0 {
		fmt.Fprintf(&b, " inode %d", p.Inode)
	}
	if p.Block != 0 {
		fmt.Fprintf(&b, " block %d", p.Block)
	}
	if p.Group >= 0 {
		fmt.Fprintf(&b, " group %d", p.Group)
	}
	return b.String() + ": " + p.Detail
}

// Harmless reports whether the file system is fine all the same, for Linux too: outdated
// counts in the superblock, which are computed again at the next use; times of use in the
// future; the list of the resize inode; fields of features that are not set. e2fsck -fn
// names such a problem, and ends with status 0 if there is no other.
func (p Problem) Harmless() bool { return p.minor }

// CheckOptions says what to check. The zero value is for an [*os.File].
type CheckOptions struct {
	// Size of the image in bytes. 0: what the device says, if it is an *os.File.
	Size int64
}

// Check searches a whole file system for inconsistencies and reports each, as e2fsck -fn
// does; it changes nothing. An error of report, unless nil, ends the check and is
// returned. One cause may be reported in more than one way. A nil result means that
// everything was checked: the file system is fine if nothing was reported.
//
// It judges the state that [Open] would find: a log that a crash left is replayed in
// memory, and inodes in a sound orphan list count as still to be removed. e2fsck -fn,
// which does not replay, finds more problems in such an image.
//
// It differs from e2fsck of 2023 as follows. Stricter: problems that e2fsck names before
// its first pass, without effect on its exit status, but for which Linux refuses to mount
// (checksums of group descriptors, two journals, a superblock that only its backup
// replaces); recorded errors; the checksum of a log to be replayed; and attribute inodes
// without their feature, without content, or with their flag on other files (newer e2fsck
// and Linux refuse these). Less strict: times after 2310, which e2fsck takes for mistakes
// of old kernels; short symbolic links with an attribute inode, as Linux writes them; and
// the content of quota files. Neither looks at backups of the superblock.
//
// An image that cannot be opened gives the errors of Open. Check keeps tables of blocks,
// inodes and directories in use, at most 128 MiB of them: ErrUnsupported says that an
// image needs more. The hashes of casefolded directories are not checked.
func Check(ctx context.Context, dev Device, opts CheckOptions, report func(Problem) error) error {
	if opts.Size == 0 {
		opts.Size = deviceSize(dev)
	}
	_, fromBackup, err := loadSuperblock(dev, opts.Size)
	if err != nil {
		return err
	}
	fs, err := Open(dev, OpenOptions{Size: opts.Size, ReadOnly: true, CacheSize: checkCache, allowDamaged: true})
	if err != nil {
		return err
	}
	c := newChecker(ctx, fs, report)
	if fromBackup {
		c.reportSuper(ProblemSuper, "the superblock is damaged; a backup was used")
	}
	for _, pass := range []func(){
		c.checkSuperblock, c.checkDescriptors, c.claimFixedMetadata, c.checkMMPBlock, c.readOrphanLists, c.checkJournal,
		c.checkInodes, c.checkXattrRefCounts, c.checkDirectories, c.checkConnectivity, c.compareLinkCounts, c.checkBitmaps,
	} {
		if c.shouldStop() {
			break
		}
		pass()
	}
	return c.err
}

// Memory that a check may take, in bytes: for cached blocks, and for its own tables.
const (
	checkCache  = 16 << 20
	checkBudget = 128 << 20 // of tables
)

// checker is the state of a check. Passes run one after the other, and end early once err
// is set.
type checker struct {
	ctx          context.Context
	fs           *FS
	sb           *superblock
	report       func(Problem) error
	err          error
	memoryBudget int64 // bytes of tables that may still be made
	stopCalls    uint

	logReplayed    bool         // a log was replayed
	fixedMetadata  *blockClaims // blocks of fixed metadata
	usedClusters   *blockClaims // clusters in use
	inodes         map[uint32]*inodePage
	dirs           []checkedDir // ascending by inode
	xattrBlocks    map[uint64]*xattrShare
	valueInodeRefs map[uint32]uint64   // inodes that hold values of attributes, and how often they are named
	orphans        map[uint32]struct{} // inodes yet to be removed or cut
	hasLargeFile   bool                // there is a file of 2 GiB or more
	hasLargeDir    bool                // there is a directory that needs large_dir
}

// newChecker returns a checker for an FS that was opened read-only.
func newChecker(ctx context.Context, fs *FS, report func(Problem) error) *checker {
	c := &checker{
		ctx: ctx, fs: fs, sb: fs.sb, report: report, memoryBudget: checkBudget,
		logReplayed: fs.sb.incompat&incompatRecover != 0 || fs.replayedBlocks != nil,
		inodes:      map[uint32]*inodePage{}, xattrBlocks: map[uint64]*xattrShare{}, valueInodeRefs: map[uint32]uint64{},
		orphans: map[uint32]struct{}{},
	}
	c.fixedMetadata = newBlockClaims(c, fs.sb.blocksPerGroup)
	c.usedClusters = newBlockClaims(c, fs.sb.blocksPerGroup/fs.sb.clusterBlocks)
	return c
}

// reportProblem passes a problem to the caller, whose error ends the check.
func (c *checker) reportProblem(p Problem) {
	if c.err == nil {
		c.err = c.report(p)
	}
}

// reportInode reports a problem of an inode.
func (c *checker) reportInode(code string, ino uint32, format string, args ...any) {
	c.reportProblem(Problem{Code: code, Inode: ino, Group: -1, Detail: fmt.Sprintf(format, args...)})
}

// reportBlock reports a problem of a block of an inode.
func (c *checker) reportBlock(code string, ino uint32, at uint64, format string, args ...any) {
	c.reportProblem(Problem{Code: code, Inode: ino, Block: at, Group: -1, Detail: fmt.Sprintf(format, args...)})
}

// reportGroup reports a problem of a group.
func (c *checker) reportGroup(code string, g uint32, format string, args ...any) {
	c.reportProblem(Problem{Code: code, Group: int64(g), Detail: fmt.Sprintf(format, args...)})
}

// reportSuper reports a problem of the superblock.
func (c *checker) reportSuper(code, format string, args ...any) {
	c.reportProblem(Problem{Code: code, Group: -1, Detail: fmt.Sprintf(format, args...)})
}

// reportHarmless reports a harmless problem.
func (c *checker) reportHarmless(code string, ino uint32, group int64, format string, args ...any) {
	c.reportProblem(Problem{Code: code, Inode: ino, Group: group, Detail: fmt.Sprintf(format, args...), minor: true})
}

// shouldStop reports whether the check has to end. Loops call it; it looks at the context
// every 64 calls.
func (c *checker) shouldStop() bool {
	if c.stopCalls++; c.err == nil && c.stopCalls%64 == 1 {
		c.err = c.ctx.Err()
	}
	return c.err != nil
}

// chargeMemory takes n bytes for a table from the budget, and reports whether they were
// left.
func (c *checker) chargeMemory(n int) bool {
	if c.memoryBudget -= int64(n); c.memoryBudget < 0 && c.err == nil {
		c.err = unsupportedf("the check needs more than %d MiB for tables; run e2fsck", checkBudget>>20)
	}
	return c.err == nil
}

// containsBlocks reports whether the file system has n blocks from at on. Block 0 holds
// nothing but the superblock.
func (c *checker) containsBlocks(at, n uint64) bool {
	return at >= max(c.sb.firstBlock, 1) && at < c.sb.blocks && n <= c.sb.blocks-at
}

// readMetadata returns a block of metadata, for reading; nil if it cannot be read, which
// ends the check.
func (c *checker) readMetadata(at uint64) []byte {
	if c.shouldStop() {
		return nil
	}
	b, err := c.fs.getBlock(at)
	if err != nil {
		c.err = err
		return nil
	}
	return b.data
}
