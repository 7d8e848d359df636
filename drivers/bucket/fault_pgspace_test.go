//go:build linux

package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// smallTablespace is a tablespace of PostgreSQL on a disk of that many bytes. It returns the
// place of the disk.
func smallTablespace(t *testing.T, name string, size int) string {
	t.Helper()
	admin := servers.PG(t)
	owner, err := user.Lookup("postgres")
	if err != nil || os.Getuid() != 0 {
		t.Skip("a small tablespace needs root and the user postgres")
	}
	dir, err := os.MkdirTemp("", "vole-tablespace-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700,uid=%s", size, owner.Uid)); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	query := func(ctx context.Context, sql string) {
		conn, err := pgx.Connect(ctx, admin)
		if err == nil {
			_, err = conn.Exec(ctx, sql)
			err = errors.Join(err, conn.Close(ctx))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	query(t.Context(), fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, dir))
	t.Cleanup(func() { query(context.WithoutCancel(t.Context()), "DROP TABLESPACE "+name) })
	return dir
}

// TestFullPostgres writes until PostgreSQL has no room for its tables. Calls fail with
// ErrNoSpace, nothing that was there is harmed, and with room all goes on.
func TestFullPostgres(t *testing.T) {
	t.Parallel()
	disk := smallTablespace(t, "vole_small", 3<<20)
	url := servers.PG(t)
	url += map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "default_tablespace=vole_small"
	opts := bucket.Options{Database: url, Blobs: filepath.Join(t.TempDir(), "blobs"), Maintain: -1}
	s, _, f := openShared(t, opts)
	want := fileTree{}
	writeOld(t, f, want)
	writeUntilFull(t, f, want, 14<<10)
	mustSeeAll(t, s, want, "with a full database")
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", 64<<20)); err != nil {
		t.Fatal(err)
	}
	writeWithRoom(t, s, f, want)
}
