package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// The bounds of entries and metadata of a volume, driver.MetadataBounds.
var metadataTests = []test{
	{"Entries", testMetadataEntries},
	{"Bytes", testMetadataBytes},
	{"Shared", testMetadataShared},
	{"Update", testMetadataUpdate},
}

// smallest are the bounds of a quota of one byte.
var smallest = driver.MetadataBounds(1)

// grow takes tree "t", which holds n entries, to 2^times as many, by copies of itself that
// move into it.
func (f *files) grow(n, times int) int {
	f.t.Helper()
	for i := range times {
		must(f.t, "copy", f.Copy(f.ctx, "t", "u", driver.CopyOptions{}))
		must(f.t, "move in", f.Rename(f.ctx, "u", fmt.Sprint("t/", i), driver.RenameOptions{}))
		n *= 2
	}
	return n
}

// refused checks that attempts fail for the bounds, and leave nothing at new names.
func (f *files) refused(attempts map[string]func() error) {
	f.t.Helper()
	for what, attempt := range attempts {
		wantErr(f.t, what+" beyond the bounds", attempt(), vole.ErrQuota)
		for _, p := range []string{"new", "new/dir"} {
			if _, err := f.Lstat(f.ctx, p); !errors.Is(err, fs.ErrNotExist) {
				f.t.Errorf("%s was refused, and %s is there: %v", what, p, err)
			}
		}
	}
}

// ways are those in which a name can be made.
func (f *files) ways() map[string]func() error {
	ways := map[string]func() error{
		"create": func() error {
			h, err := f.FS.Open(f.ctx, "new", vole.OpenOptions{Create: true})
			if err == nil {
				h.Close()
			}
			return err
		},
		"create through a link": func() error {
			h, err := f.FS.Open(f.ctx, "t/dangling", vole.OpenOptions{Create: true})
			if err == nil {
				h.Close()
			}
			return err
		},
		"write":              func() error { return f.WriteFile(f.ctx, "new", nil, 0o644) },
		"write with parents": func() error { return f.WriteFile(f.ctx, "new/dir/file", nil, 0o644) },
		"mkdir":              func() error { return f.Mkdir(f.ctx, "new", 0o755) },
		"mkdir with parents": func() error { return f.MkdirAll(f.ctx, "new/dir", 0o755) },
		"copy":               func() error { return f.Copy(f.ctx, "t/f", "new", driver.CopyOptions{}) },
		"copy a tree":        func() error { return f.Copy(f.ctx, "t", "new", driver.CopyOptions{}) },
		"fifo":               func() error { return f.Mknod(f.ctx, "new", fs.ModeNamedPipe|0o600, 0) },
	}
	if f.e.caps.Links {
		ways["symlink"] = func() error { return f.Symlink(f.ctx, "x", "new") }
		ways["link"] = func() error { return f.Link(f.ctx, "t/f", "new") }
	} else {
		delete(ways, "create through a link")
	}
	return ways
}

func testMetadataEntries(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.quotaFiles(t, 1)
	f.mkdir("t")
	f.write("t/f", "")
	must(t, "symlink", f.Symlink(f.ctx, "../new", "t/dangling"))
	for i := range 61 {
		f.write(fmt.Sprint("t/file-", i), "")
	}
	n := f.grow(64, 6)
	equal(t, "entries", int64(n), smallest.Entries)
	s, err := f.Statfs(f.ctx)
	must(t, "statfs", err)
	if s.Files != -1 { // no limit is known
		equal(t, "entries that could still be made", s.Files, 0)
	}

	f.refused(f.ways())
	// What takes no entry goes on.
	f.write("t/f", "")
	must(t, "rename", f.Rename(f.ctx, "t/file-0", "t/other", driver.RenameOptions{}))
	must(t, "copy onto", f.Copy(f.ctx, "t/f", "t/other", driver.CopyOptions{}))
	must(t, "mkdir of what is there", f.MkdirAll(f.ctx, "t/0", 0o755))
	f.refused(map[string]func() error{"write": f.ways()["write"]})

	// Each removal gives back what went, no more.
	for what, gone := range map[string]func() error{
		"remove":      func() error { return f.Remove(f.ctx, "t/file-1") },
		"rename over": func() error { return f.Rename(f.ctx, "t/file-2", "t/file-3", driver.RenameOptions{}) },
		"rename a directory over": func() error {
			if err := f.Remove(f.ctx, "t/file-4"); err != nil {
				return err
			}
			if err := f.Mkdir(f.ctx, "t/d", 0o755); err != nil {
				return err
			}
			return f.Remove(f.ctx, "t/d")
		},
	} {
		must(t, what, gone())
		must(t, "mkdir after "+what, f.Mkdir(f.ctx, "t/"+strings.ReplaceAll(what, " ", "-"), 0o755))
		f.refused(map[string]func() error{"mkdir": f.ways()["mkdir"]})
	}
	must(t, "remove a tree", f.RemoveAll(f.ctx, "t/5"))
	must(t, "copy into the room", f.Copy(f.ctx, "t/4", "t/again", driver.CopyOptions{}))
	must(t, "copy into the room", f.Copy(f.ctx, "t/4", "t/again2", driver.CopyOptions{}))
	f.refused(map[string]func() error{"write": f.ways()["write"], "copy a tree": f.ways()["copy a tree"]})
}

