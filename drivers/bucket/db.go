package bucket

import (
	"context"
	"strings"

	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// openDatabase opens the database that Options.Database names, with its queries timed.
func (ns *Namespace) openDatabase(ctx context.Context) (sqldb.DB, error) {
	db, err := rows.Open(ctx, sqldb.Options{Database: ns.opts.Database, ReadOnly: ns.opts.ReadOnly, Conns: ns.opts.Conns, LogRetry: ns.logRetry, Faults: ns.opts.faults})
	if err != nil {
		return nil, err
	}
	return &measuredDB{DB: db, metrics: ns.metrics}, nil
}

// lookupPath returns the inode from, if it exists, and those that names lead to one after
// another, up to the first that is missing or is no directory.
func lookupPath(db sqldb.DB, run sqldb.Runner, vol []byte, from int64, names []string) ([]inode, error) {
	var list []inode
	if db.IsRemote() {
		err := run(pathChainQuery(vol, from, names, &list))
		return list, err
	}
	// There are no round trips to save: one inode after another.
	var n inode
	var found bool
	err := run(sqldb.SelectOne(&found, n.scanDest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, vol, from))
	for err == nil && found {
		list = append(list, n)
		if len(names) == 0 || !n.isDir() {
			break
		}
		dir := n.ino
		n = inode{}
		err = run(sqldb.SelectOne(&found, n.scanDest(), `SELECT `+inodeCols+` FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
			WHERE e.vol = $1 AND e.parent = $2 AND e.name = $3`, vol, dir, []byte(names[0])))
		names = names[1:]
	}
	return list, err
}

// lookupPathQuery is lookupPath from the root of a volume as one query, which fills list. No
// rows: the volume does not exist. ok is false for engines without round trips to save.
func lookupPathQuery(db sqldb.DB, org, vol []byte, path string, list *[]inode) (q sqldb.Query, ok bool) {
	if !db.IsRemote() {
		return q, false
	}
	var names []string
	for _, elem := range splitPath(path, false) {
		names = append(names, elem.name)
	}
	q = pathChainQuery(vol, rootIno, names, list)
	q.SQL = strings.Replace(q.SQL, pathChainStart, pathChainStart+` FROM volumes v WHERE v.org = $4 AND v.id = $1 AND v.state <> 'removing'`, 1)
	q.Args = append(q.Args, org)
	return q, true
}

// pathChainStart begins the recursion of pathChainQuery.
const pathChainStart = `SELECT 0, $2::bigint`

// pathChainQuery selects the inode from and those that names lead to one after another.
func pathChainQuery(vol []byte, from int64, names []string, list *[]inode) sqldb.Query {
	bytes := make([][]byte, len(names))
	for i, n := range names {
		bytes[i] = []byte(n)
	}
	// OFFSET 0 as in {each}: otherwise a plan that was made while the tables are small reads
	// all of them, and is kept when they have grown.
	return sqldb.SelectAll(list, (*inode).scanDest, `WITH RECURSIVE w (d, ino) AS (
			`+pathChainStart+`
			UNION ALL
			SELECT w.d + 1, e.ino FROM w JOIN LATERAL (
				SELECT x.ino FROM dirents x WHERE x.vol = $1 AND x.parent = w.ino AND x.name = ($3::bytea[])[w.d + 1] OFFSET 0
			) e ON true WHERE w.d < cardinality($3::bytea[]))
		SELECT `+inodeCols+` FROM w JOIN LATERAL (SELECT * FROM inodes x WHERE x.vol = $1 AND x.ino = w.ino OFFSET 0) i ON true
		ORDER BY w.d`, vol, from, bytes)
}
