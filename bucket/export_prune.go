package bucket

import (
	"context"
	"encoding/hex"
	"slices"
)

// prune deletes manifests that newer ones have replaced, and those of volumes that are
// gone.
func (e *export) prune(ctx context.Context) error {
	var vol []byte
	var list []int64 // generations of vol, ascending as the keys are
	flush := func() error {
		if len(list) == 0 {
			return nil
		}
		err := e.pruneVolume(ctx, vol, list)
		list = list[:0]
		return err
	}
	for info, err := range e.ns.blobs.List(ctx, manifestPrefix(e.org.id)) {
		if err != nil {
			return err
		}
		k, ok := parseKey(info.Key)
		if !ok || !k.manifest {
			continue
		}
		if string(k.id) != string(vol) {
			if err := flush(); err != nil {
				return err
			}
			vol = k.id
		}
		list = append(list, k.generation)
	}
	return flush()
}

// pruneVolume asks the database after the listing, so that a volume whose manifest is
// listed and whose row is not there has been removed.
func (e *export) pruneVolume(ctx context.Context, vol []byte, list []int64) error {
	var found bool
	var exported int64
	err := e.ns.db.read(ctx, one(&found, []any{&exported}, `SELECT exported FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing'`, e.org.id, vol))
	if err != nil {
		return err
	}
	if found {
		// One that is newer than what is noted may be that of an export under way.
		list = list[:slices.IndexFunc(append(slices.Clone(list), exported+1), func(g int64) bool { return g > exported })]
		list = list[:max(0, len(list)-manifestsKept)]
	}
	for _, g := range list {
		if err := e.ns.blobs.Delete(ctx, manifestKey(e.org.id, vol, g)); err != nil {
			return err
		}
		e.res.Removed++
		e.ns.log.Debug("manifest removed", "volume", hex.EncodeToString(vol), "generation", g)
	}
	return nil
}
