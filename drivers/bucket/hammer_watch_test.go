package bucket_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/volehq/vole"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// watcher looks at the namespace from outside while it is worked on: at files, as one
// more host, and at rows.
type watcher struct {
	h  *hammer
	fs *vole.FS
	db *sql.DB
}

func newWatcher(h *hammer) *watcher {
	vol, err := h.host().Get(context.Background(), "shared")
	h.must("get", err)
	f, err := vol.FS(context.Background())
	h.must("open", err)
	var db *sql.DB
	if h.opts.Dir != "" {
		db, err = sql.Open("sqlite", "file:"+filepath.Join(h.opts.Dir, "namespace.db")+"?mode=ro&_pragma=busy_timeout(10000)")
	} else {
		db, err = sql.Open("pgx", h.opts.Database)
	}
	h.must("open", err)
	h.t.Cleanup(func() { h.must("close", db.Close()) })
	return &watcher{h: h, fs: f, db: db}
}

// loop looks at files.
func (w *watcher) loop() {
	ctx := context.Background()
	for !w.h.over() {
		s, err := w.fs.Statfs(ctx)
		w.h.must("statfs", err)
		if s.Used > s.Total {
			w.h.fatal("the shared volume holds %d, more than its quota of %d", s.Used, s.Total)
		}
		w.flipped()
		w.copied()
		w.linked()
		for i := range commons {
			p := fmt.Sprint("arena/common/", i)
			b, err := w.fs.ReadFile(ctx, p)
			if err == nil && torn(b) != "" {
				w.h.fatal("%s is torn: %s", p, torn(b))
			}
			if err != nil && !errors.Is(err, vole.ErrNotExist) {
				w.h.fatal("read %s: %v", p, err)
			}
		}
		w.h.count("look", nil)
		time.Sleep(2 * time.Millisecond) // for the workers
	}
}

// flipped looks for a tree that always has one of two names.
func (w *watcher) flipped() {
	ctx := context.Background()
	list, err := w.fs.ReadDir(ctx, "arena/flip")
	w.h.must("list", err)
	if len(list) != 1 {
		w.h.fatal("a tree that is renamed all the time has %d names: %v", len(list), list)
	}
	in, err := w.fs.ReadDir(ctx, "arena/flip/"+list[0].Name)
	if !errors.Is(err, vole.ErrNotExist) && (err != nil || len(in) != treeFiles) {
		w.h.fatal("a tree that is renamed all the time holds %d files, %v", len(in), err)
	}
}

// copied looks for a tree that is copied and removed all the time.
func (w *watcher) copied() {
	ctx := context.Background()
	const p = "arena/copies/tree"
	e, err := w.fs.Lstat(ctx, p)
	if errors.Is(err, vole.ErrNotExist) {
		return
	}
	w.h.must("stat", err)
	in, err := w.fs.ReadDir(ctx, p+"/sub")
	if err == nil && len(in) == treeFiles {
		if _, err = w.fs.Getxattr(ctx, p+"/sub", "user.x"); err == nil {
			return
		}
	}
	if err != nil && !errors.Is(err, vole.ErrNotExist) && !errors.Is(err, vole.ErrNoXattr) {
		w.h.fatal("look at a copied tree: %v", err)
	}
	// So it must be in removal, without its name.
	again, gone := w.fs.Lstat(ctx, p)
	if gone == nil && again.Inode == e.Inode {
		w.h.fatal("a copied tree has %d files, %v", len(in), err)
	}
}

// linked looks at all the names of a file, which are added and removed while it grows.
func (w *watcher) linked() {
	list, err := w.fs.ReadDir(context.Background(), "arena/pair")
	w.h.must("list", err)
	for _, e := range list {
		if int(e.Nlink) != len(list) || e.Size != list[0].Size || e.Inode != list[0].Inode {
			w.h.fatal("a file with %d names: %+v", len(list), list)
		}
	}
}

