package bucket

import (
	"bytes"
	"context"
	"iter"
	"math"

	"github.com/volehq/vole/drivers/bucket/internal/blob"
)

// maxGeneration is the highest generation of a valid manifest. It leaves room to count on.
const maxGeneration = math.MaxInt64 / 2

// manifestList lists the manifests of an organisation in the store, volume by volume in the
// order of their ids.
type manifestList struct {
	next        func() (blob.Info, error, bool)
	stop        func()
	vol         []byte     // id of the current volume; nil: there are no more
	generations []int64    // of the volume's manifests, ascending as the keys are
	pendingKey  *parsedKey // the first key of the next volume, which has been read already
	err         error
}

// listManifests starts a listing. The caller calls stop.
func (ns *Namespace) listManifests(ctx context.Context, org []byte) *manifestList {
	l := &manifestList{}
	l.next, l.stop = iter.Pull2(ns.blobs.List(ctx, manifestPrefix(org)))
	l.nextVolume()
	return l
}

// nextVolume goes on to the next volume.
func (l *manifestList) nextVolume() {
	l.vol, l.generations = nil, nil
	if l.pendingKey != nil {
		l.vol, l.generations, l.pendingKey = l.pendingKey.id, []int64{l.pendingKey.generation}, nil
	}
	for {
		info, err, ok := l.next()
		if err != nil {
			l.vol, l.err = nil, err // a partial list must not be used
			return
		}
		if !ok {
			return
		}
		switch key, ok := parseObjectKey(info.Key); {
		case !ok || !key.manifest:
		case l.vol == nil:
			l.vol, l.generations = key.id, []int64{key.generation}
		case bytes.Equal(key.id, l.vol):
			l.generations = append(l.generations, key.generation)
		default:
			l.pendingKey = &key
			return
		}
	}
}

// takeGenerations returns the generations in the store of a volume, and whether they are
// known. Volumes are asked for in the order of ids.
func (l *manifestList) takeGenerations(vol []byte) ([]int64, bool) {
	if !bytes.Equal(l.vol, vol) {
		return nil, l.err == nil
	}
	gens := l.generations
	l.nextVolume()
	return gens, true
}

// pruneRemovedVolumes deletes the manifests of volumes that do not exist, of those that come
// before an id; nil: of all.
func (export *orgExport) pruneRemovedVolumes(ctx context.Context, list *manifestList, before []byte) {
	for ; list.vol != nil && (before == nil || bytes.Compare(list.vol, before) < 0); list.nextVolume() {
		// A volume's row exists before its manifest does. So if the manifest was listed, and
		// the row does not exist now, the volume was removed.
		var found bool
		err := export.ns.db.runQueries(ctx, volumeExistsQuery(&found, export.org.id, list.vol))
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

// deleteManifest deletes one manifest.
func (export *orgExport) deleteManifest(ctx context.Context, vol []byte, generation int64) error {
	err := export.ns.blobs.Delete(ctx, manifestKey(export.org.id, vol, generation))
	if err == nil {
		export.res.Removed++
		export.ns.log.Debug("manifest removed", "volume", formatID(vol), "generation", generation)
	}
	return err
}
