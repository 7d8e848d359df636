package bucket

import (
	"encoding/json"
	"fmt"

	"github.com/volehq/vole/driver"
)

// row looks at a volume's own row, which a manifest begins with.
func (c *checker) row(v orgVol) error {
	var found bool
	var r volume
	err := c.ns.db.read(c.ctx, one(&found, r.dest(), `SELECT `+volumeCols+` FROM volumes v WHERE v.org = $1 AND v.id = $2 AND v.state <> 'removing'`, v.org, v.vol))
	if err != nil || !found {
		return err
	}
	if err := driver.ValidateName(r.name); err != nil {
		err := c.found(driver.Finding{Code: "bad-volume-name", Volume: idText(v.vol), Detail: fmt.Sprintf("%v; it is called by its id", err)}, func(t tx) (int64, error) {
			return changed(t, `UPDATE volumes SET name = $3, generation = generation + 1 WHERE org = $1 AND id = $2 AND name = $4`, v.org, v.vol, idText(v.vol), r.name)
		})
		if err != nil {
			return err
		}
	}
	labels := driver.Labels{}
	if r.labels != "" {
		err := json.Unmarshal([]byte(r.labels), &labels)
		if err == nil {
			err = labels.Validate()
		}
		if err != nil {
			if err := c.found(driver.Finding{Code: "bad-labels", Volume: idText(v.vol), Detail: err.Error() + "; set them anew"}, nil); err != nil {
				return err
			}
		}
	}
	if r.quota >= 0 && r.generation >= 0 && r.generation <= maxGeneration {
		return nil
	}
	return c.found(driver.Finding{Code: "bad-number", Volume: idText(v.vol),
		Detail: fmt.Sprintf("quota %d or generation %d cannot be; below 0 it becomes 0", r.quota, r.generation)}, func(t tx) (int64, error) {
		return changed(t, `UPDATE volumes SET quota = CASE WHEN quota < 0 THEN 0 ELSE quota END,
			generation = CASE WHEN generation < 0 THEN 0 ELSE generation END
			WHERE org = $1 AND id = $2 AND (quota < 0 OR generation < 0)`, v.org, v.vol)
	})
}

// rename gives inode s.have a name that it can have.
func (f *fixer) rename(s *suspect) error {
	if err := f.exec(`DELETE FROM dirents WHERE vol = $1 AND parent = $2 AND name = $3`, s.ino, s.name); err != nil {
		return err
	}
	return f.name(s.ino, safeName(string(s.name)), s.have)
}

// mode gives an inode a type, as its rows show it.
func (f *fixer) mode(s *suspect) error {
	return f.exec(`UPDATE inodes SET mode = CASE
			WHEN (mode & 61440) IN (4096, 8192, 16384, 24576, 32768, 40960, 49152) THEN mode & 65535
			WHEN ino = 1 OR EXISTS (SELECT 1 FROM dirents e WHERE e.vol = $1 AND e.parent = $2) THEN (mode & 4095) | 16384
			WHEN target IS NOT NULL THEN (mode & 4095) | 40960
			ELSE (mode & 4095) | 32768 END
		WHERE vol = $1 AND ino = $2`, s.ino)
}

// numbers puts right the numbers of an inode that cannot be.
func (f *fixer) numbers(s *suspect) error {
	return f.exec(`UPDATE inodes SET
			uid = CASE WHEN uid BETWEEN 0 AND 4294967295 THEN uid ELSE 0 END,
			gid = CASE WHEN gid BETWEEN 0 AND 4294967295 THEN gid ELSE 0 END,
			size = CASE WHEN size >= 0 THEN size ELSE coalesce((SELECT max(k.pos + k.len) FROM chunks k WHERE k.vol = $1 AND k.ino = $2), 0) END,
			alloc = CASE WHEN alloc >= 0 THEN alloc ELSE 0 END,
			rdev = CASE WHEN rdev >= 0 THEN rdev ELSE 0 END
		WHERE vol = $1 AND ino = $2`, s.ino)
}

func (f *fixer) noTarget(s *suspect) error {
	return f.exec(`UPDATE inodes SET target = NULL WHERE vol = $1 AND ino = $2`, s.ino)
}
