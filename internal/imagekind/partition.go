package imagekind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Partition is a part of a disk, in bytes.
type Partition struct {
	Number int // as Linux counts: logical partitions of an MBR from 5 on
	Offset int64
	Size   int64
}

// Table holds the partitions of a disk, in ascending order of their numbers.
type Table struct {
	Partitions []Partition
	Copy       bool // of the copy at the end of the disk: the table at its beginning is damaged
}

// ErrNoTable says that a disk has no partition table.
var ErrNoTable = errors.New("no partition table")

// TableError describes damage of a partition table.
type TableError struct{ msg string }

func (e *TableError) Error() string { return e.msg }

// tableErrorf returns a TableError.
func tableErrorf(format string, args ...any) error { return &TableError{fmt.Sprintf(format, args...)} }

const (
	maxEntries     = 1024 // of a GPT; 128 are usual
	maxEntrySize   = 4096
	maxLogical     = 128
	firstLogical   = 5
	mbrTable       = 446
	mbrSector      = 512
	mbrProtective  = 0xee
	gptHeaderLeast = 92
)

// Partitions reads the partition table of a disk of size bytes (0: unknown, so that a
// backup at its end is not found). The table is not compared with the size.
func Partitions(r io.ReaderAt, size int64) (Table, error) {
	list, err := readPrimaryTable(r)
	if err == nil {
		return Table{Partitions: list}, nil
	}
	if list, ok := readBackupGPT(r, size); ok {
		return Table{list, true}, nil
	}
	return Table{}, err
}

// readPrimaryTable reads the GPT or MBR at the beginning of a disk.
func readPrimaryTable(r io.ReaderAt) ([]Partition, error) {
	for _, sector := range gptSectors {
		if header, ok := readGPTHeader(r, sector); ok {
			return readGPTEntries(r, header, sector)
		}
	}
	boot := make([]byte, mbrSector)
	if _, err := r.ReadAt(boot, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, ErrNoTable
		}
		return nil, err
	}
	return readMBRTable(r, boot)
}

// gptSectors are the sector sizes of disks with a GPT.
var gptSectors = []int64{512, 4096}

// readGPTHeader reads a block that may be the header of a GPT; ok: it has the signature.
func readGPTHeader(r io.ReaderAt, at int64) (header []byte, ok bool) {
	header = make([]byte, 512)
	_, err := r.ReadAt(header, at)
	return header, err == nil && string(header[:8]) == "EFI PART"
}

// readBackupGPT reads the backup of a GPT: where an undamaged primary header says, since
// the file may be longer than the disk, or else in the last sector.
func readBackupGPT(r io.ReaderAt, size int64) ([]Partition, bool) {
	if size <= 0 {
		return nil, false
	}
	for _, sector := range gptSectors {
		places := []int64{size - sector, size - sector - mbrSector} // the latter before the footer of a VHD
		if first, ok := readGPTHeader(r, sector); ok && checkGPTHeader(first) == nil {
			if at := binary.LittleEndian.Uint64(first[32:]); at <= uint64(size/sector) {
				places = append(places, int64(at)*sector)
			}
		}
		for _, at := range places {
			if header, ok := readGPTHeader(r, at); ok && at > sector {
				if list, err := readGPTEntries(r, header, sector); err == nil {
					return list, true
				}
			}
		}
	}
	return nil, false
}

// checkGPTHeader checks size and checksum of a header.
func checkGPTHeader(header []byte) error {
	le := binary.LittleEndian
	size := le.Uint32(header[12:])
	if size < gptHeaderLeast || size > uint32(len(header)) {
		return tableErrorf("the partition table (GPT) has a header of %d bytes", size)
	}
	summed := bytes.Clone(header[:size])
	clear(summed[16:20])
	if crc32.ChecksumIEEE(summed) != le.Uint32(header[16:]) {
		return tableErrorf("the partition table (GPT) has a wrong checksum")
	}
	return nil
}

