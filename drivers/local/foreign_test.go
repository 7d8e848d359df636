//go:build unix

package local_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// preparedHome makes a home with a volume v that holds a file, and a directory outside of
// it that nothing may touch.
func preparedHome(t *testing.T) (home, canary string) {
	t.Helper()
	top := t.TempDir()
	home, canary = filepath.Join(top, "home"), filepath.Join(top, "canary")
	must(t, os.MkdirAll(filepath.Join(canary, "data", "deep"), 0o700),
		os.WriteFile(filepath.Join(canary, "data", "f"), []byte("CANARY"), 0o600),
		os.WriteFile(filepath.Join(canary, "data", "deep", "f"), []byte("CANARY"), 0o600))
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	v, err := s.Create(t.Context(), "v", vole.Spec{})
	must(t, err)
	f, err := v.FS(t.Context())
	must(t, err)
	must(t, f.WriteFile(t.Context(), "f", []byte("inside"), 0o644), f.Close(), s.Close())
	return home, canary
}

// sqlIn runs statements in the catalog of a home, as its owner may.
func sqlIn(t *testing.T, home string, statements ...string) {
	t.Helper()
	db := openSQL(t, home)
	for _, q := range statements {
		_, err := db.Exec(q)
		must(t, err)
	}
	must(t, db.Close())
}

// openSQL opens the catalog of a home past all that Vole checks.
func openSQL(t *testing.T, home string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(home, "catalog.db")+"?_pragma=foreign_keys(0)")
	must(t, err)
	db.SetMaxOpenConns(1)
	return db
}

// untouched checks that nothing outside of the home was removed or changed.
func untouched(t *testing.T, what, canary string) {
	t.Helper()
	for _, name := range []string{"data/f", "data/deep/f"} {
		if data, err := os.ReadFile(filepath.Join(canary, name)); err != nil || string(data) != "CANARY" {
			t.Fatalf("%s: %s outside of the home: %q, %v", what, name, data, err)
		}
	}
	if list, err := os.ReadDir(filepath.Join(canary, "data")); err != nil || len(list) != 2 {
		t.Fatalf("%s: the directory outside: %v, %v", what, list, err)
	}
}

// useHome does with a home all that commands do, and returns the first error.
func useHome(ctx context.Context, home string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := vole.Open(ctx, vole.Options{Home: home, ForeignHome: true})
	if err != nil {
		return err
	}
	var first error
	note := func(err error) {
		if first == nil && err != nil {
			first = err
		}
	}
	for _, err := range s.Volumes(ctx, vole.Filter{}) {
		note(err)
	}
	_, err = s.Attachments(ctx)
	note(err)
	v, err := s.Get(ctx, "v")
	if err == nil {
		note(useVolume(ctx, v))
	} else {
		note(err)
	}
	found := false
	for _, fix := range []bool{false, true} {
		note(s.Check(ctx, vole.CheckOptions{Fix: fix}, func(vole.Finding) error { found = true; return nil }))
	}
	note(s.Close())
	if first == nil && found {
		first = errFound
	}
	return first
}

var errFound = errors.New("the check has found something")

func useVolume(ctx context.Context, v *vole.Volume) error {
	var errs []error
	f, err := v.FS(ctx)
	if err == nil {
		_, err = f.ReadFile(ctx, "f")
		errs = append(errs, err, f.WriteFile(ctx, "data/f", []byte("changed"), 0o644), f.RemoveAll(ctx, "deep"), f.Close())
	} else {
		errs = append(errs, err)
	}
	_, err = v.Measure(ctx)
	errs = append(errs, err)
	a, err := v.Attach(ctx, vole.AttachOptions{HostPath: true})
	if err == nil {
		err = a.Detach(ctx)
	}
	return errors.Join(append(errs, err, v.Remove(ctx))...)
}

func TestForeignHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's home")
	}
	home, _ := preparedHome(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(home, link))
	must(t, os.Lchown(link, nobody, nobody))
	s, err := vole.Open(t.Context(), vole.Options{Home: link}) // the link itself is no matter
	must(t, err)
	must(t, s.Close(), os.Chown(home, nobody, nobody))
	for _, readOnly := range []bool{false, true} {
		for _, path := range []string{home, link} {
			s, err := vole.Open(t.Context(), vole.Options{Home: path, ReadOnly: readOnly})
			if !errors.Is(err, vole.ErrPermission) || !strings.Contains(err.Error(), `"nobody"`) {
				t.Errorf("open another's home, read-only %v: %v", readOnly, err)
			}
			if err == nil {
				s.Close()
			}
		}
		s, err := vole.Open(t.Context(), vole.Options{Home: home, ReadOnly: readOnly, ForeignHome: true})
		if err != nil {
			t.Errorf("open another's home on purpose, read-only %v: %v", readOnly, err)
			continue
		}
		if _, err := s.Get(t.Context(), "v"); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	must(t, os.Chown(home, 0, 0), os.Chown(filepath.Join(home, "volumes"), nobody, nobody))
	if s, err := vole.Open(t.Context(), vole.Options{Home: home}); !errors.Is(err, vole.ErrPermission) {
		t.Errorf("another's volumes in a home of one's own: %v", err)
		s.Close()
	}
}

