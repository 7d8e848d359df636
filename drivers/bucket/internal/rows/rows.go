// Package rows is the ground that all parts of the bucket driver share: it opens the database of a
// namespace, whose tables are in migrations, and has the SQL that more than one part needs.
package rows

import (
	"context"
	"embed"

	"github.com/google/uuid"
	"github.com/volehq/vole/internal/sqldb"
)

//go:embed migrations
var migrations embed.FS

// schemaLock is the key of the advisory lock for migrations. It is the one of the tool goose,
// which earlier releases of Vole used, so that they wait too.
const schemaLock = 4097083626

// placeholders are those of the queries of a namespace, beside those of package sqldb.
var placeholders = map[string]sqldb.Translation{
	// Merges up to $2 rows of unreferenced of organisation $1 into one. In SQLite the triggers
	// keep one row.
	"{fold}": {
		Postgres: `WITH folded AS (DELETE FROM unreferenced WHERE id IN (SELECT id FROM unreferenced WHERE org = $1 ORDER BY id LIMIT $2) RETURNING bytes)
			INSERT INTO unreferenced (org, bytes) SELECT CAST($1 AS BYTEA), sum(bytes) FROM folded HAVING count(*) > 0`,
		SQLite: `SELECT $1, $2`,
	},
	// Tells the planner how large the table tree is.
	"{analyze}": {Postgres: `ANALYZE tree`, SQLite: `SELECT 1`},
}

// Open opens the database that opts name, and brings its tables up to date. The caller sets what
// differs between processes. A change to a volume is made at most once if its transaction has the
// volume's id as its key.
func Open(ctx context.Context, opts sqldb.Options) (sqldb.DB, error) {
	opts.Name, opts.Application = "the database", "vole"
	opts.Migrations, opts.SchemaLock, opts.Placeholders = migrations, schemaLock, placeholders
	opts.Receipts = sqldb.Receipts{
		Lock:  `SELECT 1 FROM volumes WHERE id = $1 FOR UPDATE`,
		Find:  `SELECT 1 FROM ops WHERE vol = $1 AND op = $2`,
		Leave: `INSERT INTO ops (vol, op, at) VALUES ($1, $2, {now})`,
	}
	return sqldb.Open(ctx, opts)
}

// FormatID returns an id as users see it, or "" if it has another length.
func FormatID(b []byte) string {
	id, err := uuid.FromBytes(b)
	if err != nil {
		return ""
	}
	return id.String()
}

// LockOrgQuery keeps others from registering blobs of the organisation until the transaction
// ends.
func LockOrgQuery(org []byte) sqldb.Query {
	return sqldb.SelectOne(new(bool), []any{new(int)}, `SELECT 1 FROM orgs WHERE id = $1 {guard}`, org)
}

// MeasureVolume computes what the column used of a volume ($1) caches.
const MeasureVolume = `SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM inodes WHERE vol = $1 AND mode BETWEEN 32768 AND 36863`

// CountMetadata computes what the columns entries and metadata of a volume ($1) cache.
const CountMetadata = `SELECT (SELECT count(*) FROM dirents WHERE vol = $1), CAST(` + MetadataBytes + ` AS BIGINT)`

// MetadataBytes sums the bytes of names, link targets and attributes of a volume ($1).
const MetadataBytes = `((SELECT coalesce(sum(length(name)), 0) FROM dirents WHERE vol = $1)
	+ (SELECT coalesce(sum(coalesce(length(target), 0) + xattr_bytes), 0) FROM inodes WHERE vol = $1))`

// CountXattrs sets the column xattr_bytes of the inodes of a volume ($1), which caches this
// sum.
const CountXattrs = `UPDATE inodes SET xattr_bytes = (SELECT CAST(coalesce(sum(length(x.name) + length(x.value)), 0) AS BIGINT)
	FROM xattrs x WHERE x.vol = $1 AND x.ino = inodes.ino)
	WHERE vol = $1 AND ino IN (SELECT ino FROM xattrs WHERE vol = $1)`
