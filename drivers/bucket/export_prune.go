package bucket

import (
	"bytes"
	"context"

	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
)

// pruneRemovedVolumes deletes the manifests of volumes that do not exist, of those that come
// before an id; nil: of all.
func (export *orgExport) pruneRemovedVolumes(ctx context.Context, list *manifestList, before []byte) {
	for ; list.vol != nil && (before == nil || bytes.Compare(list.vol, before) < 0); list.nextVolume() {
		// A volume's row exists before its manifest does. So if the manifest was listed, and
		// the row does not exist now, the volume was removed.
		var found bool
		err := export.ns.db.RunQueries(ctx, volumeExistsQuery(&found, export.org.id, list.vol))
		for _, g := range list.generations {
			if err == nil && !found {
				err = export.deleteManifest(ctx, list.vol, g)
			}
		}
		if export.failures.addFailure(err); export.failures.others >= exportErrors {
			return
		}
	}
}

// pruneOldGenerations deletes the manifests of a volume except the newest and the last
// recorded one before it. Others are from exports that died, or from before the database was
// restored from an older copy.
func (export *orgExport) pruneOldGenerations(ctx context.Context, v exportRow, gens []int64, newest int64) error {
	before := int64(-1)
	for _, g := range gens {
		if g < newest && g <= v.exported {
			before = g
		}
	}
	for _, g := range gens {
		if g == newest || g == before {
			continue
		}
		if err := export.deleteManifest(ctx, v.id, g); err != nil {
			return err
		}
	}
	return nil
}

// deleteManifest deletes one manifest and counts it in the result.
func (export *orgExport) deleteManifest(ctx context.Context, vol []byte, generation int64) error {
	err := export.ns.blobs.Delete(ctx, manifest.Key(export.org.id, vol, generation))
	if err == nil {
		export.res.Removed++
		export.ns.log.Debug("manifest removed", "volume", rows.FormatID(vol), "generation", generation)
	}
	return err
}
