// Package audit checks the rows and objects of a namespace against one another, and repairs what
// can be repaired, while others go on writing.
//
// Each query is one statement, and sees one state of the database. What looks wrong is queried
// again under the lock of the volume's row, and repaired there. Memory does not grow with the size
// of a volume.
//
// A repair loses nothing: an inode without a name gets one in lost+found, and an object
// without a row is left to garbage collection and its grace time. Lost bytes can only be
// reported.
package audit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// Audit is one check of a namespace, or of a part of it. It must not be used concurrently.
type Audit struct {
	ctx        context.Context // of the one call that the check is for
	db         sqldb.DB
	blobs      blob.Store
	readOnly   bool
	fix        bool
	report     func(driver.Finding) error
	pathBudget int // how many paths may still be looked up
}

const (
	// checkPage is how many rows one query returns, and one transaction repairs.
	checkPage = 200
	// maxPaths bounds how many paths are looked up: no index leads from an inode to its names.
	maxPaths = 1000
)

// New returns an audit that ends with ctx, reports to report, and with fix repairs. With readOnly
// it takes no locks, and must not repair. An error of report ends the audit, and is returned.
func New(ctx context.Context, db sqldb.DB, blobs blob.Store, readOnly, fix bool, report func(driver.Finding) error) *Audit {
	return &Audit{ctx: ctx, db: db, blobs: blobs, readOnly: readOnly, fix: fix, report: report, pathBudget: maxPaths}
}

// CheckOrg checks the rows and objects of an organisation.
func (c *Audit) CheckOrg(org []byte) error {
	if err := c.checkOrganisation(org); err != nil {
		return err
	}
	return c.checkObjects([][]byte{org}, blob.OrgPrefix(org)+"b/")
}

// CheckAll is CheckOrg of all organisations, and of rows and objects that belong to none.
func (c *Audit) CheckAll() error {
	for _, step := range []func() error{c.checkVolumelessRows, c.checkOrglessBlobs} {
		if err := step(); err != nil {
			return err
		}
	}
	var orgs [][]byte
	if err := c.db.RunQueries(c.ctx, sqldb.SelectAll(&orgs, idDest, `SELECT id FROM orgs ORDER BY id`)); err != nil {
		return err
	}
	for _, org := range orgs {
		if err := c.checkOrganisation(org); err != nil {
			return err
		}
	}
	return c.checkObjects(orgs, "o/")
}

// CheckVolume checks the rows of one volume, in whatever state that is.
func (c *Audit) CheckVolume(org, vol []byte) error { return c.checkVolume(volumeID{org, vol}) }

// volumeID names a volume by its organisation and its id.
type volumeID struct{ org, vol []byte }

// idDest returns where the column of a row goes that is an id.
func idDest(id *[]byte) []any { return []any{id} }

// forEachID calls fn with the ids that a query returns, page by page. The query gets org as
// $1, the last id of the page before as $2, and the size of a page as $3.
func (c *Audit) forEachID(org []byte, sql string, fn func(id []byte) error) error {
	for after := []byte{}; ; {
		var list [][]byte
		if err := c.db.RunQueries(c.ctx, sqldb.SelectAll(&list, idDest, sql, org, after, checkPage)); err != nil {
			return err
		}
		for _, id := range list {
			if err := fn(id); err != nil {
				return err
			}
		}
		if len(list) < checkPage {
			return nil
		}
		after = list[len(list)-1]
	}
}

// checkOrganisation checks all rows of an organisation: volume by volume, so that what is found is
// reported in the order of volumes, and then what belongs to none.
func (c *Audit) checkOrganisation(org []byte) error {
	err := c.forEachID(org, `SELECT id FROM volumes WHERE org = $1 AND id > $2 AND state <> 'removing' ORDER BY id LIMIT $3`,
		func(id []byte) error { return c.checkVolume(volumeID{org, id}) })
	if err == nil {
		err = c.checkAttachments(org)
	}
	if err == nil {
		err = c.checkBlobRows(org)
	}
	if err == nil {
		err = c.checkUnreferencedBytes(org)
	}
	return err
}

