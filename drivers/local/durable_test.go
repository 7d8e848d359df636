//go:build unix

package local_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole"
)

// TestNothingUnsynced watches every operation of every step, and makes sure that when
// the step returns nothing is left that a power cut would undo: each change of a
// directory is followed by a sync, each file is synced before it gets its name.
func TestNothingUnsynced(t *testing.T) {
	for _, st := range steps {
		t.Run(st.name, func(t *testing.T) {
			home := st.setUp(t)
			var log []string
			err := st.run(t.Context(), home, func(op, what string, f func() error) error {
				log = append(log, op+" "+filepath.Base(what))
				return f()
			})
			if err != nil {
				t.Fatal(err)
			}
			trace := strings.Join(log, "\n  ")
			unsynced, written := "", false
			for _, l := range log {
				op, what, _ := strings.Cut(l, " ")
				switch op {
				case "write":
					written = true
				case "fsync", "syncfs":
					unsynced, written = "", false
				case "rename":
					if written && st.name != "build" { // a draft is synced as a whole before others see it
						t.Errorf("%s comes before the file is synced:\n  %s", l, trace)
					}
					unsynced = l
				case "create":
					// A temporary file needs no durable name.
					if uuid.Validate(what[:min(36, len(what))]) != nil {
						unsynced = l
					}
				case "mkdir", "unlink", "rmdir", "link", "symlink", "mknod", "chmod", "truncate", "punch":
					// What goes out of sight in tmp is nobody's loss.
					if what != "tmp" && st.name != "remove tree" {
						unsynced = l
					}
				}
			}
			if unsynced != "" || written {
				t.Errorf("%s is not synced:\n  %s", unsynced, trace)
			}
		})
	}
}

// TestPrivateHome looks at the modes of everything in a home, and makes sure that the
// lock file of a volume goes with it.
func TestPrivateHome(t *testing.T) {
	home, s, v := homeWith(t, vole.Spec{Quota: vole.MiB})
	f, err := v.FS(t.Context())
	must(t, err)
	must(t, f.WriteFile(t.Context(), "f", []byte("x"), 0o644))
	if _, err := os.Stat(filepath.Join(home, "locks", v.ID())); err != nil {
		t.Errorf("a volume in use has no lock file: %v", err)
	}
	n := 0
	must(t, filepath.WalkDir(home, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == "data" {
			return fs.SkipDir // the users' own; nobody gets here
		}
		n++
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return err
	}))
	if n < 10 {
		t.Errorf("only %d things in the home", n)
	}
	must(t, f.Close(), s.Remove(t.Context(), "v"))
	list, err := os.ReadDir(filepath.Join(home, "locks"))
	must(t, err)
	for _, e := range list {
		if !e.IsDir() && e.Name() != "schema" {
			t.Errorf("locks/%s outlives its volume", e.Name())
		}
	}
	if left, err := os.ReadDir(filepath.Join(home, "volumes")); err != nil || len(left) != 0 {
		t.Errorf("volumes/ holds %v, %v", left, err)
	}
}

// TestBatchSyncsOnce makes sure that many changes in batch mode cost one sync.
func TestBatchSyncsOnce(t *testing.T) {
	_, _, v, faults := faultyHomeWith(t, vole.Spec{})
	f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	must(t, err)
	must(t, f.WriteFile(t.Context(), "first", nil, 0o644)) // begins the counting, durably
	syncs := 0
	faults.Set(func(op, _ string, do func() error) error {
		if op == "fsync" || op == "syncfs" {
			syncs++
		}
		return do()
	})
	for _, name := range []string{"a", "b/c", "d/e/f"} {
		must(t, f.WriteFile(t.Context(), name, []byte(name), 0o600), f.Chmod(t.Context(), name, 0o640))
	}
	if syncs != 0 {
		t.Errorf("%d syncs before Sync", syncs)
	}
	must(t, f.Sync(t.Context()))
	if syncs != 1 {
		t.Errorf("%d syncs after Sync", syncs)
	}
	must(t, f.Close())
}
