package accounts

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/flock"
	"github.com/volehq/vole/internal/migrate"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

const (
	// versionTable keeps the version of the schema: not the default table, which in a
	// shared database is that of package bucket.
	versionTable = "vole_server_version"
	// schemaLock is the advisory lock under which PostgreSQL is migrated,
	// and not that of package bucket: "volesrv1".
	schemaLock = 0x766f6c6573727631
	// postgresConns is how many connections a server has to PostgreSQL.
	postgresConns = 16
)

func (s *Store) openDatabase(ctx context.Context, database string) error {
	switch {
	case strings.HasPrefix(database, "postgres://"), strings.HasPrefix(database, "postgresql://"):
		return s.openPostgres(ctx, database)
	case database == "" || strings.Contains(database, "://"):
		// The URL stays out of it: it may have a password.
		return driver.Errorf(driver.ErrInvalid, "the database is the path of a SQLite file or a URL as in postgres://user@host/name")
	}
	return s.openSQLite(ctx, database)
}

func (s *Store) openPostgres(ctx context.Context, database string) error {
	cfg, err := pgx.ParseConfig(database)
	if err != nil {
		// pgx takes the password out of its error where it finds it, which in a URL that
		// is wrong it may not. So nothing of that error is shown.
		return driver.Errorf(driver.ErrInvalid, "the address of the database cannot be read; write postgres://user:password@host:port/name, with %%XX for what is neither letter nor digit in the password")
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "vole server"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 5 * time.Second
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(postgresConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.read, s.write, s.postgres = db, db, true
	return s.retry(ctx, func(err error) bool { return isTransient(err) || isUniqueViolation(err) }, func() error {
		return migrate.Schema{Files: migrationsFor("postgres"), Database: "the accounts", Table: versionTable, Lock: schemaLock}.Up(ctx, db)
	})
}

func (s *Store) openSQLite(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := refuseForeignLinks(path); err != nil {
		return err
	}
	if err := createPrivateFile(path); err != nil {
		return err
	}
	s.ballast, s.closeBallast = ballast.OpenDir(filepath.Dir(path))
	return s.ballast.Opening(func() error { return s.openSQLitePools(ctx, path) })
}

// openSQLitePools opens the connections to a SQLite database and brings its schema up to date.
func (s *Store) openSQLitePools(ctx context.Context, path string) (err error) {
	if err := s.closeConnections(); err != nil { // of a first try, on a full disk
		return err
	}
	if s.read, err = openSQLiteFile(path, "query_only(1)"); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(runtime.GOMAXPROCS(0) + 2)
	s.read.SetMaxIdleConns(runtime.GOMAXPROCS(0) + 2)
	if s.write, err = openSQLiteFile(path, "journal_mode(WAL)", "synchronous(FULL)"); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	held, err := flock.Wait(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer func() {
		_ = os.Remove(path + ".lock") // who waits for it makes another, see flock.Try
		_ = held.Release()
	}()
	return s.retry(ctx, neverRetry, func() error {
		return migrate.Schema{Files: migrationsFor("sqlite"), Database: "the accounts", Table: versionTable}.Up(ctx, s.write)
	})
}

// refuseForeignLinks refuses a database that leads elsewhere by a link which another user
// made, as the owner of a home may: the file there would be written and closed to others. Its
// directory counts, too.
func refuseForeignLinks(path string) error {
	for _, p := range []string{filepath.Dir(path), path, path + "-wal", path + "-shm", path + "-journal"} {
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK && st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
			return driver.Errorf(driver.ErrPermission, "%s is a symbolic link that another user (%d) has made; name the file itself", p, st.Uid)
		}
	}
	return nil
}

// createPrivateFile makes an empty file that only its owner can read, in a directory that only
// its owner can see when that is missing too. SQLite gives the files beside it the same
// mode.
func createPrivateFile(path string) error {
	dir := filepath.Dir(path)
	if err := makeDirDurable(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return restrictToOwner(path)
	}
	if err != nil {
		return err
	}
	uid, gid, err := inheritedOwner(path)
	if err == nil && uid >= 0 {
		err = f.Chown(uid, gid)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// inheritedOwner returns to whom what root makes at path is to belong: to the owner of the
// directory above it, who may have no root to start the server, and whom it would lock out.
// uid is negative when that is this user.
func inheritedOwner(path string) (uid, gid int, err error) {
	var st unix.Stat_t
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	if err := unix.Stat(filepath.Dir(path), &st); err != nil || st.Uid == 0 {
		return -1, -1, err
	}
	return int(st.Uid), int(st.Gid), nil
}

// makeDirDurable is os.MkdirAll with mode 0700; what it makes survives a power cut.
func makeDirDurable(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirDurable(filepath.Dir(dir)); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return durable.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return err
	}
	if uid, gid, err := inheritedOwner(dir); err != nil {
		return err
	} else if uid >= 0 {
		n, err := nofollow.Open(unix.AT_FDCWD, dir)
		if err != nil {
			return err
		}
		err = n.Chown(uid, gid)
		n.Close()
		if err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// restrictToOwner takes the rights of others away from a file that was there.
func restrictToOwner(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o077 == 0 || !st.Mode().IsRegular() {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	return nofollow.ChmodPath(path, 0o600)
}

// openSQLiteFile opens a SQLite database; pragmas are run on every new connection.
func openSQLiteFile(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": append(pragmas, "busy_timeout(10000)")}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}

// loadSigningSecret returns the secret that volume tokens are signed with. The first of all
// servers to come here makes it.
func (s *Store) loadSigningSecret(ctx context.Context) ([]byte, error) {
	const name = "volume tokens"
	_, err := s.execRetrying(ctx, `INSERT INTO server_secrets (name, secret, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`,
		name, randomBytes(signingSecretLen), catalog.Nanos(s.clock()))
	if err != nil {
		return nil, err
	}
	var secret []byte
	found, err := s.queryOne(ctx, []any{&secret}, `SELECT secret FROM server_secrets WHERE name = $1`, name)
	switch {
	case err != nil:
		return nil, err
	case !found || len(secret) != signingSecretLen:
		return nil, driver.Errorf(driver.ErrCorrupt, "the secret of volume tokens is damaged; delete its row of server_secrets to have another, which ends all tokens")
	}
	return secret, nil
}
