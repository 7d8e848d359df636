package bucket

import (
	"context"
	"fmt"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// settleBlobs reports the files that have lost bytes, and gives all blobs their final state:
// used or freed.
func (r *rebuild) settleBlobs(ctx context.Context) error {
	var vols []volumeID
	err := r.ns.db.RunQueries(ctx, sqldb.SelectAll(&vols, (*volumeID).scanDest, `SELECT DISTINCT c.org, c.vol FROM blobs b JOIN chunks c ON c.org = b.org AND c.blob = b.id
		WHERE b.freed = $1 ORDER BY c.org, c.vol`, int64(freedMissing)))
	if err != nil {
		return err
	}
	for _, volume := range vols {
		if err := r.reportLostBytes(ctx, volume); err != nil {
			return err
		}
		r.res.Damaged++
	}
	// Lost blobs count as used: reading them fails, and works if the object reappears.
	err = r.execInBatches(ctx, `UPDATE blobs SET freed = NULL WHERE (org, id) IN (SELECT org, id FROM blobs WHERE freed = $2 LIMIT $1)`, nil, int64(freedMissing))
	if err != nil {
		return err
	}
	if r.discardedAny { // blobs that only a discarded manifest claimed
		err := r.execInBatches(ctx, `UPDATE blobs SET freed = {now} WHERE (org, id) IN (SELECT b.org, b.id FROM blobs b WHERE b.freed IS NULL
			AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.org = b.org AND c.blob = b.id) LIMIT $1)`, &r.res.Freed)
		if err != nil {
			return err
		}
	}
	return r.execInBatches(ctx, `UPDATE blobs SET freed = {now} WHERE (org, id) IN (SELECT org, id FROM blobs WHERE freed = $2 LIMIT $1)`, &r.res.Freed, int64(freedUnclaimed))
}

// lostRange is a range of a file whose object is missing from the store.
type lostRange struct{ ino, pos, len int64 }

func (l *lostRange) scanDest() []any { return []any{&l.ino, &l.pos, &l.len} }

// lostPage is how many ranges one query returns.
const lostPage = 1000

// reportLostBytes reports the lost ranges of a volume's files.
func (r *rebuild) reportLostBytes(ctx context.Context, volume volumeID) error {
	last := lostRange{}
	for {
		var list []lostRange
		err := r.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*lostRange).scanDest, `SELECT c.ino, c.pos, c.len FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob
			WHERE c.vol = $1 AND b.freed = $2 AND (c.ino, c.pos) > ($3, $4) ORDER BY c.ino, c.pos LIMIT $5`,
			volume.vol, int64(freedMissing), last.ino, last.pos, lostPage))
		if err != nil || len(list) == 0 {
			return err
		}
		last = list[len(list)-1]
		if err := r.reportLostRanges(ctx, volume, list); err != nil {
			return err
		}
	}
}

// reportLostRanges reports ranges, adjacent ones as one, with a path of their file.
func (r *rebuild) reportLostRanges(ctx context.Context, volume volumeID, list []lostRange) error {
	wanted := map[int64]bool{}
	var merged []lostRange
	for _, l := range list {
		wanted[l.ino] = true
		if n := len(merged); n > 0 && merged[n-1].ino == l.ino && merged[n-1].pos+merged[n-1].len == l.pos {
			merged[n-1].len += l.len
			continue
		}
		merged = append(merged, l)
	}
	paths, err := r.ns.findPaths(ctx, volume.vol, wanted)
	if err != nil {
		return err
	}
	for _, l := range merged {
		f := driver.Finding{Code: foundLostBytes, Volume: rows.FormatID(volume.vol), Path: paths[l.ino],
			Detail: fmt.Sprintf("%d bytes from byte %d on are lost: their objects are gone or have another size", l.len, l.pos)}
		if f.Path == "" {
			f.Detail = fmt.Sprintf("inode %d, which has no name: ", l.ino) + f.Detail
		}
		if err := r.report(f); err != nil {
			return err
		}
	}
	return nil
}

// parentEntry is a name of an inode, and the directory that has it.
type parentEntry struct {
	parent int64
	name   string
}

// findPaths returns a path of each wanted inode. No index leads from an inode to its names, so
// it reads all names of the volume, once for each level of depth.
func (ns *Namespace) findPaths(ctx context.Context, vol []byte, wanted map[int64]bool) (map[int64]string, error) {
	known := map[int64]parentEntry{}
	for want := wanted; len(want) > 0; {
		next := map[int64]bool{}
		err := ns.db.RunQueries(ctx, sqldb.EachRow(func(scan sqldb.Scanner) error {
			var ino int64
			var up parentEntry
			var name []byte
			if err := scan(&up.parent, &name, &ino); err != nil {
				return err
			}
			if _, have := known[ino]; want[ino] && !have {
				up.name = string(name)
				known[ino] = up
				next[up.parent] = true
			}
			return nil
		}, `SELECT parent, name, ino FROM dirents WHERE vol = $1`, vol))
		if err != nil {
			return nil, err
		}
		for ino := range next {
			if _, have := known[ino]; have || ino == rootIno {
				delete(next, ino)
			}
		}
		want = next
	}
	paths := map[int64]string{}
	for ino := range wanted {
		paths[ino] = pathFromRoot(known, ino)
	}
	return paths, nil
}

// pathFromRoot returns the path from the root to ino, or "" if there is none.
func pathFromRoot(known map[int64]parentEntry, ino int64) string {
	var names []string
	for ino != rootIno {
		up, ok := known[ino]
		if !ok || len(names) > len(known) { // unknown, or in a cycle
			return ""
		}
		names = append([]string{up.name}, names...)
		ino = up.parent
	}
	return strings.Join(names, "/")
}
