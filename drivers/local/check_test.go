//go:build unix

package local_test

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole"
)

// findings runs a check and returns its codes, sorted, and whether all were repaired.
func findings(t *testing.T, s *vole.Store, fix bool) (codes []string, fixed bool) {
	t.Helper()
	fixed = true
	err := s.Check(t.Context(), vole.CheckOptions{Fix: fix}, func(f vole.Finding) error {
		codes = append(codes, f.Code)
		fixed = fixed && f.Fixed
		if f.Detail == "" {
			t.Errorf("%s says nothing", f.Code)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(codes)
	return codes, fixed
}

// execSQL changes a catalog behind the backs of those who have it open.
func execSQL(t *testing.T, home, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(home, "catalog.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

// TestCheckFinds damages a home in each way that a check knows, and repairs it.
func TestCheckFinds(t *testing.T) {
	stranger := uuid.Must(uuid.NewV7()).String()
	for _, tt := range []struct {
		code   string
		damage func(t *testing.T, home, id string)
		verify func(t *testing.T, home string, s *vole.Store)
	}{
		{"orphan-directory", func(t *testing.T, home, id string) {
			must(t, os.MkdirAll(filepath.Join(home, "volumes", stranger, "data"), 0o700),
				os.WriteFile(filepath.Join(home, "volumes", stranger, "data", "precious"), []byte("precious"), 0o600))
		}, func(t *testing.T, home string, s *vole.Store) { wantSaved(t, home, "precious") }},
		{"stray-file", func(t *testing.T, home, id string) {
			must(t, os.WriteFile(filepath.Join(home, "volumes", id, "notes"), []byte("precious"), 0o600))
		}, func(t *testing.T, home string, s *vole.Store) { wantSaved(t, home, "precious") }},
		{"missing-directory", func(t *testing.T, home, id string) {
			must(t, os.RemoveAll(filepath.Join(home, "volumes", id)))
			execSQL(t, home, `UPDATE volumes SET used = 0`)
		}, func(t *testing.T, home string, s *vole.Store) {
			v, err := s.Get(t.Context(), "v")
			must(t, err)
			f, err := v.FS(t.Context())
			must(t, err)
			must(t, f.WriteFile(t.Context(), "new", nil, 0), f.Close())
		}},
		{"usage-wrong", func(t *testing.T, home, id string) {
			execSQL(t, home, `UPDATE volumes SET used = 999`)
		}, func(t *testing.T, home string, s *vole.Store) {
			v, err := s.Get(t.Context(), "v")
			must(t, err)
			if used := v.Info().Used; used != 4 {
				t.Errorf("used %d after the repair", used)
			}
		}},
		{"labels-corrupt", func(t *testing.T, home, id string) {
			execSQL(t, home, `UPDATE volumes SET labels = 'garbage'`)
		}, func(t *testing.T, home string, s *vole.Store) {
			v, err := s.Get(t.Context(), "v")
			must(t, err)
			must(t, v.Update(t.Context(), vole.Update{SetLabels: vole.Labels{"a": "b"}}))
		}},
		{"stale-lock", func(t *testing.T, home, id string) {
			must(t, os.WriteFile(filepath.Join(home, "locks", stranger), nil, 0o600))
		}, nil},
		{"leftover-file", func(t *testing.T, home, id string) {
			must(t, os.MkdirAll(filepath.Join(home, "volumes", id, "tmp"), 0o700),
				os.WriteFile(filepath.Join(home, "volumes", id, "tmp", stranger+"-0x1-1"), nil, 0o600))
		}, nil},
		{"stray-file", func(t *testing.T, home, id string) { // among those of ours
			must(t, os.MkdirAll(filepath.Join(home, "volumes", id, "tmp", "x"), 0o700),
				os.WriteFile(filepath.Join(home, "volumes", id, "tmp", "x", "y"), []byte("precious"), 0o600))
		}, func(t *testing.T, home string, s *vole.Store) { wantSaved(t, home, "precious") }},
		{"loose-permissions", func(t *testing.T, home, id string) {
			must(t, os.Chmod(filepath.Join(home, "volumes"), 0o755))
		}, func(t *testing.T, home string, s *vole.Store) {
			info, err := os.Stat(filepath.Join(home, "volumes"))
			must(t, err)
			if info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v", info.Mode())
			}
		}},
		{"unfinished-volume", func(t *testing.T, home, id string) {
			execSQL(t, home, `INSERT INTO volumes (id, name, kind, state, created, updated, owner) VALUES (?, 'half', 'dir', 'creating', 1, 1, ?)`, stranger, stranger)
		}, func(t *testing.T, home string, s *vole.Store) {
			_, err := s.Create(t.Context(), "half", vole.Spec{})
			must(t, err)
		}},
	} {
		t.Run(tt.code, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "home")
			s, err := vole.Open(t.Context(), vole.Options{Home: home})
			must(t, err)
			v, f, err := volume(t.Context(), s, "v", vole.Spec{})
			must(t, err)
			// The figure is in the catalog only once nobody has the home open.
			must(t, f.WriteFile(t.Context(), "f", []byte("data"), 0o644), s.Close())
			s, err = vole.Open(t.Context(), vole.Options{Home: home})
			must(t, err)
			t.Cleanup(func() { closeChecked(t, s) })
			tt.damage(t, home, v.ID())

			if codes, _ := findings(t, s, false); !slices.Equal(codes, []string{tt.code}) {
				t.Fatalf("found %v", codes)
			}
			if codes, _ := findings(t, s, false); !slices.Equal(codes, []string{tt.code}) {
				t.Fatalf("looking changed something: found %v", codes)
			}
			if codes, fixed := findings(t, s, true); !slices.Equal(codes, []string{tt.code}) || !fixed {
				t.Fatalf("repairing found %v, repaired %v", codes, fixed)
			}
			if codes, _ := findings(t, s, false); len(codes) != 0 {
				t.Fatalf("after the repair: %v", codes)
			}
			if tt.verify != nil {
				tt.verify(t, home, s)
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wantSaved looks for a file with these contents in lost+found.
func wantSaved(t *testing.T, home, contents string) {
	t.Helper()
	found := false
	must(t, filepath.WalkDir(filepath.Join(home, "lost+found"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, rerr := os.ReadFile(p)
			found, err = found || string(data) == contents, rerr
		}
		return err
	}))
	if !found {
		t.Error("what no volume claims is lost, not in lost+found")
	}
}

// TestCheckManyVolumes makes sure that a check leaves no lock files behind, and stops
// when it is told to.
func TestCheckManyVolumes(t *testing.T) {
	home, s, _ := homeWith(t, vole.Spec{})
	for i := range 50 {
		_, err := s.Create(t.Context(), fmt.Sprint("w", i), vole.Spec{})
		must(t, err)
	}
	if codes, _ := findings(t, s, true); len(codes) != 0 {
		t.Errorf("found %v", codes)
	}
	list, err := os.ReadDir(filepath.Join(home, "locks"))
	must(t, err)
	for _, e := range list {
		if uuid.Validate(e.Name()) == nil {
			t.Errorf("locks/%s is left", e.Name())
		}
	}
}
