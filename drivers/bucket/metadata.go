package bucket

import "github.com/volehq/vole/driver"

// countMetadata computes what the columns entries and metadata of a volume ($1) cache.
const countMetadata = `SELECT (SELECT count(*) FROM dirents WHERE vol = $1), CAST(` + metadataBytes + ` AS BIGINT)`

// metadataBytes sums the bytes of names, link targets and attributes of a volume ($1).
const metadataBytes = `((SELECT coalesce(sum(length(name)), 0) FROM dirents WHERE vol = $1)
	+ (SELECT coalesce(sum(coalesce(length(target), 0) + xattr_bytes), 0) FROM inodes WHERE vol = $1))`

// countXattrs sets the column xattr_bytes of the inodes of a volume ($1), which caches this
// sum.
const countXattrs = `UPDATE inodes SET xattr_bytes = (SELECT CAST(coalesce(sum(length(x.name) + length(x.value)), 0) AS BIGINT)
	FROM xattrs x WHERE x.vol = $1 AND x.ino = inodes.ino)
	WHERE vol = $1 AND ino IN (SELECT ino FROM xattrs WHERE vol = $1)`

// addNameMetadata counts a directory entry that is added.
func (tx *volumeTx) addNameMetadata(name string) {
	tx.metaDelta = tx.metaDelta.Plus(driver.EntryMetadata(name))
}

// subtractNameMetadata counts a directory entry that is removed.
func (tx *volumeTx) subtractNameMetadata(name string) {
	tx.metaDelta = tx.metaDelta.Minus(driver.EntryMetadata(name))
}

// ownMetadata is the metadata of the inode itself, without its names.
func (n *inode) ownMetadata() driver.Metadata {
	return driver.Metadata{Bytes: int64(len(n.target)) + n.xattrs}
}

// storedMetadata is the metadata that the volume holds.
func (v *volumeRow) storedMetadata() driver.Metadata {
	return driver.Metadata{Entries: v.entries, Bytes: v.metaBytes}
}

// checkMetadataBounds returns ErrQuota if the volume holds more metadata than a quota allows.
func (v *volumeRow) checkMetadataBounds(quota driver.Size) error {
	have, bound := v.storedMetadata(), driver.MetadataBounds(quota)
	if have.Entries > bound.Entries || have.Bytes > bound.Bytes {
		return driver.Errorf(driver.ErrQuota, "the volume holds %d entries, and %d bytes of names, link targets and attributes; with a quota of %v it may hold %d and %d",
			have.Entries, have.Bytes, quota, bound.Entries, bound.Bytes)
	}
	return nil
}