// checkVolume applies every rule to a volume, in their order, up to one that is violated, is not
// repaired, and leaves the rules after it without meaning.
func (c *Audit) checkVolume(volume volumeID) error {
	if err := c.checkVolumeRow(volume); err != nil {
		return err
	}
	for i := range volumeRules {
		r := &volumeRules[i]
		if r.findsCycles {
			if err := c.checkCycles(volume, r); err != nil {
				return err
			}
			continue
		}
		open, err := c.applyRule(volume, r)
		if err != nil {
			return err
		}
		if open && r.stopIfBroken {
			return nil
		}
	}
	return nil
}

// applyRule looks for violations of a rule, page by page. open reports that some were found
// and not repaired.
func (c *Audit) applyRule(volume volumeID, r *rule) (open bool, err error) {
	after := suspect{ino: math.MinInt64, name: []byte{}}
	for {
		var list []suspect
		err := c.db.RunQueries(c.ctx, r.pageQuery(&list, volume, after, suspect{ino: math.MaxInt64, name: []byte{}}))
		if err != nil || len(list) == 0 {
			return open, err
		}
		emptyNamesForNil(list)
		last := list[len(list)-1]
		found, fixed, err := c.confirmAndReport(volume, r, func(list *[]suspect) sqldb.Query { return r.pageQuery(list, volume, after, last) })
		if err != nil {
			return open, err
		}
		open = open || len(found) > 0 && !fixed
		if len(list) < checkPage {
			return open, nil
		}
		after = last
	}
}

// confirmAndReport runs a query again under the lock of the volume's row, repairs what it
// finds there, and reports it. What others changed since the first look is no finding. If the
// repair fails, the findings are reported with its error. ask must be one query for each call,
// with the same result.
func (c *Audit) confirmAndReport(volume volumeID, r *rule, ask func(*[]suspect) sqldb.Query) (found []suspect, fixed bool, err error) {
	fixed = c.fix && r.fix != nil
	// Look paths up first: a repair may change them.
	if fixed {
		if found, err = c.confirmUnderLock(volume, r, ask, false); err != nil {
			return nil, false, err
		}
	}
	paths := map[string]string{}
	for i := range found {
		paths[found[i].key()] = c.findingPath(volume, r, &found[i])
	}
	failure := ""
	found, err = c.confirmUnderLock(volume, r, ask, fixed)
	if err != nil && fixed && c.ctx.Err() == nil {
		failure, fixed = fmt.Sprintf("; the repair failed: %v", err), false
		found, err = c.confirmUnderLock(volume, r, ask, false)
	}
	if err != nil {
		return nil, false, err
	}
	for i := range found {
		path, ok := paths[found[i].key()]
		if !ok {
			path = c.findingPath(volume, r, &found[i])
		}
		err := c.report(driver.Finding{Code: r.code, Volume: rows.FormatID(volume.vol), Path: path, Detail: r.formatDetail(&found[i]) + failure, Fixed: fixed})
		if err != nil {
			return nil, false, err
		}
	}
	return found, fixed, nil
}

// confirmUnderLock returns what a query finds under the lock of the volume's row, and with fix
// repairs it. It finds nothing if the volume has been removed since.
func (c *Audit) confirmUnderLock(volume volumeID, r *rule, ask func(*[]suspect) sqldb.Query, fix bool) ([]suspect, error) {
	var list []suspect
	if c.readOnly { // without locks; one statement still sees one state
		err := c.db.RunQueries(c.ctx, ask(&list))
		return list, err
	}
	onceFor := volume.vol // a repair is made at most once, even if the answer to the commit is lost
	if !fix {
		onceFor = nil
	}
	err := c.db.RunTx(c.ctx, sqldb.TxOptions{Key: onceFor, Lazy: !fix}, func(tx sqldb.Tx) error {
		list = nil
		f := &fixer{tx: tx, vol: volume.vol, org: volume.org}
		if err := tx.RunQueries(sqldb.SelectRow(driver.ErrNotFound, []any{&f.nextIno},
			`SELECT next_ino FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing' {lock}`, volume.org, volume.vol)); err != nil {
			return err
		}
		if err := tx.RunQueries(ask(&list)); err != nil || !fix || len(list) == 0 {
			return err
		}
		emptyNamesForNil(list)
		if err := f.repairSuspects(r, list); err != nil {
			return err
		}
		tx.QueueExec(`UPDATE volumes SET generation = generation + 1 WHERE org = $1 AND id = $2`, volume.org, volume.vol)
		return nil
	})
	if errors.Is(err, driver.ErrNotFound) {
		return nil, nil
	}
	return list, err
}

