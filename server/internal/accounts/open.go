package accounts

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/nofollow"
	"github.com/volehq/vole/internal/sqldb"
)

//go:embed migrations
var migrations embed.FS

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
func (s *Store) openDatabase(ctx context.Context, database string, opts Options) (err error) {
	if database != "" && !sqldb.IsURL(database) {
		if err := secureFile(database); err != nil {
			return err
		}
	}
	s.db, err = sqldb.Open(ctx, sqldb.Options{
		Database:     database,
		Name:         "the accounts",
		Migrations:   migrations,
		VersionTable: versionTable,
		SchemaLock:   schemaLock,
		Application:  "vole server",
		Conns:        postgresConns,
		Patience:     opts.patience,
	})
	return err
}

// secureFile removes the rights of group and others from an existing file. SQLite gives its other
// files the mode of this one. ErrPermission: a link of another user stands in its place.
func secureFile(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := refuseForeignLinks(path); err != nil {
		return err
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || st.Mode().Perm()&0o077 == 0 || !st.Mode().IsRegular() {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	return nofollow.ChmodPath(path, 0o600)
}

// loadSigningSecret returns the secret that signs volume tokens. The first server to start makes
// it.
func (s *Store) loadSigningSecret(ctx context.Context) ([]byte, error) {
	const name = "volume tokens"
	_, err := s.exec(ctx, `INSERT INTO server_secrets (name, secret, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`,
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
