package bucket_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

// damage is one thing that is wrong, and what is said about it.
type damage struct {
	name  string
	codes string // what a check finds
	done  func(v *volumeFixture)
	fixed bool
	after func(v *volumeFixture) // what holds after the repair
}

var damages = []damage{
	{"usage", "wrong-usage", func(v *volumeFixture) { v.exec(`UPDATE volumes SET used = used + 7 WHERE id = $1`, v.vol) }, true, nil},
	{"next inode", "next-inode-in-use", func(v *volumeFixture) { v.exec(`UPDATE volumes SET next_ino = 3 WHERE id = $1`, v.vol) }, true, nil},
	{"entries", "wrong-entries", func(v *volumeFixture) { v.exec(`UPDATE volumes SET entries = entries - 1 WHERE id = $1`, v.vol) }, true, nil},
	{"metadata", "wrong-metadata", func(v *volumeFixture) { v.exec(`UPDATE volumes SET metadata = 0 WHERE id = $1`, v.vol) }, true, nil},
	{"bytes of attributes", "wrong-attribute-bytes wrong-metadata", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE inodes SET xattr_bytes = 0 WHERE vol = $1 AND ino = $2`)
	}, true, nil},
	{"unreferenced", "wrong-unreferenced", func(v *volumeFixture) {
		v.exec(`UPDATE unreferenced SET bytes = bytes - 5 WHERE id = (SELECT min(id) FROM unreferenced WHERE org = $1)`, v.org)
	}, true, nil},
	{"quota", "over-quota", func(v *volumeFixture) { v.exec(`UPDATE volumes SET quota = 10 WHERE id = $1`, v.vol) }, false, nil},
	{"links of a file", "wrong-link-count", func(v *volumeFixture) { v.execOnInode("h", `UPDATE inodes SET nlink = 5 WHERE vol = $1 AND ino = $2`) }, true, nil},
	{"links of a directory", "wrong-link-count", func(v *volumeFixture) { v.execOnInode("a", `UPDATE inodes SET nlink = 2 WHERE vol = $1 AND ino = $2`) }, true, nil},
	{"no root", "missing-root", func(v *volumeFixture) { v.exec(`DELETE FROM inodes WHERE vol = $1 AND ino = 1`, v.vol) }, true,
		func(v *volumeFixture) { v.mustHold("h", large) }},
	{"root a file", "root-no-directory", func(v *volumeFixture) { v.exec(`UPDATE inodes SET mode = 33188 WHERE vol = $1 AND ino = 1`, v.vol) }, false, nil},
	{"no inode", "dangling-entry", func(v *volumeFixture) { v.execOnInode("s", `DELETE FROM inodes WHERE vol = $1 AND ino = $2`) }, true, nil},
	{"no inode of a file", "dangling-entry file-without-inode wrong-usage", func(v *volumeFixture) {
		v.execOnInode("a/g", `DELETE FROM inodes WHERE vol = $1 AND ino = $2`)
	}, true, func(v *volumeFixture) { v.mustHold("a/g", large) }},
	{"no name", "unreachable-inode", func(v *volumeFixture) { v.execOnInode("a/g", `DELETE FROM dirents WHERE vol = $1 AND ino = $2`) }, true,
		func(v *volumeFixture) { v.mustHoldInLostFound(large) }},
	{"no name of a directory", "unreachable-inode wrong-link-count", func(v *volumeFixture) { v.execOnInode("a/b/c", `DELETE FROM dirents WHERE vol = $1 AND ino = $2`) }, true,
		func(v *volumeFixture) { v.pathInLostFound("/deep") }},
	{"lost+found is taken", "unreachable-inode", func(v *volumeFixture) {
		v.mustSucceed(v.fs.Symlink(context.Background(), "nowhere", "lost+found"))
		v.execOnInode("a/g", `DELETE FROM dirents WHERE vol = $1 AND ino = $2`)
	}, true, nil},
	{"entry of a file", "entry-without-directory", func(v *volumeFixture) {
		v.execOnInode("h", `INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, []byte("x"), v.inodeOf("a/small"))
	}, true, func(v *volumeFixture) { v.mustHold("a/small", []byte("small")) }},
	{"entry of nothing", "entry-without-directory", func(v *volumeFixture) {
		v.exec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, 999, $2, $3)`, v.vol, []byte("x"), v.inodeOf("a/small"))
	}, true, nil},
	{"two names", "directory-with-two-names", func(v *volumeFixture) {
		v.execOnInode("a/b/c", `INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, $2, $3, $4)`, []byte("x"), v.inodeOf("a/b"))
		v.execOnInode("a/b/c", `UPDATE inodes SET nlink = nlink + 1 WHERE vol = $1 AND ino = $2`)
	}, true, func(v *volumeFixture) { v.mustHold("a/b/c/deep", []byte("deep")) }},
	{"name too long", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", strings.Repeat("n", 300)) }, true, func(v *volumeFixture) { v.mustHoldSomewhere("nnn", large) }},
	{"name with a slash", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", "x/y") }, true, func(v *volumeFixture) { v.mustHoldSomewhere("x_y~", large) }},
	{"name with a zero", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", "x\x00y") }, true, func(v *volumeFixture) { v.mustHoldSomewhere("x_y~", large) }},
	{"no name at all", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", "") }, true, func(v *volumeFixture) { v.mustHoldSomewhere("~", large) }},
	{"dot", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", ".") }, true, func(v *volumeFixture) { v.mustHoldSomewhere(".~", large) }},
	{"dots", "bad-name", func(v *volumeFixture) { v.renameRootEntry("h", "..") }, true, func(v *volumeFixture) { v.mustHoldSomewhere("..~", large) }},
	{"no type", "bad-mode", func(v *volumeFixture) { v.execOnInode("h", `UPDATE inodes SET mode = 420 WHERE vol = $1 AND ino = $2`) }, true,
		func(v *volumeFixture) { v.mustHold("h", large) }},
	{"mode of a directory", "bad-mode", func(v *volumeFixture) {
		v.execOnInode("a/b", `UPDATE inodes SET mode = 493 WHERE vol = $1 AND ino = $2`)
	}, true,
		func(v *volumeFixture) { v.mustHold("a/b/c/deep", []byte("deep")) }},
	{"owner", "bad-number", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE inodes SET uid = -1, rdev = -1 WHERE vol = $1 AND ino = $2`)
	}, true, nil},
	{"size", "bad-number", func(v *volumeFixture) { v.execOnInode("h", `UPDATE inodes SET size = -1 WHERE vol = $1 AND ino = $2`) }, true,
		func(v *volumeFixture) { v.mustHold("h", large) }},
	{"quota below 0", "bad-number", func(v *volumeFixture) { v.exec(`UPDATE volumes SET quota = -1 WHERE id = $1`, v.vol) }, true, nil},
	{"target of a file", "target-of-no-link", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE inodes SET target = $3 WHERE vol = $1 AND ino = $2`, []byte("x"))
	}, true, func(v *volumeFixture) { v.mustHold("h", large) }},
	{"target", "bad-target", func(v *volumeFixture) {
		v.execOnInode("s", `UPDATE inodes SET target = $3 WHERE vol = $1 AND ino = $2`, []byte("x\x00"))
	}, false, nil},
	{"attribute", "bad-attribute", func(v *volumeFixture) {
		v.execOnInode("h", `INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, $2, $3, $3)`, []byte("trusted.x"))
	}, false, nil},
	{"volume's name", "bad-volume-name", func(v *volumeFixture) { v.exec(`UPDATE volumes SET name = 'a/b' WHERE id = $1`, v.vol) }, true, nil},
	{"labels", "bad-labels", func(v *volumeFixture) { v.exec(`UPDATE volumes SET labels = '[]' WHERE id = $1`, v.vol) }, false,
		func(v *volumeFixture) { v.exec(`UPDATE volumes SET labels = '' WHERE id = $1`, v.vol) }},
	{"cycle", "directory-cycle", func(v *volumeFixture) {
		v.execOnInode("a/b", `UPDATE dirents SET parent = $3 WHERE vol = $1 AND ino = $2`, v.inodeOf("a/b/c"))
		v.exec(`UPDATE inodes SET nlink = nlink + 1 WHERE vol = $1 AND ino = (SELECT parent FROM dirents WHERE vol = $1 AND name = $2)`, v.vol, []byte("b"))
		v.execOnInode("a", `UPDATE inodes SET nlink = nlink - 1 WHERE vol = $1 AND ino = $2`)
	}, true, func(v *volumeFixture) { v.pathInLostFound("/c/deep") }},
	{"orphan with a name", "orphan-with-name", func(v *volumeFixture) { v.execOnInode("a/g", `INSERT INTO orphans (vol, ino) VALUES ($1, $2)`) }, true,
		func(v *volumeFixture) { v.mustSucceed(v.ns.Reap(context.Background())); v.mustHold("a/g", large) }},
	{"orphan of nothing", "stray-orphan", func(v *volumeFixture) { v.exec(`INSERT INTO orphans (vol, ino) VALUES ($1, 999)`, v.vol) }, true, nil},
	{"attributes of nothing", "stray-attributes", func(v *volumeFixture) {
		v.exec(`INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, 999, $2, $2)`, v.vol, []byte("x"))
	}, true, nil},
	{"chunks of a directory", "chunks-of-no-file", func(v *volumeFixture) {
		v.execOnInode("a", `INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, 0, 10, $3, $4, 0)`, v.org, v.blobOf("h"))
	}, true, func(v *volumeFixture) { v.mustHold("h", large) }},
	{"empty chunk", "empty-chunk", func(v *volumeFixture) {
		v.execOnInode("h", `INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, 200000, 0, $3, $4, 0)`, v.org, v.blobOf("h"))
	}, true, nil},
	{"chunk before 0", "bad-chunk", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE chunks SET pos = -100000 WHERE vol = $1 AND ino = $2`)
	}, false, nil},
	{"chunk of 9 MiB", "bad-chunk chunk-outside-blob", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE chunks SET len = 9437184 WHERE vol = $1 AND ino = $2`)
		v.execOnInode("h", `UPDATE inodes SET size = 9437184, alloc = 9437184 WHERE vol = $1 AND ino = $2`)
		v.exec(`UPDATE volumes SET used = used + 9337184 WHERE id = $1`, v.vol)
	}, false, nil},
	{"chunk outside of its blob", "chunk-outside-blob", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE chunks SET blob_pos = 1 WHERE vol = $1 AND ino = $2`)
	}, false, nil},
	{"chunks that overlap", "overlapping-chunks", func(v *volumeFixture) {
		v.execOnInode("h", `INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, 50, 10, $3, $4, 0)`, v.org, v.blobOf("h"))
		v.execOnInode("h", `UPDATE inodes SET alloc = alloc + 10 WHERE vol = $1 AND ino = $2`)
	}, false, nil},
	{"chunk beyond the end", "chunk-beyond-end", func(v *volumeFixture) {
		v.execOnInode("h", `UPDATE inodes SET size = 1000 WHERE vol = $1 AND ino = $2`)
		v.exec(`UPDATE volumes SET used = used - 99000 WHERE id = $1`, v.vol)
	}, true, func(v *volumeFixture) { v.mustHold("h", large[:1000]) }},
	{"allocation", "wrong-allocation", func(v *volumeFixture) { v.execOnInode("h", `UPDATE inodes SET alloc = 5 WHERE vol = $1 AND ino = $2`) }, true, nil},
	{"blob of others", "foreign-chunk", func(v *volumeFixture) {
		other, id := v.otherVolumeID(), newID()
		v.exec(`INSERT INTO blobs (org, id, size, data, created, freed) VALUES ($1, $2, 5, $3, 1, 1)`, other, id, []byte("other"))
		v.execOnInode("a/small", `UPDATE blobs SET freed = 1 WHERE id = (SELECT blob FROM chunks WHERE vol = $1 AND ino = $2)`)
		v.execOnInode("a/small", `UPDATE chunks SET org = $3, blob = $4 WHERE vol = $1 AND ino = $2`, other, id)
	}, false, nil},
	{"blob without a row", "chunk-without-blob unknown-object", func(v *volumeFixture) { v.exec(`DELETE FROM blobs WHERE id = $1`, v.blobOf("h")) }, false, nil},
	{"inline blob", "wrong-inline-size", func(v *volumeFixture) {
		v.exec(`UPDATE blobs SET data = $2 WHERE id = $1`, v.blobOf("a/small"), []byte("smal"))
	}, false, nil},
	{"checksums", "wrong-checksums", func(v *volumeFixture) {
		v.exec(`UPDATE blobs SET sums = $2 WHERE id = $1`, v.blobOf("h"), []byte("1234"))
	}, false, nil},
	{"leak", "leaked-blob", func(v *volumeFixture) {
		v.exec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $2, 1, $3, 1)`, v.org, newID(), []byte("x"))
	}, true, nil},
	{"attachment of nothing", "stray-attachment", func(v *volumeFixture) {
		s := newID()
		v.exec(`INSERT INTO sessions (id, host, pid, created, expires) VALUES ($1, 'h', 1, 1, 9000000000000000000)`, s)
		v.exec(`INSERT INTO attachments (id, org, vol, session, holder, read_only, exclusive, host, pid, started, since)
			VALUES ($1, $2, $1, $1, 'x', 0, 0, 'h', 1, 1, 1)`, s, v.org)
	}, true, nil},
	{"rows of nothing", "rows-without-volume", func(v *volumeFixture) {
		v.exec(`INSERT INTO ops (vol, op, at) VALUES ($1, $1, 1)`, newID())
		v.exec(`INSERT INTO orphans (vol, ino) VALUES ($1, 1)`, newID())
		v.exec(`INSERT INTO dirents (vol, parent, name, ino) VALUES ($1, 1, $1, 1)`, newID())
		v.exec(`INSERT INTO xattrs (vol, ino, name, value) VALUES ($1, 1, $1, $1)`, newID())
	}, true, nil},
	{"volume without a row", "rows-without-volume", func(v *volumeFixture) { v.exec(`DELETE FROM volumes WHERE id = $1`, v.vol) }, true,
		func(v *volumeFixture) { v.mustHold("h", large) }},
	{"organisation without a row", "blobs-of-no-organisation", func(v *volumeFixture) {
		v.exec(`INSERT INTO blobs (org, id, size, data, created) VALUES ($1, $1, 1, $2, 1)`, newID(), []byte("x"))
	}, true, nil},
	{"object missing", "lost-object", func(v *volumeFixture) {
		v.mustSucceed(v.blobs.Delete(context.Background(), objectKeyOf(v.org, v.blobOf("h"))))
	}, false, nil},
	{"object cut", "wrong-object-size", func(v *volumeFixture) {
		key := objectKeyOf(v.org, v.blobOf("h"))
		v.mustSucceed(v.blobs.Delete(context.Background(), key))
		v.writeObject(key, large[:len(large)-1])
	}, false, nil},
	{"object of nothing", "unknown-object", func(v *volumeFixture) { v.writeObject(objectKeyOf(v.org, newID()), large) }, true, nil},
	{"object of no name", "unknown-object", func(v *volumeFixture) { v.writeObject(fmt.Sprintf("o/%x/b/zz/x", v.org), large) }, false, func(v *volumeFixture) {
		v.mustSucceed(v.blobs.Delete(context.Background(), fmt.Sprintf("o/%x/b/zz/x", v.org)))
	}},
	{"object of no organisation", "objects-of-no-organisation", func(v *volumeFixture) { v.writeObject("o/00/b/00/00", large) }, false, func(v *volumeFixture) {
		v.mustSucceed(v.blobs.Delete(context.Background(), "o/00/b/00/00"))
	}},
}

// renameRootEntry gives the entry of a path in the root another name.
func (v *volumeFixture) renameRootEntry(path, name string) {
	v.t.Helper()
	v.execOnInode(path, `UPDATE dirents SET name = $3 WHERE vol = $1 AND ino = $2 AND parent = 1 AND name = $4`, []byte(name), []byte(path))
}

// mustHoldSomewhere looks for the content of a file whose name in the root begins so.
func (v *volumeFixture) mustHoldSomewhere(prefix string, want []byte) {
	v.t.Helper()
	d, err := v.fs.OpenDir(context.Background(), ".", driver.DirOptions{})
	v.mustSucceed(err)
	defer d.Close()
	list, err := d.Read(context.Background(), 100)
	v.mustSucceed(err)
	for _, e := range list {
		if strings.HasPrefix(e.Name, prefix) {
			v.mustHold(e.Name, want)
			return
		}
	}
	v.t.Errorf("no name begins with %q: %v", prefix, list)
}

func newID() []byte {
	id := uuid.Must(uuid.NewV7())
	return id[:]
}

// otherVolumeID returns the id of another organisation.
func (v *volumeFixture) otherVolumeID() []byte {
	v.t.Helper()
	v.mustSucceed(v.ns.CreateOrg(context.Background(), "other"))
	return v.queryID(`SELECT id FROM orgs WHERE name = 'other'`)
}

// pathInLostFound returns the path of what lost+found has, which is one thing, with more behind it.
func (v *volumeFixture) pathInLostFound(more string) string {
	v.t.Helper()
	d, err := v.fs.OpenDir(context.Background(), "lost+found", driver.DirOptions{})
	if err != nil {
		v.t.Errorf("lost+found: %v", err)
		return "lost+found"
	}
	defer d.Close()
	list, err := d.Read(context.Background(), 10)
	if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].Name, "#") {
		v.t.Errorf("lost+found has %v, %v", list, err)
		return "lost+found"
	}
	path := "lost+found/" + list[0].Name + more
	if _, err := v.fs.Lstat(context.Background(), path); err != nil {
		v.t.Errorf("%s: %v", path, err)
	}
	return path
}

func (v *volumeFixture) mustHoldInLostFound(want []byte) {
	v.t.Helper()
	v.mustHold(v.pathInLostFound(""), want)
}

// TestCheckDamage: each kind of damage is found, called what it is, and repaired where
// that loses nothing.
func TestCheckDamage(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p := newNSFixture(t, e.fresh(t))
			other := p.newVolumeFixture("other", driver.GiB)
			for i, d := range damages {
				if t.Failed() {
					break // what is left over would be found again
				}
				t.Run(d.name, func(t *testing.T) { p.applyDamage(t, fmt.Sprintf("v%d", i), &d) })
			}
			p.mustAuditClean()
			other.mustHold("a/f", large)
		})
	}
}

func (p *nsFixture) applyDamage(t *testing.T, name string, d *damage) {
	q := *p
	q.t = t
	p = &q
	v := p.newVolumeFixture(name, 0)
	d.done(v)
	// Nobody counted what was done to the names.
	counts := func(f driver.Finding) bool {
		return (f.Code == "wrong-entries" || f.Code == "wrong-metadata" || f.Code == "wrong-attribute-bytes") && !strings.Contains(d.codes, f.Code)
	}
	if got := slices.DeleteFunc(p.auditFindings(false), counts); joinCodes(got) != d.codes {
		t.Errorf("found %q, want %q: %+v", joinCodes(got), d.codes, got)
	}
	list := p.auditFindings(true)
	if len(list) == 0 {
		t.Error("a check that repairs found nothing")
	}
	for _, f := range slices.DeleteFunc(list, counts) {
		if !strings.Contains(d.codes, f.Code) || f.Fixed != d.fixed && f.Code != "unknown-object" {
			t.Errorf("repairing: %+v", f)
		}
	}
	left := p.auditFindings(false)
	if d.fixed && len(left) > 0 {
		t.Errorf("after the repair: %+v", left)
	} else if !d.fixed && len(left) == 0 {
		t.Error("what cannot be repaired is no longer found")
	}
	if d.after != nil {
		d.after(v)
	}
	// A repaired volume can be removed like any other, and must be: every check reads every volume.
	v.removeVolume()
}
