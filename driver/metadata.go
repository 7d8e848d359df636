package driver

import "math"

// Metadata counts what a volume keeps beside the bytes of its regular files, which are
// what its quota is about.
type Metadata struct {
	// Entries are names: files, directories, links and nodes, each hard link for itself.
	// The root has no name and is none.
	Entries int64
	// Bytes are those of names (the last element of the path), of the targets of symbolic
	// links, and of extended attributes, names and values, the latter two once for each inode.
	Bytes int64
}

// Bounds of a volume's metadata, see MetadataBounds.
const (
	minEntries       = 4096    // of the smallest quota
	minMetadataBytes = 1 << 20 // of the smallest quota
	bytesPerEntry    = 1 << 10 // of the quota, for each entry more
	bytesPerMetadata = 8       // of the quota, for each byte of metadata more
	maxEntries       = 1 << 27 // of any volume
	maxMetadataBytes = 1 << 34 // of any volume: 16 GiB
)

// MetadataBounds is the most metadata that a dir volume with this quota may hold: 4,096
// entries and one more for each KiB of the quota, 1 MiB and an eighth of the quota. A
// volume without a quota (0), or with a huge one, may hold 134,217,728 entries and 16 GiB.
// Trees of source code, of packages or of repositories stay far below. A change that
// would exceed a bound fails with ErrQuota and changes nothing, as one that exceeds the
// quota does; a quota is refused whose bounds a volume exceeds already. Disk volumes are
// bounded by their capacity and their table of inodes.
func MetadataBounds(quota Size) Metadata {
	if quota <= 0 {
		return Metadata{Entries: maxEntries, Bytes: maxMetadataBytes}
	}
	return Metadata{
		Entries: min(minEntries+int64(quota)/bytesPerEntry, maxEntries),
		Bytes:   min(minMetadataBytes+int64(quota)/bytesPerMetadata, maxMetadataBytes),
	}
}

// EntryMetadata is what one name counts as. Targets of symbolic links and attributes belong
// to the inode and are counted apart from it.
func EntryMetadata(name string) Metadata { return Metadata{Entries: 1, Bytes: int64(len(name))} }

// XattrMetadata is what one extended attribute counts as.
func XattrMetadata(name string, size int) Metadata {
	return Metadata{Bytes: int64(len(name)) + int64(size)}
}

// Plus is the sum of both, at most the largest number.
func (m Metadata) Plus(more Metadata) Metadata {
	return Metadata{Entries: addCapped(m.Entries, more.Entries), Bytes: addCapped(m.Bytes, more.Bytes)}
}

// Minus returns m less the given amounts.
func (m Metadata) Minus(less Metadata) Metadata {
	return Metadata{Entries: m.Entries - less.Entries, Bytes: m.Bytes - less.Bytes}
}

// addCapped returns the sum of a and b, or the largest int64 where that overflows.
func addCapped(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Admit returns nil if a volume that holds used and is bounded by m has room for more. Only a
// bound whose amount grows is checked: a volume that is over one already may shrink, and grow
// within the other. Otherwise the error matches ErrQuota.
func (m Metadata) Admit(used, more Metadata) error {
	if more.Entries > 0 && (more.Entries > m.Entries || used.Entries > m.Entries-more.Entries) {
		return Errorf(ErrQuota, "the volume holds %d of at most %d entries, and %d more do not fit; remove some, or raise the quota", used.Entries, m.Entries, more.Entries)
	}
	if more.Bytes > 0 && (more.Bytes > m.Bytes || used.Bytes > m.Bytes-more.Bytes) {
		return Errorf(ErrQuota, "names, link targets and attributes of the volume take %d of at most %d bytes, and %d more do not fit; remove some, or raise the quota", used.Bytes, m.Bytes, more.Bytes)
	}
	return nil
}