func testMetadataBytes(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.quotaFiles(t, 1)
	const target = 4000
	f.mkdir("t")
	for i := range 16 {
		must(t, "symlink", f.Symlink(f.ctx, strings.Repeat("x", target), fmt.Sprint("t/link-", 10+i)))
	}
	f.grow(17, 3)
	// To the last byte: eight trees of that; their names, "t" and "0" to "2"; the rest in
	// links of single letters.
	held := int64(8*(16*(target+7)) + 8)
	must(t, "copy", f.Copy(f.ctx, "t", "u", driver.CopyOptions{}))
	held *= 2
	for c := 'a'; held < smallest.Bytes; c++ {
		if c == 't' || c == 'u' {
			continue
		}
		n := min(smallest.Bytes-held-1, target)
		must(t, fmt.Sprint("symlink of ", n), f.Symlink(f.ctx, strings.Repeat("y", int(n)), string(c)))
		held += n + 1
	}
	f.refused(map[string]func() error{
		"write":   func() error { return f.WriteFile(f.ctx, "new", nil, 0o644) },
		"symlink": func() error { return f.Symlink(f.ctx, "x", "new") },
		"mkdir":   func() error { return f.MkdirAll(f.ctx, "new/dir", 0o755) },
		"longer":  func() error { return f.Rename(f.ctx, "a", "new", driver.RenameOptions{}) },
		"longer, and nothing there": func() error {
			return f.Rename(f.ctx, "a", "new", driver.RenameOptions{NoReplace: true})
		},
		"copy": func() error { return f.Copy(f.ctx, "t", "new", driver.CopyOptions{}) },
	})
	f.exists("a", true)
	if e.caps.Xattrs {
		testMetadataXattrs(t, f)
	}
}

// testMetadataXattrs sets attributes in a volume that is full.
func testMetadataXattrs(t *testing.T, f *files) {
	set := func(value string) error { return f.Setxattr(f.ctx, "t", "user.n", []byte(value)) }
	wantErr(t, "an attribute in a full volume", set(""), vole.ErrQuota)
	// Twelve bytes of room, six for the attribute's name.
	must(t, "a shorter name", f.Rename(f.ctx, "t/link-10", "t/x", driver.RenameOptions{}))
	must(t, "a shorter name", f.Rename(f.ctx, "t/link-11", "t/y", driver.RenameOptions{NoReplace: true}))
	wantErr(t, "an attribute that is too long", set("1234567"), vole.ErrQuota)
	must(t, "an attribute", set("123456"))
	wantErr(t, "a longer value", set("1234567"), vole.ErrQuota)
	must(t, "a shorter value", set("1"))
	must(t, "a value as long as the first", set("654321"))
	wantErr(t, "a file in a full volume", f.WriteFile(f.ctx, "1", nil, 0o644), vole.ErrQuota)
	got, err := f.Getxattr(f.ctx, "t", "user.n")
	must(t, "get the attribute", err)
	equal(t, "attribute", string(got), "654321")
	must(t, "remove the attribute", f.Removexattr(f.ctx, "t", "user.n"))
	f.write("a-file", "")
	must(t, "an attribute of the root", f.Setxattr(f.ctx, ".", "user.n", nil))
	wantErr(t, "one more byte", f.WriteFile(f.ctx, "1", nil, 0o644), vole.ErrQuota)
}

func testMetadataShared(t *testing.T, e *env) {
	f := e.quotaFiles(t, 1)
	f.mkdir("t")
	for i := range 63 {
		f.write(fmt.Sprint("t/file-", i), "")
	}
	f.grow(64, 6)
	const room = 10
	for i := range room {
		f.remove(fmt.Sprint("t/file-", i))
	}
	g := e.openFiles(t, f.vol, vole.FSOptions{})
	var made atomic.Int64
	var wg sync.WaitGroup
	for i := range 3 * room {
		wg.Go(func() {
			on := []*files{f, g}[i%2]
			err := on.WriteFile(f.ctx, fmt.Sprint("new-", i), nil, 0o644)
			if err == nil {
				made.Add(1)
			} else {
				wantErr(t, "write", err, vole.ErrQuota)
			}
		})
	}
	wg.Wait()
	equal(t, "files that found room", made.Load(), room)
}

func testMetadataUpdate(t *testing.T, e *env) {
	f := e.quotaFiles(t, int64(vole.MiB))
	f.mkdir("t")
	for i := range 63 {
		f.write(fmt.Sprint("t/file-", i), "")
	}
	f.grow(64, 6)
	f.mkdir("more")
	err := f.vol.Update(f.ctx, vole.Update{Quota: 1})
	wantErr(t, "a quota whose bounds are exceeded", err, vole.ErrQuota)
	equal(t, "quota", must1(t, e, f.vol.ID()).Info().Quota, vole.MiB)
	f.mkdir("more/still")
	f.remove("more/still")
	f.remove("more")
	err = f.vol.Update(f.ctx, vole.Update{Quota: 1})
	must(t, "a quota whose bounds are just kept", err)
	wantErr(t, "one more", f.Mkdir(f.ctx, "more", 0o755), vole.ErrQuota)
	if e.caps.Clones {
		_, err = e.store.Create(f.ctx, "clone", vole.Spec{From: f.vol.ID(), Quota: 1})
		must(t, "a clone of as much", err)
	}
}
