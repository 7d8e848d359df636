//go:build unix

package local

import (
	"fmt"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// The catalog is not trusted more than any other file: its ids become names of directories
// and files, some of which are removed. So each id is checked where its row is read, before
// anything is done with it.

// errBadRow is matched by the errors of validateRow and validateIDs, besides ErrCorrupt.
var errBadRow = driver.Errorf(driver.ErrCorrupt, "the catalog has a row that Vole has not written")

// validateIDs returns an error for strings that are not ids.
func validateIDs(ids ...string) error {
	for _, id := range ids {
		if !driver.IsID(id) {
			return driver.Errorf(errBadRow, "the catalog has the id %q, which is none: somebody has changed it; 'vole doctor' tells more, or restore catalog.db from a backup", id)
		}
	}
	return nil
}

// scanID reads a row of one id. ErrCorrupt: it is none.
func scanID(scan catalog.Scanner) (string, error) {
	id, err := catalog.ScanColumn[string](scan)
	if err != nil {
		return "", err
	}
	return id, validateIDs(id)
}

// validateRow returns an error for a row that no version of Vole writes.
func validateRow(id, name, kind string) error {
	if err := validateIDs(id); err != nil {
		return err
	}
	if driver.ValidateName(name) != nil {
		return driver.Errorf(errBadRow, "the catalog has a volume (%s) of the name %q, which is none: somebody has changed it; 'vole doctor' tells more, or restore catalog.db from a backup", id, name)
	}
	if k := driver.Kind(kind); k != driver.KindDir && k != driver.KindDisk {
		return driver.Errorf(errBadRow, "the catalog has a volume (%s) of the kind %q, which there is not: somebody has changed it; 'vole doctor' tells more, or restore catalog.db from a backup", id, kind)
	}
	return nil
}

// badRow is a row that Check found, by the value of a column.
type badRow struct{ table, id string }

// checkRowIDs reports rows with an invalid id, name or kind. Nothing on disk can belong to them.
func (c *checker) checkRowIDs() error {
	bad, err := c.findBadVolumes()
	if err != nil {
		return err
	}
	for _, ids := range []struct{ table, query string }{
		{"attachments", `SELECT id FROM attachments UNION SELECT volume FROM attachments UNION SELECT process FROM attachments`},
		{"counting", `SELECT volume FROM counting UNION SELECT process FROM counting`},
		{"sandboxes", `SELECT id FROM sandboxes`}, // rows of package sandbox
	} {
		list, err := catalog.Select(c.ctx, c.b.db, catalog.ScanColumn[string], ids.query)
		if err != nil {
			return err
		}
		for _, id := range list {
			if validateIDs(id) != nil {
				bad = append(bad, badRow{ids.table, id})
			}
		}
	}
	for _, r := range bad {
		err := c.reportFinding("bad-row", "", catalogName, fmt.Sprintf("a row of %s (%q) has an id, a name or a kind that Vole gives to none: somebody has changed the catalog; the row is dropped", r.table, r.id),
			func() error { return c.deleteBadRow(r) })
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteBadRow deletes a row, and with a volume all that refers to it.
func (c *checker) deleteBadRow(r badRow) error {
	return c.b.db.Write(c.ctx, catalog.Durable, func(tx *catalog.Tx) error {
		for _, q := range map[string][]string{
			"volumes": {`DELETE FROM counting WHERE volume = ?`, `DELETE FROM attachments WHERE volume = ?`, `DELETE FROM volumes WHERE id = ?`},
			// By all of its columns: each of them may be the bad one.
			"attachments": {`DELETE FROM attachments WHERE id = ?1 OR volume = ?1 OR process = ?1`},
			"sandboxes":   {`DELETE FROM sandboxes WHERE id = ?`},
			"counting":    {`DELETE FROM counting WHERE volume = ?1 OR process = ?1`},
		}[r.table] {
			if _, err := tx.Exec(q, r.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// findBadVolumes returns the rows of volumes that validateRow refuses.
func (c *checker) findBadVolumes() ([]badRow, error) {
	type volume struct{ id, name, kind, owner string }
	rows, err := catalog.Select(c.ctx, c.b.db, func(scan catalog.Scanner) (v volume, err error) {
		return v, scan(&v.id, &v.name, &v.kind, &v.owner)
	}, `SELECT id, name, kind, owner FROM volumes`)
	var bad []badRow
	for _, v := range rows {
		err := validateRow(v.id, v.name, v.kind)
		if err == nil && v.owner != "" {
			err = validateIDs(v.owner)
		}
		if err != nil {
			bad = append(bad, badRow{"volumes", v.id})
		}
	}
	return bad, err
}
