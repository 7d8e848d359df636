package bucket

import (
	"context"
	"errors"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// The name of a removed organisation is free at once: its row gets a name that no organisation
// can have, and is deleted when nothing of the organisation is left.

// removedOrg begins the name of a removed organisation. No valid name begins so.
const removedOrg = "-"

// orgNotEmptyError is the error for removing an organisation that has volumes.
func orgNotEmptyError(name string, volumes int64) error {
	return driver.Errorf(driver.ErrNotEmpty, "the organisation %q has volumes (%d); remove them first, or use force to remove all of it", name, volumes)
}

// OrgNames returns the names of the organisations of a namespace. It opens only the database,
// read-only, so the namespace may be in use and its blob store away. ErrNotExist: there is no
// namespace yet.
func OrgNames(ctx context.Context, opts Options) ([]string, error) {
	opts.ReadOnly = true
	if opts.Blobs == "" && opts.S3 == nil {
		opts.Blobs = "." // it is not opened
	}
	if err := opts.completeAndValidate(); err != nil {
		return nil, err
	}
	ns := &Namespace{opts: opts, log: opts.Log, metrics: newMetrics()}
	db, err := ns.openDatabase(ctx)
	if err != nil {
		return nil, err
	}
	ns.db = db
	list, err := ns.Orgs(ctx)
	return list, errors.Join(err, db.Close())
}

// RemoveOrg removes an organisation. Its name is free at once; its bytes are garbage collected
// as those of removed volumes are. ErrNoSuch: there is none of that name. ErrNotEmpty: it has
// volumes, and force is not set. ErrInUse: one of them is attached.
func (ns *Namespace) RemoveOrg(ctx context.Context, name string, force bool) error {
	if ns.opts.ReadOnly {
		return errReadOnly
	}
	b, err := ns.Org(ctx, name)
	if err != nil {
		return err
	}
	err = ns.db.RunTx(ctx, sqldb.TxOptions{}, func(tx sqldb.Tx) error {
		var found bool
		var volumes int64
		var holders []attachment
		if err := tx.RunQueries(sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM orgs WHERE id = $1 AND name = $2 {lock}`, b.org, name)); err != nil || !found {
			return err // removed since: by another call, or by a first try whose answer was lost
		}
		err := tx.RunQueries(sqldb.SelectAggregate([]any{&volumes}, `SELECT count(*) FROM volumes WHERE org = $1 AND state <> 'removing'`, b.org),
			sqldb.SelectAll(&holders, (*attachment).scanDest, selectAttachments+` ORDER BY a.id LIMIT 1`, b.org))
		switch {
		case err != nil:
			return err
		case volumes > 0 && !force:
			return orgNotEmptyError(name, volumes)
		case len(holders) > 0:
			return holders[0].inUseError()
		}
		tx.QueueExec(`UPDATE volumes SET state = 'removing', session = NULL, generation = generation + 1 WHERE org = $1 AND state <> 'removing'`, b.org)
		tx.QueueExec(`UPDATE orgs SET name = $2 WHERE id = $1`, b.org, removedOrg+rows.FormatID(b.org))
		return nil
	})
	if err == nil {
		ns.wakeMaintenance()
	}
	return err
}

// Removed reports whether the organisation was removed.
func (b *Backend) Removed(ctx context.Context) (bool, error) {
	var found bool
	err := b.ns.db.RunQueries(ctx, b.orgExistsQuery(&found))
	return err == nil && !found, err
}

// orgExistsQuery asks whether the organisation has not been removed.
func (b *Backend) orgExistsQuery(found *bool) sqldb.Query {
	return sqldb.SelectOne(found, []any{new(int)}, `SELECT 1 FROM orgs WHERE id = $1 AND name NOT LIKE '`+removedOrg+`%'`, b.org)
}

var errOrgRemoved = driver.Errorf(driver.ErrNotFound, "the organisation has been removed")

// reapRemovedOrgs deletes what is left of each removed organisation, as far as possible now.
func (ns *Namespace) reapRemovedOrgs(ctx context.Context) error {
	var list [][]byte
	err := ns.db.RunQueries(ctx, sqldb.SelectAll(&list, idDest, `SELECT id FROM orgs WHERE name LIKE '`+removedOrg+`%'`))
	for _, org := range list {
		if err == nil {
			err = ns.reapRemovedOrg(ctx, org)
		}
	}
	return err
}

// reapRemovedOrg removes the volumes of a removed organisation. Once they are gone it deletes
// its manifests, and once its blobs are gone its row.
func (ns *Namespace) reapRemovedOrg(ctx context.Context, org []byte) error {
	// A volume that was being created during the removal goes, too.
	err := sqldb.Exec(ctx, ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET state = 'removing', session = NULL, generation = generation + 1 WHERE org = $1 AND state <> 'removing'`, org))
	if err != nil {
		return err
	}
	var volumes bool
	err = ns.db.RunQueries(ctx, sqldb.SelectOne(&volumes, []any{new(int)}, `SELECT 1 FROM volumes WHERE org = $1 LIMIT 1`, org))
	if err != nil || volumes {
		return err
	}
	// Without manifests a rebuild does not bring the organisation back.
	for info, err := range ns.blobs.List(ctx, manifest.Prefix(org)) {
		if err == nil {
			err = ns.blobs.Delete(ctx, info.Key)
		}
		if err != nil {
			return err
		}
	}
	const nothing = ` AND NOT EXISTS (SELECT 1 FROM volumes WHERE org = $1) AND NOT EXISTS (SELECT 1 FROM sessions WHERE org = $1)
		AND NOT EXISTS (SELECT 1 FROM blobs WHERE org = $1) AND NOT EXISTS (SELECT 1 FROM doomed WHERE org = $1)`
	return sqldb.Exec(ctx, ns.db, sqldb.TxOptions{},
		sqldb.Statement(`DELETE FROM unreferenced WHERE org = $1`+nothing, org),
		sqldb.Statement(`DELETE FROM orgs WHERE id = $1`+nothing, org))
}
