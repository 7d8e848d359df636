package ext4

import (
	"bytes"
	"strings"
	"time"
)

// Description is what a file system's superblock states. Sizes are bytes, times UTC; a
// zero time means never.
type Description struct {
	Label    string
	UUID     [16]byte
	Features []string // by the names of mke2fs

	Size      int64 // of the file system; the image may be larger
	BlockSize int64
	Free      int64
	Reserved  int64 // part of Free that only root may use
	GroupSize int64
	Groups    int64

	InodeSize  int64
	Inodes     int64
	FreeInodes int64

	Journal int64 // size of the log; 0: there is none
	Dirty   bool  // the log needs to be replayed: the image was not unmounted, or closed
	Errors  bool  // Linux found errors in it

	Created   time.Time
	Mounted   time.Time // last
	Written   time.Time // last
	Checked   time.Time // last
	Mounts    int64     // since it was checked
	MountedOn string    // last
}

// Describe reads what the superblock states about a file system. It reads little more, so
// it works for many images that [Open] refuses. size is the size of the image; 0: that of
// the device, if it is an [*os.File]. For an image with a log to be replayed the free
// counts are those before.
//
// ErrCorrupt: there is no valid superblock; ErrUnsupported: it has features that are not
// understood.
func Describe(dev Device, size int64) (Description, error) {
	if size == 0 {
		size = deviceSize(dev)
	}
	sb, _, err := loadSuperblock(dev, size)
	if err != nil {
		return Description{}, err
	}
	d := sb.buildDescription()
	d.Journal = journalSize(dev, size, sb)
	return d, nil
}

// buildDescription reads the fields of a Description.
func (s *superblock) buildDescription() Description {
	u16 := func(o int) int64 { return int64(le.Uint16(s.raw[o:])) }
	u32 := func(o int) int64 { return int64(le.Uint32(s.raw[o:])) }
	// The high bits for years after 2038 lie in a byte each, elsewhere.
	at := func(lo, hi int) time.Time {
		sec := u32(lo) | int64(s.raw[hi])<<32
		if sec == 0 {
			return time.Time{}
		}
		return time.Unix(sec, 0).UTC()
	}
	d := Description{
		Label: s.volumeLabel(), Features: s.featureList(),
		Size: int64(s.blocks) * s.blockSize, BlockSize: s.blockSize,
		Free:     int64(s.splitCount(sbFreeBlocksLo, sbFreeBlocksHi)) * s.blockSize,
		Reserved: int64(s.splitCount(sbReservedLo, sbReservedHi)) * s.blockSize,
		Groups:   int64(s.groups), GroupSize: int64(s.blocksPerGroup) * s.blockSize,
		InodeSize: int64(s.inodeSize), Inodes: int64(s.inodes), FreeInodes: u32(sbFreeInodes),
		Dirty:   s.incompat&incompatRecover != 0,
		Errors:  u16(sbState)&stateErrors != 0,
		Created: at(sbMkfsTime, sbMkfsTimeHi), Mounted: at(sbMtime, sbMtimeHi),
		Written: at(sbWtime, sbWtimeHi), Checked: at(sbLastCheck, sbLastCheckHi),
		Mounts: u16(sbMountCount),
	}
	copy(d.UUID[:], s.raw[sbUUID:])
	on, _, _ := bytes.Cut(s.raw[sbLastMounted:sbLastMounted+64], []byte{0})
	d.MountedOn = string(on)
	return d
}

// Places in the superblock that nothing else reads.
const (
	sbLastMounted = 0x88
	sbMtimeHi     = 0x275
)

// featureList lists the features by name.
func (s *superblock) featureList() []string {
	var list []string
	for _, f := range []struct {
		names map[uint32]string
		set   uint32
	}{{compatNames, s.compat}, {incompatNames, s.incompat}, {roNames, s.roCompat}} {
		list = append(list, strings.Fields(featureNames(f.names, f.set))...)
	}
	return list
}

// journalSize returns the size of the journal in bytes; 0 if there is none or it is
// damaged.
func journalSize(dev Device, size int64, sb *superblock) int64 {
	if sb.compat&compatJournal == 0 {
		return 0
	}
	fs, err := Open(dev, OpenOptions{Size: size, ReadOnly: true, allowDamaged: true})
	if err != nil {
		return 0
	}
	defer fs.Close()
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	i, err := fs.readInode(le.Uint32(sb.raw[sbJournalInode:]))
	if err != nil {
		return 0
	}
	return i.size()
}
