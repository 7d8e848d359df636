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

// Damage is something done to the log of an image that is to be recovered.
type Damage int

const (
	NoDamage          Damage = iota
	ZeroLastCommit           // the last transaction has no end
	CorruptLastCommit        // the end of the last transaction has a wrong checksum
	ZeroHalf                 // the later half of the log was never written
	CorruptDescriptor        // a list of blocks in the middle has a wrong checksum
	CorruptBlock             // so has a block in the middle
)

// Kinds of blocks of the log that have a header.
const (
	logDescriptor = 1
	logCommit     = 2
	logRevoke     = 5
)

// logBlock is a block of the log that has a header.
type logBlock struct {
	off      int64 // in the image
	kind     uint32
	sequence uint32
}

// journal is the log of an image.
type journal struct {
	image  *os.File
	block  int64
	blocks []int64 // offsets of its blocks in the image, in order
	marked []logBlock
	at     []int // the indexes in blocks of those that are marked
}

// openJournal finds the log of an image, and its blocks that have headers and are newer
// than the last checkpoint.
func openJournal(image string) (*journal, error) {
	out, status, err := run("debugfs", "-R", "blocks <8>", image)
	if err != nil || status != 0 {
		return nil, fmt.Errorf("debugfs: %w, status %d: %s", err, status, out)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	j := &journal{image: f}
	if err := j.scan(out); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// scan reads all blocks of the log; list has their numbers.
func (j *journal) scan(list string) error {
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
			j.marked = append(j.marked, b)
			j.at = append(j.at, i)
		}
	}
	return nil
}

// ofKind returns the indexes in marked of the blocks of a kind.
func (j *journal) ofKind(kind uint32) []int {
	var found []int
	for i, b := range j.marked {
		if b.kind == kind {
			found = append(found, i)
		}
	}
	return found
}

// flip changes some bytes.
func (j *journal) flip(off int64) error {
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

// zero empties the blocks of the log from an index on, at most n.
func (j *journal) zero(from, n int) error {
	empty := make([]byte, j.block)
	for _, off := range j.blocks[from:min(from+n, len(j.blocks))] {
		if _, err := j.image.WriteAt(empty, off); err != nil {
			return err
		}
	}
	return nil
}

// apply damages the log of an image.
func (d Damage) apply(image string) error {
	if d == NoDamage {
		return nil
	}
	j, err := openJournal(image)
	if err != nil {
		return err
	}
	defer j.image.Close()
	commits, descriptors := j.ofKind(logCommit), j.ofKind(logDescriptor)
	if len(commits) < 3 || len(descriptors) < 3 {
		return fmt.Errorf("the log has only %d commits and %d descriptors", len(commits), len(descriptors))
	}
	last, middle := commits[len(commits)-1], descriptors[len(descriptors)/2]
	switch d {
	case ZeroLastCommit:
		return j.zero(j.at[last], 1)
	case CorruptLastCommit:
		return j.flip(j.marked[last].off + 16) // h_chksum
	case ZeroHalf:
		return j.zero(j.at[commits[len(commits)/2]]+3, len(j.blocks))
	case CorruptDescriptor:
		return j.flip(j.marked[middle].off + j.block - 4)
	case CorruptBlock:
		return j.flip(j.blocks[j.at[middle]+1] + 100)
	}
	return fmt.Errorf("unknown damage %d", d)
}
