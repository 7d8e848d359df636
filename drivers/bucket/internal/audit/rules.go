package audit

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// suspect is a row of a rule's query: what may violate the rule. The meaning of have and want
// depends on the rule.
type suspect struct {
	ino        int64
	name       []byte // of an entry of directory ino, or an attribute of inode ino
	have, want int64
}

func (s *suspect) scanDest() []any { return []any{&s.ino, &s.name, &s.have, &s.want} }
func (s *suspect) key() string     { return fmt.Sprintf("%d/%s", s.ino, s.name) }

// emptyNamesForNil turns nil names, which queries take for NULL, into empty ones.
func emptyNamesForNil(list []suspect) {
	for i := range list {
		list[i].name = append([]byte{}, list[i].name...)
	}
}

// findingScope says what a finding's path is the path of.
type findingScope int

const (
	atVolume findingScope = iota
	atInode
	atEntry // of a directory
	atAttribute
)

// Codes of findings that a rebuild treats in its own way, or reports, too.
const (
	OverQuota = "over-quota"
	BadName   = "bad-name" // of a file: it has another now
)

// rule is an invariant of a volume.
type rule struct {
	code  string
	scope findingScope
	// sql selects a suspect for each violation, in the order of its key. $1 is the
	// organisation, $2 the volume. {in k} limits the key k to the current page. {live} holds if
	// the volume is not being removed, {dir i} and {file i} if inode i is one.
	sql          string
	what         string                     // describes a violation; %d are have and want
	fix          func(f *fixer, s *suspect) // nil: it cannot be repaired
	stopIfBroken bool                       // while it is violated, the rules after it mean nothing
	findsCycles  bool                       // its query is unreachableSQL
}

// formatDetail describes a violation.
func (r *rule) formatDetail(s *suspect) string {
	switch strings.Count(r.what, "%d") {
	case 1:
		return fmt.Sprintf(r.what, s.have)
	case 2:
		return fmt.Sprintf(r.what, s.have, s.want)
	}
	return r.what
}

