package conformance

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// Metadata comes with the content, exactly: of small files and large ones, new and in the
// place of others, and whether the backend takes both in one call or not.
func testWriteMeta(t *testing.T, e *env) {
	f := e.files(t)
	owner := -1
	if e.caps.Chown {
		owner = 1234
	}
	for i, mode := range append(permissions, 0) {
		p := fmt.Sprint("d", i%3, "/f", i)
		for n, size := range []int{0, 10, 300 << 10} {
			data, mtime := pattern(i, size), time.Unix(int64(1_000_000_000+i), 123_456_000)
			m := &vole.FileMeta{Mode: mode, UID: owner, GID: -1, Mtime: mtime}
			_, err := f.WriteFrom(f.ctx, p, strings.NewReader(data), vole.WriteOptions{Mode: 0o604, Meta: m})
			must(t, "write", err)
			got := f.lstat(p)
			equal(t, "mode", got.Mode, mode)
			equal(t, "time", got.Mtime.UTC(), mtime.UTC())
			equal(t, "size", got.Size, int64(len(data)))
			if owner > 0 {
				equal(t, "owner", got.UID, uint32(owner))
			}
			if n > 0 {
				must(t, "chmod to read", f.Chmod(f.ctx, p, 0o600))
				f.holds(p, data)
			}
		}
		f.remove(p)
	}
	before := f.tree()
	for what, m := range map[string]vole.FileMeta{
		"a type as mode":  {Mode: fs.ModeDir | 0o755, UID: -1, GID: -1},
		"an owner's id":   {Mode: 0o644, UID: -2, GID: -1},
		"a time too late": {Mode: 0o644, UID: -1, GID: -1, Mtime: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := f.WriteFrom(f.ctx, "refused", strings.NewReader("x"), vole.WriteOptions{Meta: &m})
		wantErr(t, what, err, vole.ErrInvalid)
	}
	f.unchanged("what was refused", before)
	start := time.Now().Add(-time.Minute)
	_, err := f.WriteFrom(f.ctx, "now", strings.NewReader("x"), vole.WriteOptions{Meta: &vole.FileMeta{Mode: 0o640, UID: -1, GID: -1}})
	must(t, "write without a time", err)
	equal(t, "of a moment ago", f.lstat("now").Mtime.After(start), true)
}