// findingPath returns the path of what violates a rule.
func (c *Audit) findingPath(volume volumeID, r *rule, s *suspect) string {
	switch r.scope {
	case atInode, atAttribute:
		return c.pathOfInode(volume.vol, s.ino)
	case atEntry:
		if dir := c.pathOfInode(volume.vol, s.ino); dir != "." {
			return dir + "/" + string(s.name)
		}
		return string(s.name)
	}
	return ""
}

// pathOfInode returns one of the paths of an inode. If the way up is lost, the path begins
// with "#" and the number of the inode where it ended.
func (c *Audit) pathOfInode(vol []byte, ino int64) string {
	path := ""
	seen := map[int64]bool{}
	for ino != manifest.RootIno {
		var parent int64
		var name []byte
		var found bool
		if c.pathBudget > 0 && !seen[ino] && len(seen) < maxPaths {
			err := c.db.RunQueries(c.ctx, sqldb.SelectOne(&found, []any{&parent, &name},
				`SELECT parent, name FROM dirents WHERE vol = $1 AND ino = $2 LIMIT 1`, vol, ino))
			found = found && err == nil
		}
		seen[ino] = true
		if !found {
			name, parent = fmt.Appendf(nil, "#%d", ino), manifest.RootIno
		}
		if path != "" {
			path = "/" + path
		}
		path, ino = string(name)+path, parent
	}
	c.pathBudget--
	if path == "" {
		return "."
	}
	return path
}

// maxCycles bounds how many cycles of directories one check of a volume reports.
const maxCycles = 100

// checkCycles looks for directories that are only reachable from one another. Each finding is
// the directory of a cycle with the lowest number. Once it counts as reachable, so does what
// is beneath it.
func (c *Audit) checkCycles(volume volumeID, r *rule) error {
	var cut []int64
	for len(cut) < maxCycles {
		var lost []suspect
		if err := c.db.RunQueries(c.ctx, unreachableDirQuery(&lost, volume, cut)); err != nil || len(lost) == 0 {
			return err
		}
		low, err := c.lowestInCycle(volume.vol, lost[0].ino)
		if err != nil {
			return err
		}
		found, _, err := c.confirmAndReport(volume, r, func(list *[]suspect) sqldb.Query { return unreachableInodeQuery(list, volume, cut, low) })
		if err != nil {
			return err
		}
		if len(found) == 0 && slices.Contains(cut, low) {
			return nil // the tree changes faster than this loop walks it
		}
		cut = append(cut, low)
	}
	return nil
}

// lowestInCycle walks up from a directory that the root does not lead to, into a cycle, and
// returns the lowest number in it.
func (c *Audit) lowestInCycle(vol []byte, ino int64) (int64, error) {
	order := map[int64]int{}
	var walk []int64
	for {
		if at, ok := order[ino]; ok {
			return slices.Min(walk[at:]), nil
		}
		order[ino] = len(walk)
		walk = append(walk, ino)
		var found bool
		var parent int64
		err := c.db.RunQueries(c.ctx, sqldb.SelectOne(&found, []any{&parent},
			`SELECT e.parent FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent WHERE e.vol = $1 AND e.ino = $2 ORDER BY e.parent LIMIT 1`, vol, ino))
		if err != nil || !found {
			return ino, err // no cycle after all: the next query shows that
		}
		ino = parent
	}
}