var placeholder = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{(in|dir|file) ([^}]*)\}`)
})

// expandPlaceholders replaces the placeholders of a rule's query.
func expandPlaceholders(sql string) string {
	sql = placeholder().ReplaceAllStringFunc(sql, func(s string) string {
		m := placeholder().FindStringSubmatch(s)
		switch {
		case m[1] == "dir":
			return m[2] + `.mode BETWEEN 16384 AND 20479`
		case m[1] == "file":
			return m[2] + `.mode BETWEEN 32768 AND 36863`
		case strings.Contains(m[2], ","):
			return fmt.Sprintf(`(%s) > ($3, $6) AND (%s) <= ($4, $7)`, m[2], m[2])
		}
		return fmt.Sprintf(`%s > $3 AND %s <= $4`, m[2], m[2])
	})
	return strings.ReplaceAll(sql, `{live}`, `EXISTS (SELECT 1 FROM volumes live WHERE live.org = $1 AND live.id = $2 AND live.state <> 'removing')`)
}

// pageQuery selects the violations whose keys are greater than after and up to upto.
func (r *rule) pageQuery(list *[]suspect, volume volumeID, after, upto suspect) sqldb.Query {
	args := []any{volume.org, volume.vol, after.ino, upto.ino, checkPage}
	if r.scope == atEntry || r.scope == atAttribute {
		args = append(args, after.name, upto.name)
	}
	return suspectsQuery(list, expandPlaceholders(r.sql), args...)
}

// noName is the name of a suspect that is neither an entry nor an attribute.
const noName = `CAST('' AS {bytes})`

// orphanedInode is a condition: inode i is an orphan.
const orphanedInode = `EXISTS (SELECT 1 FROM orphans o WHERE o.vol = i.vol AND o.ino = i.ino)`

// newChunkRule returns a rule for chunks k of inodes i, with one finding per file.
func newChunkRule(code, cond, what string, fix func(*fixer, *suspect)) rule {
	return rule{code: code, scope: atInode, what: what, fix: fix,
		sql: `SELECT k.ino, ` + noName + `, count(*), min(k.pos) FROM chunks k JOIN inodes i ON i.vol = k.vol AND i.ino = k.ino AND {file i}
			LEFT {each blobs b: b.org = k.org AND b.id = k.blob}
			WHERE k.vol = $2 AND {in k.ino} AND (` + cond + `) AND {live} GROUP BY k.ino ORDER BY k.ino LIMIT $5`}
}

// volumeRules are applied in this order: a repair may reveal the next violation, and may need
// what an earlier one has repaired. No index leads from an inode to its names. Where the order
// of tables matters, queries say CROSS JOIN, whose order SQLite keeps:
// https://www.sqlite.org/optoverview.html#crossjoin
var volumeRules = []rule{
	{code: "missing-root", scope: atVolume, stopIfBroken: true, fix: (*fixer).makeRootDirectory,
		what: "the root directory is missing; it is made again, and has the entries that still exist",
		sql: `SELECT v.next_ino, ` + noName + `, v.used, v.quota FROM volumes v WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino}
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = v.id AND i.ino = 1) AND {live} LIMIT $5`},
	// The types of inodes come before all that depends on them.
	{code: "bad-mode", scope: atInode, stopIfBroken: true, fix: (*fixer).repairMode, what: "mode %d is not of any type of file; the type is guessed from the content",
		sql: `SELECT i.ino, ` + noName + `, i.mode, i.size FROM inodes i WHERE i.vol = $2 AND {in i.ino} AND (i.mode NOT BETWEEN 0 AND 65535
			OR (i.mode & 61440) NOT IN (4096, 8192, 16384, 24576, 32768, 40960, 49152)) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "root-no-directory", scope: atVolume, stopIfBroken: true, what: "the root is not a directory: its mode is %d",
		sql: `SELECT i.ino, ` + noName + `, i.mode, i.size FROM inodes i WHERE i.vol = $2 AND i.ino = 1 AND {in i.ino} AND NOT ({dir i}) AND {live} LIMIT $5`},
	{code: "file-without-inode", scope: atInode, fix: (*fixer).recreateInode,
		what: "%d bytes belong to a file whose inode is missing; it gets a new one, of %d bytes",
		sql: `SELECT k.ino, ` + noName + `, CAST(sum(k.len) AS BIGINT), max(k.pos + k.len) FROM chunks k WHERE k.vol = $2 AND {in k.ino}
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = k.vol AND i.ino = k.ino) AND {live}
			GROUP BY k.ino ORDER BY k.ino LIMIT $5`},
	{code: "bad-inode-number", scope: atInode, what: "%d is not a valid inode number",
		sql: `SELECT i.ino, ` + noName + `, i.ino, i.size FROM inodes i WHERE i.vol = $2 AND {in i.ino} AND (i.ino < 1 OR i.ino >= 4611686018427387903) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "bad-number", scope: atInode, stopIfBroken: true, fix: (*fixer).repairNumbers, what: "its size (%d), owner, group or device number is impossible; it is set to what the file holds, or to 0",
		sql: `SELECT i.ino, ` + noName + `, i.size, i.alloc FROM inodes i WHERE i.vol = $2 AND {in i.ino} AND (i.uid NOT BETWEEN 0 AND 4294967295
			OR i.gid NOT BETWEEN 0 AND 4294967295 OR i.size < 0 OR i.alloc < 0 OR i.rdev < 0) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "target-of-no-link", scope: atInode, fix: (*fixer).clearLinkTarget, what: "it has a link target of %d bytes, but is not a symbolic link; the target is removed",
		sql: `SELECT i.ino, ` + noName + `, length(i.target), i.size FROM inodes i WHERE i.vol = $2 AND {in i.ino}
			AND i.mode NOT BETWEEN 40960 AND 45055 AND i.target IS NOT NULL AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "bad-target", scope: atInode, what: "a symbolic link with an invalid target of %d bytes; the volume is not exported until it is removed",
		sql: `SELECT i.ino, ` + noName + `, coalesce(length(i.target), 0), i.size FROM inodes i WHERE i.vol = $2 AND {in i.ino} AND i.mode BETWEEN 40960 AND 45055
			AND (i.target IS NULL OR length(i.target) NOT BETWEEN 1 AND 4096 OR {has i.target 00}) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "next-inode-in-use", scope: atVolume, fix: (*fixer).raiseNextInode, what: "the number for the next inode is %d, but %d is in use",
		sql: `SELECT v.next_ino, ` + noName + `, v.next_ino, m.ino FROM volumes v JOIN (SELECT max(ino) AS ino FROM inodes WHERE vol = $2) m ON m.ino >= v.next_ino
			WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino} AND {live} LIMIT $5`},
	{code: "entry-without-directory", scope: atEntry, fix: (*fixer).removeBadDirent,
		what: "a name of inode %d in inode %d, which is not a directory; it is removed",
		sql: `SELECT e.parent, e.name, e.ino, e.parent FROM dirents e WHERE e.vol = $2 AND {in e.parent, e.name}
			AND NOT EXISTS (SELECT 1 FROM inodes p WHERE p.vol = e.vol AND p.ino = e.parent AND {dir p}) AND {live}
			ORDER BY e.parent, e.name LIMIT $5`},
	{code: "dangling-entry", scope: atEntry, fix: (*fixer).removeBadDirent, what: "a name of inode %d, which is missing; it is removed",
		sql: `SELECT e.parent, e.name, e.ino, e.parent FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND {dir p}
			WHERE e.vol = $2 AND {in e.parent, e.name}
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = e.vol AND i.ino = e.ino) AND {live}
			ORDER BY e.parent, e.name LIMIT $5`},
	{code: BadName, scope: atEntry, fix: (*fixer).renameBadEntry, what: "an invalid name of inode %d; it gets another",
		sql: `SELECT e.parent, e.name, e.ino, e.parent FROM dirents e WHERE e.vol = $2 AND {in e.parent, e.name}
			AND (length(e.name) NOT BETWEEN 1 AND 255 OR e.name IN (CAST('.' AS {bytes}), CAST('..' AS {bytes})) OR {has e.name 2f} OR {has e.name 00}) AND {live}
			ORDER BY e.parent, e.name LIMIT $5`},
	{code: "directory-with-two-names", scope: atEntry, fix: (*fixer).removeBadDirent, what: "a second name of directory %d; it is removed",
		sql: `SELECT e.parent, e.name, e.ino, e.parent FROM (
				SELECT x.parent, x.name, x.ino, row_number() OVER (PARTITION BY x.ino ORDER BY x.parent, x.name) AS nth
				FROM dirents x CROSS JOIN inodes i WHERE x.vol = $2 AND i.vol = x.vol AND i.ino = x.ino AND {dir i}) e
			WHERE (e.nth > 1 OR e.ino = 1) AND {in e.parent, e.name} AND {live} ORDER BY e.parent, e.name LIMIT $5`},
	{code: "orphan-with-name", scope: atInode, fix: (*fixer).adoptNamedOrphan,
		what: "it has a name, but is listed as having none, and would be removed; it is taken off that list",
		sql: `SELECT i.ino, ` + noName + `, i.nlink, i.size FROM orphans o CROSS JOIN inodes i
			WHERE o.vol = $2 AND i.vol = o.vol AND i.ino = o.ino AND {in o.ino}
			AND o.ino IN (SELECT e.ino FROM dirents e CROSS JOIN inodes p WHERE e.vol = $2 AND p.vol = e.vol AND p.ino = e.parent AND {dir p}) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "unreachable-inode", scope: atInode, fix: (*fixer).linkIntoLostFound, what: "no name leads to it, and it is not listed as open; it is put into lost+found",
		sql: `SELECT i.ino, ` + noName + `, i.nlink, i.size FROM inodes i LEFT JOIN (SELECT e.ino
				FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND {dir p} WHERE e.vol = $2 AND {in e.ino} GROUP BY e.ino) n ON n.ino = i.ino
			WHERE i.vol = $2 AND i.ino <> 1 AND {in i.ino} AND n.ino IS NULL AND NOT ` + orphanedInode + `
			AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "directory-cycle", scope: atInode, fix: (*fixer).breakCycle, findsCycles: true,
		what: "the directory is its own ancestor, and cannot be reached from the root; it is moved to lost+found"},
	{code: "wrong-link-count", scope: atInode, fix: setInodeColumn("nlink"), what: "the link count is %d, but there are %d names",
		sql: `SELECT i.ino, ` + noName + `, i.nlink, coalesce(n.names, 0) FROM inodes i LEFT JOIN (SELECT e.ino, count(*) AS names
				FROM dirents e JOIN inodes p ON p.vol = e.vol AND p.ino = e.parent AND {dir p} WHERE e.vol = $2 AND {in e.ino} GROUP BY e.ino) n ON n.ino = i.ino
			WHERE i.vol = $2 AND {in i.ino} AND NOT ({dir i}) AND i.nlink <> coalesce(n.names, 0) AND (n.names > 0 OR ` + orphanedInode + `)
			AND {live} ORDER BY i.ino LIMIT $5`},
	// A tree under removal loses entries one by one, and its link counts are not updated.
	{code: "wrong-link-count", scope: atInode, fix: setInodeColumn("nlink"), what: "the directory's link count is %d, but should be %d",
		sql: `SELECT i.ino, ` + noName + `, i.nlink, 2 + coalesce(n.dirs, 0) FROM inodes i LEFT JOIN (SELECT e.parent, count(*) AS dirs
				FROM dirents e JOIN inodes d ON d.vol = e.vol AND d.ino = e.ino AND {dir d} WHERE e.vol = $2 AND {in e.parent} GROUP BY e.parent) n ON n.parent = i.ino
			WHERE i.vol = $2 AND {in i.ino} AND {dir i} AND i.nlink <> 2 + coalesce(n.dirs, 0) AND NOT ` + orphanedInode + `
			AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "stray-orphan", scope: atVolume, fix: (*fixer).removeOrphanRow, what: "inode %d is listed as having no name, but is missing; it is taken off that list",
		sql: `SELECT o.ino, ` + noName + `, o.ino, o.ino FROM orphans o WHERE o.vol = $2 AND {in o.ino}
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = o.vol AND i.ino = o.ino) AND {live} ORDER BY o.ino LIMIT $5`},
	{code: "stray-attributes", scope: atVolume, fix: (*fixer).removeStrayXattrs, what: "%d attributes of inode %d, which is missing; they are removed",
		sql: `SELECT x.ino, ` + noName + `, count(*), x.ino FROM xattrs x WHERE x.vol = $2 AND {in x.ino}
			AND NOT EXISTS (SELECT 1 FROM inodes i WHERE i.vol = x.vol AND i.ino = x.ino) AND {live} GROUP BY x.ino ORDER BY x.ino LIMIT $5`},
	{code: "bad-attribute", scope: atAttribute, what: "an attribute with an invalid name or value (%d bytes); the volume is not exported until it is removed",
		sql: `SELECT x.ino, x.name, length(x.value), x.ino FROM xattrs x JOIN inodes i ON i.vol = x.vol AND i.ino = x.ino
			WHERE x.vol = $2 AND {in x.ino, x.name} AND (length(x.name) NOT BETWEEN 6 AND 255
			OR length(x.value) > 1048576 OR {has x.name 00} OR substr(x.name, 1, 5) <> CAST('user.' AS {bytes})) AND {live} ORDER BY x.ino, x.name LIMIT $5`},
	{code: "chunks-of-no-file", scope: atInode, fix: (*fixer).deleteAllChunks, what: "it is not a regular file, but has %d chunks; they are removed",
		sql: `SELECT k.ino, ` + noName + `, count(*), min(k.pos) FROM chunks k JOIN inodes i ON i.vol = k.vol AND i.ino = k.ino AND NOT ({file i})
			WHERE k.vol = $2 AND {in k.ino} AND {live} GROUP BY k.ino ORDER BY k.ino LIMIT $5`},
	newChunkRule("empty-chunk", `k.len <= 0`, "%d chunks without bytes, the first at %d; they are removed", (*fixer).deleteEmptyChunks),
	newChunkRule("bad-chunk", `k.len > 8388608 OR k.pos < 0 OR k.blob_pos < 0`,
		"%d chunks that are longer than 8 MiB or begin before 0, the first at %d", nil),
	newChunkRule("foreign-chunk", `k.org <> $1`, "%d chunks with bytes of another organisation, the first at %d", nil),
	newChunkRule("chunk-without-blob", `b.id IS NULL`, "%d chunks whose blobs have no row, the first at %d: the bytes are lost", nil),
	newChunkRule("chunk-outside-blob", `k.len > 0 AND k.blob_pos >= 0 AND k.blob_pos + k.len > b.size`,
		"%d chunks end after their blobs do, the first at %d: the bytes are lost", nil),
	newChunkRule("overlapping-chunks", `(SELECT n.pos FROM chunks n WHERE n.vol = k.vol AND n.ino = k.ino AND n.pos > k.pos ORDER BY n.pos LIMIT 1) < k.pos + k.len`,
		"%d chunks overlap the next, the first at %d: it is not known which bytes are right", nil),
	newChunkRule("chunk-beyond-end", `k.len > 0 AND k.pos >= 0 AND k.pos + k.len > i.size`,
		"%d chunks end after the file does, the first at %d; they are cut there", (*fixer).trimChunksToSize),
	{code: "wrong-allocation", scope: atInode, fix: setInodeColumn("alloc"), what: "%d bytes are counted as allocated, but %d are",
		sql: `SELECT i.ino, ` + noName + `, i.alloc, coalesce(n.bytes, 0) FROM inodes i
			LEFT JOIN (SELECT k.ino, CAST(sum(k.len) AS BIGINT) AS bytes FROM chunks k WHERE k.vol = $2 AND {in k.ino} GROUP BY k.ino) n ON n.ino = i.ino
			WHERE i.vol = $2 AND {in i.ino} AND {file i} AND i.alloc <> coalesce(n.bytes, 0) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "wrong-usage", scope: atVolume, fix: setVolumeColumn("used"), what: "the volume is counted as holding %d bytes, but holds %d",
		sql: `SELECT v.next_ino, ` + noName + `, v.used, m.bytes FROM volumes v
			JOIN (SELECT CAST(coalesce(sum(i.size), 0) AS BIGINT) AS bytes FROM inodes i WHERE i.vol = $2 AND {file i}) m ON m.bytes <> v.used
			WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino} AND {live} LIMIT $5`},
	{code: "wrong-attribute-bytes", scope: atInode, fix: setInodeColumn("xattr_bytes"), what: "its attributes are counted as %d bytes, but have %d",
		sql: `SELECT i.ino, ` + noName + `, i.xattr_bytes, coalesce(n.bytes, 0) FROM inodes i
			LEFT JOIN (SELECT x.ino, CAST(sum(length(x.name) + length(x.value)) AS BIGINT) AS bytes FROM xattrs x WHERE x.vol = $2 AND {in x.ino} GROUP BY x.ino) n ON n.ino = i.ino
			WHERE i.vol = $2 AND {in i.ino} AND i.xattr_bytes <> coalesce(n.bytes, 0) AND {live} ORDER BY i.ino LIMIT $5`},
	{code: "wrong-entries", scope: atVolume, fix: setVolumeColumn("entries"), what: "the volume is counted as having %d entries, but has %d",
		sql: `SELECT v.next_ino, ` + noName + `, v.entries, m.n FROM volumes v JOIN (SELECT count(*) AS n FROM dirents WHERE vol = $2) m ON m.n <> v.entries
			WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino} AND {live} LIMIT $5`},
	{code: "wrong-metadata", scope: atVolume, fix: setVolumeColumn("metadata"), what: "names, link targets and attributes are counted as %d bytes, but take %d",
		sql: `SELECT v.next_ino, ` + noName + `, v.metadata, m.bytes FROM volumes v
			JOIN (SELECT CAST(` + strings.ReplaceAll(rows.MetadataBytes, "$1", "$2") + ` AS BIGINT) AS bytes) m ON m.bytes <> v.metadata
			WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino} AND {live} LIMIT $5`},
	{code: OverQuota, scope: atVolume, what: "the volume holds %d bytes, but its quota is %d; remove files, or raise the quota",
		sql: `SELECT v.next_ino, ` + noName + `, m.bytes, v.quota FROM volumes v
			JOIN (SELECT CAST(coalesce(sum(i.size), 0) AS BIGINT) AS bytes FROM inodes i WHERE i.vol = $2 AND {file i}) m ON v.quota > 0 AND m.bytes > v.quota
			WHERE v.org = $1 AND v.id = $2 AND {in v.next_ino} AND {live} LIMIT $5`},
}

