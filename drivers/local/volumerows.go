//go:build unix

package local

// A row of volumes is what the catalog knows of a volume. Its state says what may exist on disk:
//
//	creating  the directory may exist; its owner makes it, and recovery finishes or undoes that
//	draft     the directory exists; its owner fills it, and recovery undoes it
//	ready     the directory exists; data/ does if made is 1
//	removing  the directory may exist in part; the name is free, and recovery deletes the rest
//
// owner is the process at work in all states but ready. counted is the number of rows of counting
// with this volume: while it is not 0 the usage is in the volume's page, not in the row. stale
// means that the usage in the row may be wrong until the volume is measured.

import (
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local/internal/disk"
	"github.com/volehq/vole/internal/catalog"
)

// volumeColumns are the columns that scanVolumeRow reads.
const volumeColumns = `id, name, kind, state, quota, capacity, labels, created, updated, used, stale, counted, made, entries, names, xattrs, last_used`

// stateDraft is the state, in the catalog, of a volume that its maker fills before it is
// published: no other process sees it, and recovery undoes it. The API calls it creating.
const stateDraft = "draft"

const (
	selectByID = `SELECT ` + volumeColumns + ` FROM volumes WHERE id = ? AND state IN ('ready', '` + stateDraft + `')`
	// The last term says nothing new, but shows SQLite that the index on names, which
	// leaves out volumes in removal, contains the row.
	selectByName = `SELECT ` + volumeColumns + ` FROM volumes WHERE name = ? AND state = 'ready' AND state <> 'removing'`
	selectPage   = `SELECT ` + volumeColumns + ` FROM volumes
		WHERE id < ? AND state = 'ready' AND (?2 = '' OR kind = ?2) ORDER BY id DESC LIMIT CAST(?3 AS INTEGER)`
)

// lookupQuery returns the query for a volume, and its argument.
func lookupQuery(ref driver.Ref) (query, arg string) {
	if ref.ID != "" {
		return selectByID, ref.ID
	}
	return selectByName, ref.Name
}

// volumeRow is a row of volumes.
type volumeRow struct {
	driver.Info
	draft   bool // its state is stateDraft
	counted bool // a process is changing the files, so that the usage is in its counter
	made    bool // the directory of the files has been made, or it is a disk
	damaged bool // its labels cannot be read
	tally   tally
}

// scanVolumeRow reads one row of volumes. ErrCorrupt: no version of Vole writes such a row.
func scanVolumeRow(from interface{ Scan(...any) error }) (r volumeRow, err error) {
	// Into plain types: for all others database/sql takes the long way.
	var kind, state, labels string
	var quota, capacity, created, updated, used, stale, counted, made, lastUsed int64
	err = from.Scan(&r.ID, &r.Name, &kind, &state, &quota, &capacity,
		&labels, &created, &updated, &used, &stale, &counted, &made, &r.tally.entries, &r.tally.names, &r.tally.xattrs, &lastUsed)
	if err != nil {
		return volumeRow{}, err
	}
	if err := validateRow(r.ID, r.Name, kind); err != nil {
		return volumeRow{}, err
	}
	r.Kind, r.State, r.draft = driver.Kind(kind), driver.State(state), state == stateDraft
	if r.draft {
		r.State = driver.StateCreating
	}
	r.Quota, r.Capacity, r.Used = driver.Size(quota), driver.Size(capacity), driver.Size(used)
	r.UsedStale, r.counted, r.made = stale != 0, counted > 0, made != 0
	r.Created, r.Updated = catalog.Time(created), catalog.Time(updated)
	r.LastUsed = r.Updated // a use as well
	r.raiseLastUse(lastUsed)
	r.Labels = driver.Labels{}
	if labels != "" {
		// One damaged row must not hide the others; Check reports it.
		if json.Unmarshal([]byte(labels), &r.Labels) != nil || r.Labels.Validate() != nil {
			r.Labels, r.damaged = driver.Labels{}, true
		}
	}
	return r, nil
}

// raiseLastUse sets the last use to a time, in nanoseconds since 1970, if that is later.
func (r *volumeRow) raiseLastUse(at int64) {
	if t := catalog.Time(at); t.After(r.LastUsed) {
		r.LastUsed = t
	}
}

// scanOneVolume is scanVolumeRow for a query of one volume. ErrNotFound: there is none.
func scanOneVolume(from interface{ Scan(...any) error }) (volumeRow, error) {
	r, err := scanVolumeRow(from)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNoSuchVolume()
	}
	return r, err
}

// errNoSuchVolume returns ErrNotFound.
func errNoSuchVolume() error { return driver.Errorf(driver.ErrNotFound, "no such volume") }

// currentInfo describes a volume with its current usage.
func (b *Backend) currentInfo(r volumeRow) driver.Info {
	return b.withLocation(b.withLiveUsage(r).Info)
}

// withLocation adds the path of the volume.
func (b *Backend) withLocation(info driver.Info) driver.Info {
	name := "data"
	if info.Kind == driver.KindDisk {
		name = disk.ImageName
	}
	return info.At("local", b.homePath("volumes", info.ID, name))
}

// withLiveUsage returns the row with the usage from the volume's page, if the volume is being
// counted.
func (b *Backend) withLiveUsage(r volumeRow) volumeRow {
	if r.counted {
		b.readLiveUsage(&r)
	}
	return r
}

// encodeLabels returns the labels as JSON, "" for none.
func encodeLabels(l driver.Labels) string {
	if len(l) == 0 {
		return ""
	}
	data, _ := json.Marshal(l) // a map of strings: cannot fail
	return string(data)
}

// refuseVolumeID returns ErrExists for a name that is the id of a volume: an argument that means
// one must not find the other.
func refuseVolumeID(tx *catalog.Tx, name string) error {
	if uuid.Validate(name) != nil {
		return nil
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM volumes WHERE id = ?`, name).Scan(&n); err != nil || n == 0 {
		return err
	}
	return driver.Errorf(driver.ErrExists, "that is the id of a volume; choose another name")
}
