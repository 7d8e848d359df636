package sandbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// catalogRows keeps the sandboxes of a home in its catalog. All writes are lazy: a sandbox
// does not outlive the machine, so a row lost in a power cut is of one that is gone.
type catalogRows struct{ db *catalog.DB }

// keepEnded is how many ended sandboxes the catalog remembers.
const keepEnded = 100

const columns = `id, name, status, command, root, runtime, detached, mounts, pid, exit_code, error, created, started, ended`

const isLive = `status NOT IN ('stopped', 'crashed')`

// insertSandbox adds a new sandbox. ErrExists: a live one has the name.
func (r catalogRows) insertSandbox(ctx context.Context, i Info) error {
	cmd, err := json.Marshal(i.Command)
	if err != nil {
		return err
	}
	mounts, err := json.Marshal(i.Mounts)
	if err != nil {
		return err
	}
	return r.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		var id string
		err := tx.QueryRow(`SELECT id FROM sandboxes WHERE name = ? AND `+isLive, i.Name).Scan(&id)
		if err == nil {
			return driver.Errorf(vole.ErrExists, "a live sandbox (%s) has the name %q", id, i.Name)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`INSERT INTO sandboxes (`+columns+`) VALUES (?,?,?,?,?,?,?,?,?,NULL,'',?,0,0)`,
			i.ID, i.Name, string(i.Status), string(cmd), i.Root, i.Runtime, i.Detached, string(mounts), i.PID, i.Created.UnixNano())
		return err
	})
}

// setStatus moves a live sandbox to another status.
func (r catalogRows) setStatus(ctx context.Context, id string, s Status) error {
	return r.db.Exec(ctx, catalog.Lazy, `UPDATE sandboxes SET status = ? WHERE id = ? AND `+isLive, string(s), id)
}

// setVolumesAttached stores the runtime and the mounts of a sandbox, which are known once its
// volumes are attached.
func (r catalogRows) setVolumesAttached(ctx context.Context, id, runtime string, mounts []MountInfo) error {
	b, err := json.Marshal(mounts)
	if err != nil {
		return err
	}
	return r.db.Exec(ctx, catalog.Lazy, `UPDATE sandboxes SET status = ?, runtime = ?, mounts = ? WHERE id = ? AND `+isLive,
		string(StatusStarting), runtime, string(b), id)
}

// setRunning marks a live sandbox as running since the given time.
func (r catalogRows) setRunning(ctx context.Context, id string, at time.Time) error {
	return r.db.Exec(ctx, catalog.Lazy, `UPDATE sandboxes SET status = ?, started = ? WHERE id = ? AND `+isLive,
		string(StatusRunning), at.UnixNano(), id)
}

// setEnded marks a live sandbox as ended. A nil exit code: the command did not end by itself.
func (r catalogRows) setEnded(ctx context.Context, id string, s Status, exit *int, msg string, at time.Time) error {
	var code any
	if exit != nil {
		code = *exit
	}
	return r.db.Exec(ctx, catalog.Lazy, `UPDATE sandboxes SET status = ?, exit_code = ?, error = ?, ended = ? WHERE id = ? AND `+isLive,
		string(s), code, msg, at.UnixNano(), id)
}

// deleteEnded deletes the row of a sandbox that has ended; one that is live keeps it.
func (r catalogRows) deleteEnded(ctx context.Context, id string) error {
	return r.db.Exec(ctx, catalog.Lazy, `DELETE FROM sandboxes WHERE id = ? AND NOT `+isLive, id)
}

// listSurplusIDs lists the ids of ended sandboxes beyond those to remember.
func (r catalogRows) listSurplusIDs(ctx context.Context) ([]string, error) {
	return catalog.Select(ctx, r.db, scanID, `SELECT id FROM sandboxes WHERE NOT `+isLive+` ORDER BY id DESC LIMIT -1 OFFSET ?`, keepEnded)
}

// scanID decodes a row of one id.
func scanID(scan catalog.Scanner) (string, error) {
	id, err := catalog.ScanColumn[string](scan)
	if err != nil {
		return "", err
	}
	return id, checkCatalogID(id)
}

// listSandboxes returns the sandboxes, newest first: the live ones, or all.
func (r catalogRows) listSandboxes(ctx context.Context, all bool) ([]Info, error) {
	where := isLive
	if all {
		where = "1"
	}
	return catalog.Select(ctx, r.db, scanSandbox, `SELECT `+columns+` FROM sandboxes WHERE `+where+` ORDER BY id DESC`)
}

// findSandbox finds one sandbox by id, or by name: the live one, else the newest.
func (r catalogRows) findSandbox(ctx context.Context, ref string) (Info, error) {
	list, err := catalog.Select(ctx, r.db, scanSandbox, `SELECT `+columns+` FROM sandboxes WHERE id = ? OR name = ?
		ORDER BY id = ? DESC, `+isLive+` DESC, id DESC LIMIT 1`, ref, ref, ref)
	if err != nil {
		return Info{}, err
	}
	if len(list) == 0 {
		return Info{}, driver.Errorf(vole.ErrNoSuch, "there is no sandbox %q", ref)
	}
	return list[0], nil
}

// scanSandbox decodes a row of the columns above. Times are nanoseconds since 1970; 0 stands for none.
func scanSandbox(scan catalog.Scanner) (Info, error) {
	var info Info
	var status, cmd, mounts string
	var exit sql.NullInt64
	var created, started, ended int64
	err := scan(&info.ID, &info.Name, &status, &cmd, &info.Root, &info.Runtime, &info.Detached, &mounts, &info.PID, &exit, &info.Error,
		&created, &started, &ended)
	if err != nil {
		return info, err
	}
	if err := checkCatalogID(info.ID); err != nil {
		return info, err
	}
	info.Status = Status(status)
	info.Created = catalog.Time(created)
	if started != 0 {
		t := catalog.Time(started)
		info.Started = &t
	}
	if ended != 0 {
		t := catalog.Time(ended)
		info.Ended = &t
	}
	if exit.Valid {
		n := int(exit.Int64)
		info.ExitCode = &n
	}
	return info, cmp.Or(json.Unmarshal([]byte(cmd), &info.Command), json.Unmarshal([]byte(mounts), &info.Mounts))
}

// checkCatalogID refuses a value of the catalog that does not have the form of an id: ids name
// directories, control groups and containers, which are removed by that name.
func checkCatalogID(id string) error {
	if driver.IsID(id) {
		return nil
	}
	return driver.Errorf(vole.ErrCorrupt, "the catalog has %q where an id belongs: it was changed by hand or is damaged; run 'vole doctor', or restore catalog.db from a backup", id)
}