// unreachableSQL selects the directories that are not reachable from the root, from an orphan,
// or from a finding of this or another rule: one that is in cut, or has no name. $1 is the
// volume, $2 the organisation.
func unreachableSQL(cut []int64, rest string) string {
	also := ""
	for _, ino := range cut {
		also += fmt.Sprintf(`, %d`, ino)
	}
	return expandPlaceholders(`WITH RECURSIVE s (ino) AS (
			SELECT i.ino FROM inodes i LEFT JOIN (SELECT e.ino FROM dirents e WHERE e.vol = $1 GROUP BY e.ino) n ON n.ino = i.ino
			WHERE i.vol = $1 AND {dir i} AND (i.ino IN (1` + also + `) OR ` + orphanedInode + ` OR n.ino IS NULL)
			UNION SELECT e.ino FROM s {each dirents e: e.vol = $1 AND e.parent = s.ino})
		SELECT i.ino, ` + noName + `, i.nlink, i.size FROM inodes i LEFT JOIN s ON s.ino = i.ino
			WHERE i.vol = $1 AND {dir i} AND s.ino IS NULL AND EXISTS (SELECT 1 FROM volumes v WHERE v.org = $2 AND v.id = $1 AND v.state <> 'removing')` + rest)
}

// unreachableDirQuery selects the unreachable directory with the lowest number.
func unreachableDirQuery(list *[]suspect, volume volumeID, cut []int64) sqldb.Query {
	return suspectsQuery(list, unreachableSQL(cut, ` ORDER BY i.ino LIMIT 1`), volume.vol, volume.org)
}

// unreachableInodeQuery selects a directory if it is unreachable.
func unreachableInodeQuery(list *[]suspect, volume volumeID, cut []int64, ino int64) sqldb.Query {
	return suspectsQuery(list, unreachableSQL(cut, ` AND i.ino = $3`), volume.vol, volume.org, ino)
}

// suspectsQuery makes the query of a rule. It is setwise: its work must not grow with the
// square of a volume's rows.
func suspectsQuery(list *[]suspect, sql string, args ...any) sqldb.Query {
	ask := sqldb.SelectAll(list, (*suspect).scanDest, sql, args...)
	ask.Setwise = true
	return ask
}
