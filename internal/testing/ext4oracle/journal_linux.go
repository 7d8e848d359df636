package ext4oracle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Damage is a kind of damage to the log of an image that needs recovery.
type Damage int

// Kinds of damage. The log has to have at least three transactions.
const (
	NoDamage          Damage = iota
	ZeroLastCommit           // the last transaction has no end
	CorruptLastCommit        // the end of the last transaction has a wrong checksum
	ZeroHalf                 // the later half of the log was never written
	CorruptDescriptor        // a list of blocks in the middle has a wrong checksum
	CorruptBlock             // so has a block in the middle
)

// Kinds of blocks of the log that have a header: see include/linux/jbd2.h.
const (
	logDescriptor = 1
	logCommit     = 2
	logRevoke     = 5
)

// logBlock is a block of the log with a header.
type logBlock struct {
	off      int64 // in the image
	kind     uint32
	sequence uint32
}

// imageJournal is the log of an image.
type imageJournal struct {
	image         *os.File
	block         int64
	blocks        []int64 // offsets of its blocks in the image, in order
	headerBlocks  []logBlock
	headerIndexes []int // the indexes in blocks of those that are marked
}

// openImageJournal finds the log of an image, and its blocks with headers that are newer
// than the last checkpoint.
func openImageJournal(image string) (*imageJournal, error) {
	out, status, err := runTool("debugfs", "-R", "blocks <8>", image)
	if err != nil || status != 0 {
		return nil, fmt.Errorf("debugfs: %w, status %d: %s", err, status, out)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	j := &imageJournal{image: f}
	if err := j.scanBlocks(out); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// scanBlocks reads all blocks of the log; list has their numbers, as debugfs prints them.
func (j *imageJournal) scanBlocks(list string) error {
	var logSize [4]byte
	if _, err := j.image.ReadAt(logSize[:], 1024+24); err != nil {
		return err
	}
	j.block = 1024 << binary.LittleEndian.Uint32(logSize[:])
	for _, word := range strings.Fields(list) {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			j.blocks = append(j.blocks, n*j.block)
		}
	}
	// The journal's superblock comes first and tells the sequence number of the oldest
	// transaction; blocks of an older round have smaller ones.
	buf := make([]byte, j.block)
	first := uint32(0)
	for i, off := range j.blocks {
		if _, err := j.image.ReadAt(buf, off); err != nil {
			return err
		}
		if !bytes.HasPrefix(buf, journalMagic) {
			continue
		}
		b := logBlock{off, binary.BigEndian.Uint32(buf[4:]), binary.BigEndian.Uint32(buf[8:])}
		switch {
		case first == 0 && (b.kind == 3 || b.kind == 4): // the superblock of the log
			first = binary.BigEndian.Uint32(buf[24:])
			if binary.BigEndian.Uint32(buf[28:]) == 0 {
				return errors.New("the journal is empty")
			}
		case first != 0 && b.sequence-first < 1<<16:
			j.headerBlocks = append(j.headerBlocks, b)
			j.headerIndexes = append(j.headerIndexes, i)
		}
	}
	return nil
}

// headersOfKind returns the indexes in headerBlocks of the blocks of a kind.
func (j *imageJournal) headersOfKind(kind uint32) []int {
	var found []int
	for i, b := range j.headerBlocks {
		if b.kind == kind {
			found = append(found, i)
		}
	}
	return found
}

// corruptBytes changes four bytes.
func (j *imageJournal) corruptBytes(off int64) error {
	var b [4]byte
	if _, err := j.image.ReadAt(b[:], off); err != nil {
		return err
	}
	for i := range b {
		b[i] ^= 0x5a
	}
	_, err := j.image.WriteAt(b[:], off)
	return err
}

// zeroBlocks zeroes at most n blocks of the log from an index on.
func (j *imageJournal) zeroBlocks(from, n int) error {
	empty := make([]byte, j.block)
	for _, off := range j.blocks[from:min(from+n, len(j.blocks))] {
		if _, err := j.image.WriteAt(empty, off); err != nil {
			return err
		}
	}
	return nil
}

// applyTo damages the log of an image.
func (d Damage) applyTo(image string) error {
	if d == NoDamage {
		return nil
	}
	j, err := openImageJournal(image)
	if err != nil {
		return err
	}
	defer j.image.Close()
	commits, descriptors := j.headersOfKind(logCommit), j.headersOfKind(logDescriptor)
	if len(commits) < 3 || len(descriptors) < 3 {
		return fmt.Errorf("the log has only %d commits and %d descriptors", len(commits), len(descriptors))
	}
	// Damage at the end looks like a crash; damage in the middle cannot come from one.
	last, middle := commits[len(commits)-1], descriptors[len(descriptors)/2]
	switch d {
	case ZeroLastCommit:
		return j.zeroBlocks(j.headerIndexes[last], 1)
	case CorruptLastCommit:
		return j.corruptBytes(j.headerBlocks[last].off + 16) // h_chksum
	case ZeroHalf:
		return j.zeroBlocks(j.headerIndexes[commits[len(commits)/2]]+3, len(j.blocks))
	case CorruptDescriptor:
		return j.corruptBytes(j.headerBlocks[middle].off + j.block - 4)
	case CorruptBlock:
		return j.corruptBytes(j.blocks[j.headerIndexes[middle]+1] + 100)
	}
	return fmt.Errorf("unknown damage %d", d)
}