// wrongRows are counts of rows that must be 0 at any instant. Each is one statement, so
// that it sees one state of the database. LIVE stands for the volumes that are there.
var wrongRows = []struct{ what, sql string }{
	{"volumes over their quota", `SELECT count(*) FROM LIVE v WHERE v.quota > 0 AND v.used > v.quota`},
	{"volumes whose usage is not that of their files", `SELECT count(*) FROM LIVE v WHERE v.used <>
		(SELECT coalesce(sum(i.size), 0) FROM inodes i WHERE i.vol = v.id AND i.mode BETWEEN 32768 AND 36863)`},
	{"inodes with another number of names than they say", `SELECT count(*) FROM inodes i JOIN LIVE v ON v.id = i.vol
		LEFT JOIN (SELECT vol, ino, count(*) AS n FROM dirents GROUP BY vol, ino) e ON e.vol = i.vol AND e.ino = i.ino
		WHERE i.mode NOT BETWEEN 16384 AND 20479 AND i.nlink <> coalesce(e.n, 0)`},
	{"directories without just one name", `SELECT count(*) FROM inodes i JOIN LIVE v ON v.id = i.vol
		LEFT JOIN (SELECT vol, ino, count(*) AS n FROM dirents GROUP BY vol, ino) e ON e.vol = i.vol AND e.ino = i.ino
		LEFT JOIN orphans o ON o.vol = i.vol AND o.ino = i.ino
		WHERE i.mode BETWEEN 16384 AND 20479 AND coalesce(e.n, 0) + (CASE WHEN o.ino IS NULL THEN 0 ELSE 1 END) <> (CASE WHEN i.ino = 1 THEN 0 ELSE 1 END)`},
	{"directories with another number of subdirectories than they say", `SELECT count(*) FROM inodes i JOIN LIVE v ON v.id = i.vol
		LEFT JOIN (SELECT d.vol, d.parent, count(*) AS n FROM dirents d JOIN inodes s ON s.vol = d.vol AND s.ino = d.ino
			WHERE s.mode BETWEEN 16384 AND 20479 GROUP BY d.vol, d.parent) e ON e.vol = i.vol AND e.parent = i.ino
		LEFT JOIN orphans o ON o.vol = i.vol AND o.ino = i.ino
		WHERE i.mode BETWEEN 16384 AND 20479 AND o.ino IS NULL AND i.nlink <> 2 + coalesce(e.n, 0)`},
	{"names that lead nowhere, or are in no directory", `SELECT count(*) FROM dirents e JOIN LIVE v ON v.id = e.vol
		LEFT JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino LEFT JOIN inodes d ON d.vol = e.vol AND d.ino = e.parent
		WHERE i.ino IS NULL OR d.ino IS NULL OR d.mode NOT BETWEEN 16384 AND 20479`},
	{"files without a name that nobody is going to remove", `SELECT count(*) FROM inodes i JOIN LIVE v ON v.id = i.vol
		LEFT JOIN orphans o ON o.vol = i.vol AND o.ino = i.ino WHERE i.nlink = 0 AND o.ino IS NULL`},
	{"orphans that are no more", `SELECT count(*) FROM orphans o JOIN LIVE v ON v.id = o.vol
		LEFT JOIN inodes i ON i.vol = o.vol AND i.ino = o.ino WHERE i.ino IS NULL`},
	{"files whose chunks are not what they say", `SELECT count(*) FROM inodes i JOIN LIVE v ON v.id = i.vol
		LEFT JOIN (SELECT vol, ino, sum(len) AS n, max(pos + len) AS fin FROM chunks GROUP BY vol, ino) c ON c.vol = i.vol AND c.ino = i.ino
		WHERE i.alloc <> coalesce(c.n, 0) OR coalesce(c.fin, 0) > i.size AND i.mode BETWEEN 32768 AND 36863`},
	{"chunks of no file", `SELECT count(*) FROM chunks c JOIN LIVE v ON v.id = c.vol
		LEFT JOIN inodes i ON i.vol = c.vol AND i.ino = c.ino WHERE i.ino IS NULL`},
	{"chunks that overlap", `SELECT count(*) FROM (SELECT c.pos, lag(c.pos + c.len) OVER (PARTITION BY c.vol, c.ino ORDER BY c.pos) AS fin
		FROM chunks c JOIN LIVE v ON v.id = c.vol) x WHERE x.fin > x.pos`},
	{"chunks beyond their blob", `SELECT count(*) FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob
		WHERE c.len <= 0 OR c.blob_pos < 0 OR c.blob_pos + c.len > b.size`},
	{"blobs that nothing refers to and that are never swept", `SELECT count(*) FROM blobs b
		LEFT JOIN chunks c ON c.org = b.org AND c.blob = b.id WHERE b.freed IS NULL AND c.vol IS NULL`},
	{"attributes of nothing", `SELECT count(*) FROM xattrs x JOIN LIVE v ON v.id = x.vol
		LEFT JOIN inodes i ON i.vol = x.vol AND i.ino = x.ino WHERE i.ino IS NULL`},
	{"trees with another number of names than one in the shared volume", `SELECT count(*) - 1 FROM dirents e JOIN LIVE v ON v.id = e.vol
		WHERE v.name = 'shared' AND e.name = CAST('flipped' AS BYTES)`},
}

