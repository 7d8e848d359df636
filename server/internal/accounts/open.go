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

// openDatabase opens a PostgreSQL URL or a SQLite path.
func (s *Store) openDatabase(ctx context.Context, database string) error {
	switch {
	case strings.HasPrefix(database, "postgres://"), strings.HasPrefix(database, "postgresql://"):
		return s.openPostgres(ctx, database)
	case database == "" || strings.Contains(database, "://"):
		// The error does not show the URL: it may contain a password.
		return driver.Errorf(driver.ErrInvalid, "the database must be the path of a SQLite file or a URL such as postgres://user@host/name")
	}
	return s.openSQLite(ctx, database)
}

// openPostgres opens the pool and migrates the schema. Creating tables can hit a unique
// violation of the catalog when two servers start at once; it passes on a retry.
func (s *Store) openPostgres(ctx context.Context, database string) error {
	cfg, err := pgx.ParseConfig(database)
	if err != nil {
		// pgx removes the password from its error only where it recognizes it, which in a
		// malformed URL it may not. So nothing of that error is shown.
		return driver.Errorf(driver.ErrInvalid, "cannot parse the URL of the database; write postgres://user:password@host:port/name, with %%XX for all but letters and digits in the password")
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

// openSQLite creates the file if need be, private to its owner, and opens it. On a full disk the
// ballast gives the room that opening takes.
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

// openSQLitePools opens a pool of readers and one connection for writing, and migrates the
// schema under a file lock, since SQLite has no advisory locks.
func (s *Store) openSQLitePools(ctx context.Context, path string) (err error) {
	if err := s.closeConnections(); err != nil { // from a first try on a full disk
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
		_ = os.Remove(path + ".lock") // waiters make a new file, see flock.Try
		_ = held.Release()
	}()
	return s.retry(ctx, neverRetry, func() error {
		return migrate.Schema{Files: migrationsFor("sqlite"), Database: "the accounts", Table: versionTable}.Up(ctx, s.write)
	})
}

// createPrivateFile makes an empty file with mode 0600, in a directory with mode 0700 if that is
// missing. SQLite gives its other files the mode of this one. A file that exists is restricted
// to its owner.
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

// makeDirDurable is os.MkdirAll with mode 0700 that syncs each new directory entry.
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
		if err := chownDir(dir, uid, gid); err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// restrictToOwner removes the rights of group and others from an existing file.
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

// openSQLiteFile opens a SQLite database; the pragmas run on every new connection.
func openSQLiteFile(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": append(pragmas, "busy_timeout(10000)")}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}

// loadSigningSecret returns the secret that signs volume tokens. The first server to start makes
// it.
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
		return nil, driver.Errorf(driver.ErrCorrupt, "the secret of volume tokens is damaged; delete its row in server_secrets to get a new one, which ends all tokens")
	}
	return secret, nil
}
