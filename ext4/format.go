package ext4

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The sizes that Format accepts.
const (
	// MinSize is the size in bytes of the smallest image.
	MinSize = 4 << 20
	// MaxSize is the size in bytes of the largest image.
	MaxSize = 64 << 40
)

// FormatOptions says what an empty file system looks like. The zero value is a good
// default.
type FormatOptions struct {
	// Label names the file system. It has at most 16 bytes and no NUL.
	Label string
	// UUID identifies the file system; zero: a random one.
	UUID [16]byte
	// HashSeed is the seed of the hashes that order directories; zero: a random one.
	HashSeed [16]byte
	// UID and GID own the root directory.
	UID, GID uint32
	// Mode has the permission bits of the root directory, as chmod(2) takes them:
	// at most 07777. Zero: 0755.
	Mode uint32
	// Time is the time of creation; zero: now. Inodes keep years 1901 to 2446.
	Time time.Time
	// Journal is the size of the journal in bytes, rounded down to blocks of 4 KiB:
	// 4 MiB, the least that Linux accepts, to 128 MiB. Zero: by the size of the image,
	// which below 8 MiB means none. Negative: none.
	Journal int64
	// BytesPerInode is how many bytes of the image there are for each inode, at
	// least 1024. Zero: by the size of the image.
	BytesPerInode int64
	// Reserved is how many bytes are kept for root; at most half of the image.
	Reserved int64
}

// Format writes an empty file system of size bytes, rounded up to a multiple of 4096, and
// returns the size it used. The device must read as zeros up to there, as a new sparse
// file does: zeros are not written, and nearly everything is zero. Format ends with one
// Sync.
//
// For the same bytes every time set UUID, HashSeed and Time.
//
// The file system has the features that mke2fs 1.47 gives, blocks of 4096 bytes, inodes of
// 256 and descriptors of 64. Three things depend on the size:
//
//   - Below 8 MiB there is no journal (and no feature has_journal): Linux refuses journals of
//     fewer than 1024 blocks, which are 4 MiB.
//   - From 1 TiB on the feature meta_bg replaces resize_inode: the descriptors of each 8 GiB
//     lie there, in three copies, instead of all of them in some 20 places. Linux grows either
//     while it is mounted.
//   - If the last group of 128 MiB should hold a backup of the superblock and of the group
//     descriptors but is too short for them, the file system ends where that group begins. The
//     size returned is still that of the image.
//
// Errors name the option or limit that was violated, or are the device's.
func Format(dev Device, size int64, opts FormatOptions) (int64, error) {
	if size < MinSize || size > MaxSize {
		return 0, fmt.Errorf("%w: a file system of %d bytes: it must have from %d (4 MiB) to %d (64 TiB)",
			errInvalid, size, int64(MinSize), int64(MaxSize))
	}
	size = (size + defaultBlock - 1) / defaultBlock * defaultBlock
	if err := opts.fillDefaults(size); err != nil {
		return 0, err
	}
	p, err := newFormatPlan(uint64(size/defaultBlock), opts)
	if err != nil {
		return 0, err
	}
	if err := p.writeImage(dev); err != nil {
		return 0, fmt.Errorf("formatting: %w", err)
	}
	return size, nil
}

// clockTick is how far time(2), which returns the time of the last tick, may be behind
// time.Now. e2fsck complains about a superblock written in the future.
const clockTick = 10 * time.Millisecond

// fillDefaults checks the options for an image of size bytes, and fills in random and
// current values. Defaults that depend on the geometry are left to the plan.
func (o *FormatOptions) fillDefaults(size int64) error {
	if err := o.validate(size); err != nil {
		return err
	}
	if o.Mode == 0 {
		o.Mode = 0o755
	}
	if o.Time.IsZero() {
		o.Time = time.Now().Add(-clockTick)
	}
	var none [16]byte
	if o.UUID == none {
		rand.Read(o.UUID[:])
		o.UUID[6] = o.UUID[6]&0x0f | 0x40
		o.UUID[8] = o.UUID[8]&0x3f | 0x80
	}
	if o.HashSeed == none {
		rand.Read(o.HashSeed[:])
	}
	return nil
}

// validate returns everything that is wrong with the options.
func (o *FormatOptions) validate(size int64) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", errInvalid, fmt.Sprintf(format, args...)))
	}
	if len(o.Label) > maxLabel {
		bad("the label %q has %d bytes: at most %d", o.Label, len(o.Label), maxLabel)
	}
	if strings.ContainsRune(o.Label, 0) {
		bad("the label %q has a NUL", o.Label)
	}
	if o.Mode&^0o7777 != 0 {
		bad("the mode %#o of the root directory: at most 07777", o.Mode)
	}
	if s := o.Time.Unix(); !o.Time.IsZero() && (s < minTime || s > maxTime) {
		bad("the time %v: an inode keeps the years 1901 to 2446", o.Time)
	}
	if o.Journal > 0 && (o.Journal < minJournal*defaultBlock || o.Journal > maxJournal*defaultBlock) {
		bad("a journal of %d bytes: it may have from %d to %d", o.Journal, minJournal*defaultBlock, maxJournal*defaultBlock)
	}
	if o.BytesPerInode != 0 && o.BytesPerInode < minBytesPerInode {
		bad("an inode for each %d bytes: at least %d", o.BytesPerInode, minBytesPerInode)
	}
	if o.Reserved < 0 || o.Reserved > size/2 {
		bad("%d bytes kept for root: at most half of %d", o.Reserved, size)
	}
	return errors.Join(errs...)
}