// rows looks at the tables.
func (w *watcher) rows() {
	for !w.h.over() {
		w.checkRows()
		w.h.count("look at rows", nil)
		time.Sleep(30 * time.Millisecond)
	}
}

func (w *watcher) checkRows() {
	kind := "BYTEA"
	if w.h.opts.Dir != "" {
		kind = "BLOB"
	}
	live := strings.NewReplacer("LIVE", "(SELECT * FROM volumes WHERE state <> 'removing')", "BYTES", kind)
	for _, c := range wrongRows {
		var n int64
		if err := w.db.QueryRow(live.Replace(c.sql)).Scan(&n); err != nil {
			w.h.fatal("%s: %v", c.what, err)
		}
		if n != 0 {
			w.h.fatal("there are %d %s", n, c.what)
		}
	}
}

// flip moves two trees to and fro: within a directory, and between two.
func (h *hammer) flip() {
	ctx, rnd := context.Background(), h.rand(100)
	in := []string{"arena/flip/one", "arena/flip/two"}
	across := []string{"arena/left/flipped", "arena/right/flipped"}
	for !h.over() {
		for _, p := range [][]string{in, across} {
			f := h.shared.fs[rnd.IntN(hamHosts)]
			h.must("flip", f.Rename(ctx, p[0], p[1], vole.RenameOptions{}))
			p[0], p[1] = p[1], p[0]
			h.count("flip", nil)
		}
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
	}
}

// copyTrees makes and removes copies of a tree.
func (h *hammer) copyTrees() {
	ctx, rnd := context.Background(), h.rand(101)
	for !h.over() {
		f := h.shared.fs[rnd.IntN(hamHosts)]
		err := f.Copy(ctx, "arena/tree", "arena/copies/tree", vole.CopyOptions{})
		h.count("copy tree", err)
		if !errors.Is(err, vole.ErrQuota) {
			h.must("copy", err)
		}
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		f = h.shared.fs[rnd.IntN(hamHosts)]
		h.must("removeall", f.RemoveAll(ctx, "arena/copies/tree"))
	}
}

// grow changes the size and the names of one file.
func (h *hammer) grow() {
	ctx, rnd := context.Background(), h.rand(102)
	const dir = "arena/pair/"
	for n := 2; !h.over(); {
		f := h.shared.fs[rnd.IntN(hamHosts)]
		var err error
		switch k := rnd.IntN(4); {
		case k == 0 && n < 6:
			err = f.Link(ctx, dir+"0", fmt.Sprint(dir, n))
			n++
		case k == 1 && n > 1:
			n--
			err = f.Remove(ctx, fmt.Sprint(dir, n))
		case k == 2:
			err = f.Truncate(ctx, dir+"0", int64(rnd.IntN(100_000)))
		default:
			var g *vole.File
			if g, err = f.Open(ctx, dir+"0", vole.OpenOptions{Append: true}); err == nil {
				_, err = g.Append(ctx, make([]byte, rnd.IntN(30_000)))
				err = errors.Join(err, g.Close())
			}
		}
		h.count("grow", err)
		if err != nil && !errors.Is(err, vole.ErrQuota) {
			h.fatal("grow: %v", err)
		}
		time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
	}
}