// TestFilesOfOthersInHome puts files of another user beside the catalog, as is possible in
// a home that was open to others.
func TestFilesOfOthersInHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's files")
	}
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		home, _ := preparedHome(t)
		name := filepath.Join(home, "catalog.db"+suffix)
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		must(t, f.Close(), os.Chown(name, nobody, nobody))
		s, err := vole.Open(t.Context(), vole.Options{Home: home})
		if !errors.Is(err, vole.ErrPermission) {
			t.Errorf("catalog.db%s of another: %v", suffix, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

// TestHostileRows puts paths where the catalog has ids.
func TestHostileRows(t *testing.T) {
	const dead = "01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f"
	for name, q := range map[string]string{
		"ready":     `UPDATE volumes SET id = ?`,
		"creating":  `UPDATE volumes SET id = ?, state = 'creating', owner = '` + dead + `'`,
		"removing":  `UPDATE volumes SET id = ?, state = 'removing', owner = '` + dead + `'`,
		"draft":     `UPDATE volumes SET id = ?, state = 'draft', owner = '` + dead + `'`,
		"disk":      `UPDATE volumes SET id = ?, kind = 'disk'`,
		"owner":     `UPDATE volumes SET state = 'removing', owner = ?`,
		"name":      `UPDATE volumes SET name = ?`,
		"kind":      `UPDATE volumes SET kind = ?`,
		"counting":  `INSERT INTO counting (volume, process) VALUES (?, '` + dead + `')`,
		"process":   `INSERT INTO counting (volume, process) SELECT id, ? FROM volumes`,
		"attached":  `INSERT INTO attachments VALUES ('` + dead + `', ?, '` + dead + `', 'h', 0, 1, 'h', 1, 1, 1)`,
		"attacher":  `INSERT INTO attachments SELECT '` + dead + `', id, ?, 'h', 0, 1, 'h', 1, 1, 1 FROM volumes`,
		"sandboxes": `INSERT INTO sandboxes VALUES (?, 'n', 'running', '[]', 'host', 'crun', 1, '[]', 1, NULL, '', 1, 1, 0)`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, id := range []string{"../../canary", "", "CANARY"} {
				home, canary := preparedHome(t)
				if id == "CANARY" {
					id = canary
				}
				sqlIn(t, home, strings.Replace(q, "?", "'"+id+"'", 1))
				if err := useHome(t.Context(), home); err == nil && id != "" {
					t.Errorf("%q: nobody noticed", id)
				}
				untouched(t, name+" "+id, canary)
				// Check has dropped the row.
				s, err := vole.Open(t.Context(), vole.Options{Home: home})
				must(t, err)
				must(t, s.Check(t.Context(), vole.CheckOptions{}, func(f vole.Finding) error {
					t.Errorf("%q: after the repair there is still %v", id, f)
					return nil
				}), s.Close())
			}
		})
	}
}

// TestLinksInHome puts links in the place of each part of a home.
func TestLinksInHome(t *testing.T) {
	for _, part := range []string{"volumes", "locks", "locks/processes", "lost+found", "sandboxes", "catalog.db", "catalog.db-wal",
		"catalog.db-shm", "volumes/ID", "volumes/ID/data", "volumes/ID/tmp", "volumes/ID/disk.raw", "locks/ID"} {
		for what, put := range map[string]func(path, canary string) error{
			"directory": func(path, canary string) error { return os.Symlink(filepath.Join(canary, "data"), path) },
			"file":      func(path, canary string) error { return os.Symlink(filepath.Join(canary, "data", "f"), path) },
			"new file":  func(path, canary string) error { return os.Symlink(filepath.Join(canary, "data", "new"), path) },
			"fifo":      func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		} {
			home, canary := preparedHome(t)
			var id string
			db, err := sql.Open("sqlite", "file:"+filepath.Join(home, "catalog.db"))
			must(t, err)
			must(t, db.QueryRow(`SELECT id FROM volumes`).Scan(&id), db.Close())
			if strings.HasSuffix(part, "disk.raw") {
				sqlIn(t, home, `UPDATE volumes SET kind = 'disk', capacity = 1048576`)
			}
			path := filepath.Join(home, strings.Replace(part, "ID", id, 1))
			must(t, os.RemoveAll(path), put(path, canary))
			if err := useHome(t.Context(), home); err == nil && part != "volumes/ID/tmp" && part != "volumes/ID" {
				t.Errorf("%s as a %s: nobody noticed", part, what)
			}
			untouched(t, part+" as a "+what, canary)
		}
	}
}

// TestVolumeIsLink puts a link in the place of a volume's directory, to a directory that
// looks like that of a volume which holds nothing: it is neither removed nor opened up.
func TestVolumeIsLink(t *testing.T) {
	const dead = "01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f"
	for name, statement := range map[string]string{
		"unused":   `UPDATE volumes SET made = 0`,
		"ready":    `UPDATE volumes SET made = 1`,
		"creating": `UPDATE volumes SET state = 'creating', owner = '` + dead + `'`,
		"draft":    `UPDATE volumes SET state = 'draft', owner = '` + dead + `'`,
		"removing": `UPDATE volumes SET state = 'removing', owner = '` + dead + `'`,
	} {
		for _, holds := range []string{"data", "other"} {
			home, _ := preparedHome(t)
			outside := filepath.Join(filepath.Dir(home), "outside")
			must(t, os.MkdirAll(filepath.Join(outside, holds), 0o700), os.Chmod(filepath.Join(outside, holds), 0o710))
			list, err := os.ReadDir(filepath.Join(home, "volumes"))
			must(t, err)
			volume := filepath.Join(home, "volumes", list[0].Name())
			sqlIn(t, home, statement)
			must(t, os.RemoveAll(volume), os.Symlink(outside, volume))
			_ = useHome(t.Context(), home)
			left, err := os.ReadDir(outside)
			if err != nil || len(left) != 1 || left[0].Name() != holds {
				t.Fatalf("%s: the directory outside of the home holds %v, %v", name, left, err)
			}
			if info, err := left[0].Info(); err != nil || info.Mode().Perm() != 0o710 {
				t.Errorf("%s: outside of the home: %v, %v", name, info.Mode(), err)
			}
		}
	}
}
