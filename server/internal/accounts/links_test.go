package accounts

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
)

// TestLinksOfOthers has another user put links in the place of the database: what they lead
// to is neither written nor closed to others.
func TestLinksOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's link")
	}
	for _, suffix := range []string{"", "-wal", "-journal"} {
		dir := t.TempDir()
		outside, path := filepath.Join(dir, "outside"), filepath.Join(dir, "accounts.db")
		if err := errors.Join(os.WriteFile(outside, nil, 0o644), os.Symlink(outside, path+suffix), os.Lchown(path+suffix, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), path, Options{})
		if !errors.Is(err, driver.ErrPermission) {
			t.Errorf("accounts.db%s: %v", suffix, err)
		}
		if err == nil {
			s.Close()
		}
		if st, err := os.Stat(outside); err != nil || st.Size() != 0 || st.Mode().Perm() != 0o644 {
			t.Errorf("accounts.db%s: outside is %v, %v", suffix, st, err)
		}
	}
}
