package bucket

import (
	"context"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

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
func (row *volumeRow) storedMetadata() driver.Metadata {
	return driver.Metadata{Entries: row.entries, Bytes: row.metaBytes}
}

// checkMetadataBounds returns ErrQuota if the volume holds more metadata than a quota allows.
func (row *volumeRow) checkMetadataBounds(quota driver.Size) error {
	have, bound := row.storedMetadata(), driver.MetadataBounds(quota)
	if have.Entries > bound.Entries || have.Bytes > bound.Bytes {
		return driver.Errorf(driver.ErrQuota, "the volume holds %d entries, and %d bytes of names, link targets and attributes; with a quota of %v it may hold %d and %d",
			have.Entries, have.Bytes, quota, bound.Entries, bound.Bytes)
	}
	return nil
}

// Measure implements driver.Backend. The figures are exact at all times; it only corrects them
// if the database was changed by hand.
func (b *Backend) Measure(ctx context.Context, id string) (driver.Info, error) {
	defer b.ns.metrics.observeSince("volume_measure", time.Now())
	if err := b.checkWritable(ctx); err != nil {
		return driver.Info{}, err
	}
	vol := parseID(id)
	if err := b.flushVolumeBestEffort(ctx, vol); err != nil {
		return driver.Info{}, err
	}
	var info driver.Info
	err := b.ns.db.RunTx(ctx, sqldb.TxOptions{Key: vol}, func(tx sqldb.Tx) error {
		var row volumeRow
		var used, entries, bytes int64
		err := tx.RunQueries(b.lockVolumeQuery(&row, vol), sqldb.SelectAggregate([]any{&used}, rows.MeasureVolume, vol), sqldb.SelectAggregate([]any{&entries, &bytes}, rows.CountMetadata, vol))
		if err != nil {
			return err
		}
		if used != row.used || entries != row.entries || bytes != row.metaBytes {
			row.used = used
			tx.QueueExec(`UPDATE volumes SET used = $3, entries = $4, metadata = $5 WHERE org = $1 AND id = $2`, b.org, vol, used, entries, bytes)
		}
		info, err = row.toInfo()
		return err
	})
	return info, err
}
