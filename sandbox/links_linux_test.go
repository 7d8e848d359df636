package sandbox

import (
	"bytes"
	"cmp"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// TestLinksAmongSandboxes prepares the directory of sandboxes as the owner of a home may:
// nothing outside of it is removed or read, and nothing waits for ever.
func TestLinksAmongSandboxes(t *testing.T) {
	const id, name = "01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f", "prepared"
	for what, put := range map[string]func(dir, outside string) error{
		"directory": func(dir, outside string) error { return os.Symlink(outside, dir) },
		"scratch": func(dir, outside string) error {
			return cmp.Or(os.Mkdir(dir, 0o700), os.Symlink(filepath.Join(outside, scratchDir), filepath.Join(dir, scratchDir)))
		},
		"lock": func(dir, outside string) error {
			return cmp.Or(os.Mkdir(dir, 0o700), os.Symlink(filepath.Join(outside, lockFile), filepath.Join(dir, lockFile)))
		},
		"log": func(dir, outside string) error {
			return cmp.Or(os.Mkdir(dir, 0o700), os.Symlink(filepath.Join(outside, logFile), filepath.Join(dir, logFile)))
		},
		"fifo": func(dir, _ string) error {
			return cmp.Or(os.Mkdir(dir, 0o700), unix.Mkfifo(filepath.Join(dir, logFile), 0o600))
		},
	} {
		for _, status := range []Status{StatusRunning, StatusStopped, ""} {
			top := t.TempDir()
			home, outside := filepath.Join(top, "home"), filepath.Join(top, "outside")
			kept := []string{scratchDir + "/deep/file", logFile, lockFile, controlFile}
			for _, f := range kept {
				path := filepath.Join(outside, f)
				if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("OUTSIDE"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			store, err := vole.Open(t.Context(), vole.Options{Home: home})
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(home, "sandboxes", id)
			old := time.Unix(1000, 0)
			if err := cmp.Or(os.MkdirAll(filepath.Dir(dir), 0o700), put(dir, outside), os.Chtimes(dir, old, old)); err != nil {
				t.Fatal(err)
			}
			if status != "" {
				prepareRow(t, home, id, name, status)
			}
			if m, err := Open(t.Context(), home, store); err == nil {
				var out bytes.Buffer
				_ = m.Logs(t.Context(), name, &out, false)
				_, _ = m.Stop(t.Context(), name, 0), m.Remove(t.Context(), name)
				if out.Len() > 0 {
					t.Errorf("%s, %q: the log is %q", what, status, out.String())
				}
				_ = m.Close()
			}
			for _, f := range kept {
				if b, err := os.ReadFile(filepath.Join(outside, f)); err != nil || string(b) != "OUTSIDE" {
					t.Errorf("%s, %q: outside of the home: %q, %v", what, status, b, err)
				}
			}
			_ = store.Close()
		}
	}
}

// TestSweepTakesSandboxesOnly checks that what is swept is what was a sandbox, and that no
// other name reaches further than its directory.
func TestSweepTakesSandboxesOnly(t *testing.T) {
	const id = "01a2294f-ca88-75e8-a9d7-8ecd17ab9f3f"
	home := filepath.Join(t.TempDir(), "home")
	store, err := vole.Open(t.Context(), vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	old := time.Unix(1000, 0)
	for _, name := range []string{id, "*", "[0-9]*", ".probe-1"} {
		dir := filepath.Join(home, "sandboxes", name)
		if err := cmp.Or(os.MkdirAll(filepath.Join(dir, scratchDir, "x"), 0o700), os.Chtimes(dir, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(t.Context(), home, store)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	list, err := os.ReadDir(filepath.Join(home, "sandboxes"))
	if err != nil || len(list) != 2 || list[0].Name() != "*" || list[1].Name() != "[0-9]*" {
		t.Errorf("left: %v, %v", list, err)
	}
}

// prepareRow adds the row of a sandbox, as the owner of a home may.
func prepareRow(t *testing.T, home, id, name string, status Status) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(home, "catalog.db"))
	if err == nil {
		_, err = db.Exec(`INSERT INTO sandboxes VALUES (?, ?, ?, '[]', 'host', 'crun', 1, '[]', 1, NULL, '', 1, 1, 0)`, id, name, string(status))
	}
	if err := cmp.Or(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
