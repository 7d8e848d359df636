package audit

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// checkVolumeRow checks a volume's own row, which begins its manifest.
func (c *Audit) checkVolumeRow(volume volumeID) error {
	var found bool
	var name, labelsJSON string
	var quota, generation int64
	err := c.db.RunQueries(c.ctx, sqldb.SelectOne(&found, []any{&name, &labelsJSON, &quota, &generation},
		`SELECT name, labels, quota, generation FROM volumes WHERE org = $1 AND id = $2 AND state <> 'removing'`, volume.org, volume.vol))
	if err != nil || !found {
		return err
	}
	if err := driver.ValidateName(name); err != nil {
		err := c.repairAndReport(driver.Finding{Code: "bad-volume-name", Volume: rows.FormatID(volume.vol), Detail: fmt.Sprintf("%v; its id becomes its name", err)}, func(tx sqldb.Tx) (int64, error) {
			return execCounting(tx, `UPDATE volumes SET name = $3, generation = generation + 1 WHERE org = $1 AND id = $2 AND name = $4`, volume.org, volume.vol, rows.FormatID(volume.vol), name)
		})
		if err != nil {
			return err
		}
	}
	labels := driver.Labels{}
	if labelsJSON != "" {
		err := json.Unmarshal([]byte(labelsJSON), &labels)
		if err == nil {
			err = labels.Validate()
		}
		if err != nil {
			if err := c.repairAndReport(driver.Finding{Code: "bad-labels", Volume: rows.FormatID(volume.vol), Detail: err.Error() + "; set them again"}, nil); err != nil {
				return err
			}
		}
	}
	if quota >= 0 && generation >= 0 && generation <= manifest.MaxGeneration {
		return nil
	}
	return c.repairAndReport(driver.Finding{Code: "bad-number", Volume: rows.FormatID(volume.vol),
		Detail: fmt.Sprintf("quota %d or generation %d is impossible; if negative it is set to 0", quota, generation)}, func(tx sqldb.Tx) (int64, error) {
		return execCounting(tx, `UPDATE volumes SET quota = CASE WHEN quota < 0 THEN 0 ELSE quota END,
			generation = CASE WHEN generation < 0 THEN 0 ELSE generation END
			WHERE org = $1 AND id = $2 AND (quota < 0 OR generation < 0)`, volume.org, volume.vol)
	})
}

// SanitizeName returns a valid name for a file whose name is invalid: a similar one, made
// unique by a hash.
func SanitizeName(name string) string {
	sum := sha256.Sum256([]byte(name))
	tail := fmt.Sprintf("~%x", sum[:8])
	name = strings.NewReplacer("/", "_", "\x00", "_").Replace(name)
	return name[:min(len(name), driver.MaxElemLen-len(tail))] + tail
}

// renameBadEntry gives inode s.have, in directory s.ino, a valid name.
func (f *fixer) renameBadEntry(s *suspect) {
	f.execOnVolume(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, s.ino, s.name)
	f.addUniqueDirent(s.ino, SanitizeName(string(s.name)), s.have)
}

// repairMode gives an inode the type that its rows look like.
func (f *fixer) repairMode(s *suspect) {
	f.execOnVolume(`UPDATE inodes SET mode = CASE
			WHEN (mode & 61440) IN (4096, 8192, 16384, 24576, 32768, 40960, 49152) THEN mode & 65535
			WHEN ino = 1 OR EXISTS (SELECT 1 FROM dirents e WHERE e.vol = $1 AND e.parent = $2) THEN (mode & 4095) | 16384
			WHEN target IS NOT NULL THEN (mode & 4095) | 40960
			ELSE (mode & 4095) | 32768 END
		WHERE vol = $1 AND ino = $2`, s.ino)
}

// repairNumbers replaces impossible numbers of an inode.
func (f *fixer) repairNumbers(s *suspect) {
	f.execOnVolume(`UPDATE inodes SET
			uid = CASE WHEN uid BETWEEN 0 AND 4294967295 THEN uid ELSE 0 END,
			gid = CASE WHEN gid BETWEEN 0 AND 4294967295 THEN gid ELSE 0 END,
			size = CASE WHEN size >= 0 THEN size ELSE coalesce((SELECT max(k.pos + k.len) FROM chunks k WHERE k.vol = $1 AND k.ino = $2), 0) END,
			alloc = CASE WHEN alloc >= 0 THEN alloc ELSE 0 END,
			rdev = CASE WHEN rdev >= 0 THEN rdev ELSE 0 END
		WHERE vol = $1 AND ino = $2`, s.ino)
}

// clearLinkTarget removes the target of an inode that is no symbolic link.
func (f *fixer) clearLinkTarget(s *suspect) {
	f.execOnVolume(`UPDATE inodes SET target = NULL WHERE vol = $1 AND ino = $2`, s.ino)
}