// readGPTEntries reads the partitions of a GPT, as in UEFI 2.10, chapter 5.3.
func readGPTEntries(r io.ReaderAt, header []byte, sector int64) ([]Partition, error) {
	if err := checkGPTHeader(header); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n, each := le.Uint32(header[80:]), le.Uint32(header[84:])
	at := le.Uint64(header[72:])
	if n > maxEntries || each < 128 || each > maxEntrySize || at > 1<<40 {
		return nil, tableErrorf("the partition table (GPT) has %d entries of %d bytes", n, each)
	}
	table := make([]byte, n*each)
	if _, err := r.ReadAt(table, int64(at)*sector); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, tableErrorf("the partition table (GPT) is cut off")
		}
		return nil, fmt.Errorf("reading the partition table: %w", err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(header[88:]) {
		return nil, tableErrorf("the entries of the partition table (GPT) have a wrong checksum")
	}
	var list []Partition
	for i := range int(n) {
		e := table[i*int(each):]
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if [16]byte(e) == ([16]byte{}) || last < first || last >= 1<<50 {
			continue
		}
		list = append(list, Partition{i + 1, int64(first) * sector, int64(last-first+1) * sector})
	}
	return list, nil
}

// mbrEntry is an entry of the table in a boot sector. Offsets and sizes are in sectors.
type mbrEntry struct {
	number      int
	kind        byte
	first, size uint32
}

// isProtective reports whether the entry covers a disk with a GPT.
func (e mbrEntry) isProtective() bool { return e.kind == mbrProtective }

// isExtended reports whether the entry is an extended partition.
func (e mbrEntry) isExtended() bool { return slices.Contains([]byte{0x05, 0x0f, 0x85}, e.kind) }

// parseMBREntries returns the used entries of a boot sector; none if it has no table.
func parseMBREntries(boot []byte) []mbrEntry {
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return nil
	}
	var list []mbrEntry
	for i := range 4 {
		e := boot[mbrTable+16*i:]
		if e[0]&0x7f != 0 {
			return nil // code, not a table
		}
		size := binary.LittleEndian.Uint32(e[12:])
		if e[4] != 0 && size != 0 {
			list = append(list, mbrEntry{i + 1, e[4], binary.LittleEndian.Uint32(e[8:]), size})
		}
	}
	return list
}

// readMBRTable returns the primary and the logical partitions of an MBR.
func readMBRTable(r io.ReaderAt, boot []byte) ([]Partition, error) {
	entries := parseMBREntries(boot)
	if len(entries) == 0 {
		return nil, ErrNoTable
	}
	var list, logical []Partition
	for _, e := range entries {
		switch {
		case e.isProtective():
			return nil, tableErrorf("the partition table (GPT) is not where it should be")
		case e.isExtended():
			logical = append(logical, readLogicalPartitions(r, int64(e.first))...)
		default:
			list = append(list, Partition{e.number, int64(e.first) * mbrSector, int64(e.size) * mbrSector})
		}
	}
	for i := range logical {
		logical[i].Number = firstLogical + i
	}
	return append(list, logical...), nil
}

// readLogicalPartitions follows the chain of tables in an extended partition. Each has one
// partition, whose offset counts from that table, and the next table, whose offset counts
// from the extended partition. The chain ends where it cannot be read.
func readLogicalPartitions(r io.ReaderAt, extended int64) []Partition {
	var list []Partition
	boot := make([]byte, mbrSector)
	for at := extended; len(list) < maxLogical; {
		if _, err := r.ReadAt(boot, at*mbrSector); err != nil {
			return list
		}
		next := int64(0)
		for _, e := range parseMBREntries(boot) {
			if e.isExtended() {
				next = extended + int64(e.first)
			} else {
				list = append(list, Partition{0, (at + int64(e.first)) * mbrSector, int64(e.size) * mbrSector})
			}
		}
		if next <= at {
			return list // the end; a chain that goes back is none
		}
		at = next
	}
	return list
}
