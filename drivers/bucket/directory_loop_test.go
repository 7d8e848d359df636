package bucket_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/transfer"
)

// A directory that rows put within itself, as only a writer of the database can, is copied
// until it leads back, and no further.
func TestDirectoryLoop(t *testing.T) {
	t.Parallel()
	opts := bucket.Options{Dir: t.TempDir(), Maintain: -1}
	_, v, f := openShared(t, opts)
	if err := f.WriteFile(t.Context(), "a/b/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := f.Lstat(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Lstat(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.MustParse(v.ID())
	db, err := sql.Open("sqlite", "file:"+filepath.Join(opts.Dir, "namespace.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, id[:], b.Inode, []byte("loop"), a.Inode); err != nil {
		t.Fatal(err)
	}
	host, err := transfer.OpenHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for what, walk := range map[string]func(ctx context.Context) error{
		"tar": func(ctx context.Context) error {
			_, err := transfer.ToTar(ctx, io.Discard, f, ".", "", transfer.Options{})
			return err
		},
		"copy": func(ctx context.Context) error {
			_, err := transfer.Copy(ctx, host, ".", transfer.Volume(f), ".", transfer.Options{})
			return err
		},
		"copy of a part": func(ctx context.Context) error {
			_, err := transfer.Copy(ctx, host, "part", transfer.Volume(f), "a/b", transfer.Options{Parallel: 4})
			return err
		},
		"need": func(ctx context.Context) error {
			_, err := transfer.NeedOf(ctx, transfer.Volume(f), ".")
			return err
		},
	} {
		if err := walk(t.Context()); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
