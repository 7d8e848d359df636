package bucket

import "github.com/volehq/vole/driver"

// countMetadata selects what volumes.entries and volumes.metadata of a volume ($1) are
// kept equal to.
const countMetadata = `SELECT (SELECT count(*) FROM dirents WHERE vol = $1), CAST(` + metadataBytes + ` AS BIGINT)`

const metadataBytes = `((SELECT coalesce(sum(length(name)), 0) FROM dirents WHERE vol = $1)
	+ (SELECT coalesce(sum(coalesce(length(target), 0) + xattr_bytes), 0) FROM inodes WHERE vol = $1))`

// countXattrs sets what inodes.xattr_bytes of a volume ($1) is kept equal to.
const countXattrs = `UPDATE inodes SET xattr_bytes = (SELECT CAST(coalesce(sum(length(x.name) + length(x.value)), 0) AS BIGINT)
	FROM xattrs x WHERE x.vol = $1 AND x.ino = inodes.ino)
	WHERE vol = $1 AND ino IN (SELECT ino FROM xattrs WHERE vol = $1)`

// addNameMetadata notes that a name was added, and unnamed that one was taken away.
func (tx *volumeTx) addNameMetadata(name string) {
	tx.metaDelta = tx.metaDelta.Plus(driver.EntryMetadata(name))
}
func (tx *volumeTx) subtractNameMetadata(name string) {
	tx.metaDelta = tx.metaDelta.Minus(driver.EntryMetadata(name))
}

// ownMetadata is what belongs to the inode itself, whatever names it has.
func (n *inode) ownMetadata() driver.Metadata {
	return driver.Metadata{Bytes: int64(len(n.target)) + n.xattrs}
}

// storedMetadata is what a volume holds.
func (v *volumeRow) storedMetadata() driver.Metadata {
	return driver.Metadata{Entries: v.entries, Bytes: v.metaBytes}
}

// checkMetadataBounds fails when the volume holds more metadata than the bounds of a quota.
func (v *volumeRow) checkMetadataBounds(quota driver.Size) error {
	have, bound := v.storedMetadata(), driver.MetadataBounds(quota)
	if have.Entries > bound.Entries || have.Bytes > bound.Bytes {
		return driver.Errorf(driver.ErrQuota, "the volume holds %d entries, and %d bytes of names, link targets and attributes; with a quota of %v it may hold %d and %d",
			have.Entries, have.Bytes, quota, bound.Entries, bound.Bytes)
	}
	return nil
}
