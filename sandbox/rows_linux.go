package sandbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// rows keeps the sandboxes of a home in its catalog. All writes are lazy: a sandbox
// does not outlive the machine, so a row lost in a power cut is of one that is gone.
type rows struct{ db *catalog.DB }

// keepEnded is how many ended sandboxes the catalog remembers.
const keepEnded = 100

const columns = `id, name, status, command, root, runtime, detached, mounts, pid, exit_code, error, created, started, ended`

const isLive = `status NOT IN ('stopped', 'crashed')`

// insert adds a new sandbox. ErrExists: a live one has the name.
func (r rows) insert(ctx context.Context, i Info) error {
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

// set moves a live sandbox to another status.
func (r rows) set(ctx context.Context, id string, s Status) error {
	return r.exec(ctx, `UPDATE sandboxes SET status = ? WHERE id = ? AND `+isLive, string(s), id)
}

// describe stores what became known of a sandbox when it got its volumes.
func (r rows) describe(ctx context.Context, id, runtime string, mounts []MountInfo) error {
	b, err := json.Marshal(mounts)
	if err != nil {
		return err
	}
	return r.exec(ctx, `UPDATE sandboxes SET status = ?, runtime = ?, mounts = ? WHERE id = ? AND `+isLive,
		string(StatusStarting), runtime, string(b), id)
}

func (r rows) running(ctx context.Context, id string, at time.Time) error {
	return r.exec(ctx, `UPDATE sandboxes SET status = ?, started = ? WHERE id = ? AND `+isLive,
		string(StatusRunning), at.UnixNano(), id)
}

// end marks a live sandbox as ended. A nil exit code: the command did not end by itself.
func (r rows) end(ctx context.Context, id string, s Status, exit *int, msg string, at time.Time) error {
	var code any
	if exit != nil {
		code = *exit
	}
	return r.exec(ctx, `UPDATE sandboxes SET status = ?, exit_code = ?, error = ?, ended = ? WHERE id = ? AND `+isLive,
		string(s), code, msg, at.UnixNano(), id)
}

func (r rows) remove(ctx context.Context, id string) error {
	return r.exec(ctx, `DELETE FROM sandboxes WHERE id = ? AND NOT `+isLive, id)
}

func (r rows) exec(ctx context.Context, query string, args ...any) error {
	return r.db.Write(ctx, catalog.Lazy, func(tx *catalog.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}

// surplus lists the ids of ended sandboxes beyond those to remember.
func (r rows) surplus(ctx context.Context) ([]string, error) {
	return r.ids(ctx, `SELECT id FROM sandboxes WHERE NOT `+isLive+` ORDER BY id DESC LIMIT -1 OFFSET ?`, keepEnded)
}

// removals lists the ids of the volumes that are being removed. There is no way back
// from that: deleting what they hold finishes what package local began.
func (r rows) removals(ctx context.Context) ([]string, error) {
	return r.ids(ctx, `SELECT id FROM volumes WHERE state = 'removing' AND state <> 'ready'`)
}

func (r rows) ids(ctx context.Context, query string, args ...any) ([]string, error) {
	q, err := r.db.Read().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, catalog.Translate(err)
	}
	defer q.Close()
	var ids []string
	for q.Next() {
		var id string
		if err := q.Scan(&id); err != nil {
			return nil, catalog.Translate(err)
		}
		if err := checkID(id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, catalog.Translate(q.Err())
}

// list returns the sandboxes, newest first: the live ones, or all.
func (r rows) list(ctx context.Context, all bool) ([]Info, error) {
	where := isLive
	if all {
		where = "1"
	}
	return r.query(ctx, `SELECT `+columns+` FROM sandboxes WHERE `+where+` ORDER BY id DESC`)
}

// get finds one sandbox by id, or by name: the live one, else the newest.
func (r rows) get(ctx context.Context, ref string) (Info, error) {
	list, err := r.query(ctx, `SELECT `+columns+` FROM sandboxes WHERE id = ? OR name = ?
		ORDER BY id = ? DESC, `+isLive+` DESC, id DESC LIMIT 1`, ref, ref, ref)
	if err != nil {
		return Info{}, err
	}
	if len(list) == 0 {
		return Info{}, driver.Errorf(vole.ErrNoSuch, "there is no sandbox %q", ref)
	}
	return list[0], nil
}

func (r rows) query(ctx context.Context, query string, args ...any) ([]Info, error) {
	q, err := r.db.Read().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, catalog.Translate(err)
	}
	defer q.Close()
	list := []Info{}
	for q.Next() {
		i, err := scan(q)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, catalog.Translate(q.Err())
}

func scan(q *sql.Rows) (Info, error) {
	var i Info
	var status, cmd, mounts string
	var exit sql.NullInt64
	var created, started, ended int64
	err := q.Scan(&i.ID, &i.Name, &status, &cmd, &i.Root, &i.Runtime, &i.Detached, &mounts, &i.PID, &exit, &i.Error,
		&created, &started, &ended)
	if err != nil {
		return i, catalog.Translate(err)
	}
	if err := checkID(i.ID); err != nil {
		return i, err
	}
	i.Status = Status(status)
	i.Created = catalog.Time(created)
	if started != 0 {
		t := catalog.Time(started)
		i.Started = &t
	}
	if ended != 0 {
		t := catalog.Time(ended)
		i.Ended = &t
	}
	if exit.Valid {
		n := int(exit.Int64)
		i.ExitCode = &n
	}
	return i, errorsFirst(json.Unmarshal([]byte(cmd), &i.Command), json.Unmarshal([]byte(mounts), &i.Mounts))
}

// checkID refuses an id of the catalog that has not the form of one: it names directories,
// control groups and containers, which are removed by it.
func checkID(id string) error {
	if driver.IsID(id) {
		return nil
	}
	return driver.Errorf(vole.ErrCorrupt, "the catalog has the id %q, which is none: somebody has changed it; 'vole doctor' tells more, or restore catalog.db from a backup", id)
}
