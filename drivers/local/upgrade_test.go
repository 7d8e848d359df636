//go:build unix

package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/migrate"
)

// downgrade gives a home that nobody has open a catalog of an earlier version with the same
// volumes.
func downgrade(t *testing.T, home string, version int64) {
	t.Helper()
	catalog, newer := filepath.Join(home, "catalog.db"), filepath.Join(home, "newer.db")
	must(t, os.Rename(catalog, newer))
	db := openSQL(t, home)
	schema := migrate.Schema{Files: os.DirFS("../../internal/catalog/migrations"), Database: "the catalog"}
	must(t, schema.UpTo(t.Context(), db, version))
	var columns string
	must(t, db.QueryRow(`SELECT group_concat(name, ', ') FROM pragma_table_info('volumes')`).Scan(&columns))
	for _, q := range []string{
		`ATTACH '` + newer + `' AS newer`,
		`INSERT INTO volumes (` + columns + `) SELECT ` + columns + ` FROM newer.volumes`,
		`DETACH newer`,
	} {
		_, err := db.Exec(q)
		must(t, err)
	}
	must(t, db.Close(), os.Remove(newer), os.Chmod(catalog, 0o600))
}

// A home of the version before drafts had a state of their own opens with all that it held: a
// draft whose maker died is undone, a volume in creation is finished, others are as they were.
func TestUpgradedDrafts(t *testing.T) {
	const dead = "01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f"
	ctx, home := t.Context(), filepath.Join(t.TempDir(), "home")
	s, err := vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	for _, name := range []string{"ready", "creating", "draft", "removing"} {
		_, f, err := volume(ctx, s, name, vole.Spec{Quota: vole.MiB})
		must(t, err)
		must(t, f.WriteFile(ctx, "f", []byte(name), 0o644), f.Close())
	}
	_, err = s.Create(ctx, "unused", vole.Spec{})
	must(t, err)
	_, err = s.Create(ctx, "disk", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	must(t, err, s.Close())
	downgrade(t, home, 4)
	sqlIn(t, home,
		`UPDATE volumes SET state = 'creating', owner = '`+dead+`' WHERE name = 'creating'`,
		`UPDATE volumes SET state = 'creating', made = 2, owner = '`+dead+`' WHERE name = 'draft'`,
		`UPDATE volumes SET state = 'removing', made = 2, owner = '`+dead+`' WHERE name = 'removing'`)

	s, err = vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	defer closeChecked(t, s)
	for _, name := range []string{"draft", "removing"} {
		if _, err := s.Get(ctx, name); !errors.Is(err, vole.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"ready", "creating"} {
		v, err := s.Get(ctx, name)
		must(t, err)
		f, err := v.FS(ctx)
		must(t, err)
		if data, err := f.ReadFile(ctx, "f"); string(data) != name || v.Info().Used != vole.Size(len(name)) {
			t.Errorf("%s holds %q, %v: %+v", name, data, err, v.Info())
		}
		must(t, f.Close())
	}
	for _, name := range []string{"unused", "disk"} {
		v, err := s.Get(ctx, name)
		must(t, err)
		f, err := v.FS(ctx)
		must(t, err)
		must(t, f.WriteFile(ctx, "f", []byte("new"), 0o644), f.Close())
	}
	if left, err := os.ReadDir(filepath.Join(home, "volumes")); err != nil || len(left) != 4 {
		t.Errorf("volumes/ holds %v, %v", left, err)
	}
}

// A process of an older version that still has the catalog open makes no draft there, which
// this version would take for a volume in creation, and publish when its maker dies.
func TestNoDraftsOfOlderVersions(t *testing.T) {
	home, s, _ := homeWith(t, vole.Spec{})
	db := openSQL(t, home)
	defer db.Close()
	_, err := db.Exec(`INSERT INTO volumes (id, name, kind, state, created, updated, owner, made)
		VALUES ('01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f', 'draft', 'dir', ?, 1, 1, '01a2294f-ca88-75e8-a9d7-8ecd17ab9f3e', 2)`, string(driver.StateCreating))
	if err == nil || !strings.Contains(err.Error(), "CHECK") {
		t.Errorf("inserted: %v", err)
	}
	if n := len(listed(t, s)); n != 1 {
		t.Errorf("%d volumes", n)
	}
}

func listed(t *testing.T, s *vole.Store) (names []string) {
	t.Helper()
	for v, err := range s.Volumes(t.Context(), vole.Filter{}) {
		must(t, err)
		names = append(names, v.Name())
	}
	return names
}
