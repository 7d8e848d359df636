package bucket_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// Rows of the database give no directory an entry whose name means another place.
func TestNamesOfRows(t *testing.T) {
	onEngines(t, time.Hour, func(t *testing.T, opts bucket.Options) {
		p := newNSFixture(t, opts)
		v := p.newVolumeFixture("v", 0)
		name := "h"
		for _, bad := range []string{"..", ".", "../x", "/etc", "a/b", "x\x00y", strings.Repeat("n", driver.MaxElemLen+1)} {
			v.execOnInode("a/g", `UPDATE dirents SET name = $3 WHERE vol = $1 AND parent = 1 AND name = $4 AND ino <> $2`, []byte(bad), []byte(name))
			name = bad
			for _, namesOnly := range []bool{false, true} {
				d, err := v.fs.OpenDir(context.Background(), ".", driver.DirOptions{NamesOnly: namesOnly})
				p.mustSucceed(err)
				if list, err := d.Read(context.Background(), 100); !errors.Is(err, driver.ErrCorrupt) {
					t.Errorf("%q: %d entries, %v", bad, len(list), err)
				}
				p.mustSucceed(d.Close())
			}
		}
	})
}
