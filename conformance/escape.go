package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var escapeTests = []test{
	{"Links", testEscapeLinks},
	{"Sibling", testEscapeSibling},
	{"Trees", testEscapeTrees},
	{"Std", testEscapeStd},
	{"Dangling", testEscapeDangling},
	{"DotDotInLinks", testDotDotInLinks},
	{"PlantedByHost", testEscapePlanted},
}

const secret = "SECRET of the host"

// outside makes a directory of the host that no operation on a volume may touch. The
// test fails if anything in it has changed when it ends.
func outside(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "outside")
	must(t, "mkdir", os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	for _, p := range []string{"secret", "sub/inner", "only-outside"} {
		must(t, "write", os.WriteFile(filepath.Join(dir, p), []byte(secret), 0o666))
	}
	before := hostTree(t, dir)
	check = func() {
		t.Helper()
		if d := before.Diff(hostTree(t, dir)); d != "" {
			t.Errorf("something outside of the volume has changed:%s", d)
		}
	}
	t.Cleanup(check)
	return dir, check
}

// hostTree describes a directory of the host.
func hostTree(t *testing.T, dir string) tree {
	t.Helper()
	all := tree{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%v %d", info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += " " + string(b)
		}
		all[p] = s
		return nil
	})
	must(t, "walk outside", err)
	return all
}

// escapes are targets of links that lead to dir from anywhere in a volume.
func escapes(dir string) []string {
	up := strings.Repeat("../", 60)
	return []string{dir, "/", up + dir[1:], "./" + up + "./" + dir[1:], dir + "/secret", dir + "/new", up + dir[1:] + "/secret", "../..", "./.././../x"}
}

// cleanFixture puts the fixture back after an operation.
func (f *files) cleanFixture() {
	f.t.Helper()
	for _, p := range f.names(".") {
		if p != "lost+found" {
			must(f.t, "clean up", f.RemoveAll(f.ctx, p))
		}
	}
	f.fixture()
}

// Every operation, on and through every kind of link that leads out: an operation that follows
// the link is refused, one that acts on the link itself succeeds, and nothing out there changes.
func testEscapeLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	dir, check := outside(t)
	f := e.openFiles(t, e.create(t, "vol"), vole.FSOptions{Batch: true})
	for _, target := range escapes(dir) {
		f.refusedThroughLink(target)
		f.actsOnLink(target)
		check()
	}
}

// refusedThroughLink runs every operation through links to target, which leads out. All are
// refused and change nothing, so that one fixture serves them all.
func (f *files) refusedThroughLink(target string) {
	f.t.Helper()
	f.cleanFixture()
	f.symlink(target, "dir/evil")
	f.symlink("dir", "inner")
	before := f.tree()
	for _, o := range f.e.pathOps() {
		for _, p := range []string{"dir/evil/x", "inner/evil/secret", "dir/evil/sub/inner"} {
			err := o.run(f.ctx, f.FS, p)
			wantErr(f.t, fmt.Sprintf("%s of %s through a link to %.20s", o.name, p, target), err, vole.ErrPathEscape)
		}
	}
	f.isLink("dir/evil", target)
	if d := before.Diff(f.tree()); d != "" {
		f.t.Errorf("refused operations through a link to %.20s changed the volume: %s", target, d)
	}
}

// actsOnLink runs every operation on a link to target, which leads out.
func (f *files) actsOnLink(target string) {
	f.t.Helper()
	changed := true
	for _, o := range f.e.pathOps() {
		if changed {
			f.cleanFixture()
			f.symlink(target, "evil")
		}
		changed = o.changes
		checkOnLink(f.t, o, fmt.Sprintf("%s of a link to %.20s", o.name, target), o.run(f.ctx, f.FS, "evil"))
	}
}

// checkOnLink checks the result of an operation on a link that leads out.
func checkOnLink(t *testing.T, o pathOp, what string, err error) {
	t.Helper()
	switch {
	case strings.Contains(o.name, "xattr"):
		// Links have none on most systems. That is another test's.
	case o.last == follows:
		wantErr(t, what, err, vole.ErrPathEscape)
	case o.last == makes:
		wantErr(t, what, err, vole.ErrExists)
	case o.last == onLink:
		ok(t, what, err)
	case err == nil:
		t.Errorf("%s succeeded", what)
	}
}

// The volumes beside one are as much outside of it as the host is.
func testEscapeSibling(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	victim := e.openFiles(t, e.create(t, "victim"), vole.FSOptions{})
	victim.write("secret", secret)
	before := victim.tree()
	f := e.files(t)
	id := victim.vol.ID()
	var targets []string
	for _, up := range []string{"../", "../../", "../../../"} {
		for _, mid := range []string{id, id + "/data", "volumes/" + id + "/data", "victim"} {
			targets = append(targets, up+mid)
		}
	}
	if e.h.Root != nil {
		targets = append(targets, e.h.Root(t, e.store, victim.vol))
	}
	for i, target := range targets {
		p := fmt.Sprint("evil", i)
		f.symlink(target, p)
		_, err := f.ReadFile(f.ctx, p+"/secret")
		wantErr(t, "read through "+target, err, vole.ErrPathEscape)
		wantErr(t, "write through "+target, f.WriteFile(f.ctx, p+"/secret", []byte("x"), 0o644), vole.ErrPathEscape)
		wantErr(t, "remove through "+target, f.RemoveAll(f.ctx, p+"/secret"), vole.ErrPathEscape)
		_, err = f.ReadDir(f.ctx, p)
		wantErr(t, "list "+target, err, vole.ErrPathEscape)
	}
	victim.unchanged("attacks from another volume", before)
}

// Trees with links that lead out are listed, copied, moved and removed as they stand.
func testEscapeTrees(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	dir, check := outside(t)
	f := e.files(t)
	f.write("tree/sub/file", "data")
	for i, target := range escapes(dir) {
		f.symlink(target, fmt.Sprint("tree/sub/evil", i))
	}
	f.copy("tree", "copy")
	for i, target := range escapes(dir) {
		f.isLink(fmt.Sprint("copy/sub/evil", i), target)
	}
	must(t, "rename", f.Rename(f.ctx, "copy", "moved", vole.RenameOptions{}))
	must(t, "remove a tree", f.RemoveAll(f.ctx, "tree"))
	must(t, "remove a tree", f.RemoveAll(f.ctx, "moved"))
	f.hasNames(".", rootNames(e)...)
	f.used("at the end", 0)
	check()
}

func testEscapeStd(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	dir, _ := outside(t)
	f := e.files(t)
	f.symlink(dir, "d")
	f.symlink(dir+"/secret", "s")
	f.write("file", "data")
	std := f.Std(f.ctx)
	for _, p := range []string{"d", "s", "d/secret", "d/sub"} {
		if _, err := std.Open(p); !errors.Is(err, vole.ErrPathEscape) {
			t.Errorf("open %s: %v", p, err)
		}
		if _, err := fs.ReadFile(std, p); !errors.Is(err, vole.ErrPathEscape) {
			t.Errorf("read %s: %v", p, err)
		}
	}
	var seen []string
	err := fs.WalkDir(std, ".", func(p string, _ fs.DirEntry, err error) error {
		seen = append(seen, p)
		return err
	})
	ok(t, "walk", err)
	for _, p := range seen {
		if strings.Contains(p, "outside") || strings.Contains(p, "secret") {
			t.Errorf("the walk came to %s", p)
		}
	}
}

// A link that leads out to nothing makes nothing there.
func testEscapeDangling(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	dir, check := outside(t)
	f := e.files(t)
	f.symlink(dir+"/new", "evil")
	f.symlink(strings.Repeat("../", 60)+dir[1:]+"/new", "evil2")
	for _, p := range []string{"evil", "evil2"} {
		for _, opts := range []vole.OpenOptions{{Create: true}, {Create: true, Truncate: true}, {Create: true, Append: true}} {
			_, err := f.Open(f.ctx, p, opts)
			wantErr(t, fmt.Sprintf("create through %s with %+v", p, opts), err, vole.ErrPathEscape)
		}
		_, err := f.Open(f.ctx, p, vole.OpenOptions{Create: true, Exclusive: true})
		wantErr(t, "exclusive create over "+p, err, vole.ErrExists)
		if err := f.MkdirAll(f.ctx, p, 0o755); err == nil {
			t.Errorf("mkdir of %s succeeded", p)
		}
		wantErr(t, "mkdir through "+p, f.MkdirAll(f.ctx, p+"/a/b", 0o755), vole.ErrPathEscape)
		wantErr(t, "write through "+p, f.WriteFile(f.ctx, p+"/a/b", []byte("x"), 0o644), vole.ErrPathEscape)
		f.exists(p, true)
		_, err = f.Stat(f.ctx, p)
		wantErr(t, "stat of "+p, err, vole.ErrPathEscape)
		check()
		must(t, "write over "+p, f.WriteFile(f.ctx, p, []byte("inside"), 0o644))
		f.holds(p, "inside")
	}
	// A missing element comes before the "..", or after: both are errors.
	f.symlink("nosuch/../../../x", "evil3")
	err := within(t, func() error { _, err := f.Open(f.ctx, "evil3", vole.OpenOptions{Create: true}); return err })
	wantAny(t, "create through a link with a missing element", err, vole.ErrPathEscape, vole.ErrNotExist)
}

// ".." in a link is no attack as long as it stays within.
func testDotDotInLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("a/b/c/f", "data")
	f.write("top", "top")
	for p, target := range map[string]string{
		"a/b/up": "../../top", "a/b/c/around": "../../../a/b/c/f", "a/b/c/root": "../../..", "a/back": "../a/../a/./b/c/f",
	} {
		f.symlink(target, p)
	}
	f.holds("a/b/up", "top")
	f.holds("a/b/c/around", "data")
	f.holds("a/b/c/root/top", "top")
	f.holds("a/back", "data")
	f.write("a/b/c/root/a/new", "written through the root")
	f.holds("a/new", "written through the root")
	f.symlink("../../../..", "a/b/c/out")
	_, err := f.Stat(f.ctx, "a/b/c/out")
	wantErr(t, "one step too many", err, vole.ErrPathEscape)
	// Moved up, the same link leads out.
	must(t, "rename", f.Rename(f.ctx, "a/b/up", "up", vole.RenameOptions{}))
	_, err = f.Stat(f.ctx, "up")
	wantErr(t, "a link moved to where it leads out", err, vole.ErrPathEscape)
}

// The host swaps a directory that was in use for a link to another place.
func testEscapePlanted(t *testing.T, e *env) {
	if e.h.Spec.Kind == vole.KindDisk {
		t.Skip("for dir volumes")
	}
	if e.h.Root == nil {
		t.Skip("the backend keeps no files on this host")
	}
	dir, _ := outside(t)
	f := e.files(t)
	root := e.h.Root(t, e.store, f.vol)
	for _, o := range e.pathOps() {
		f.cleanFixture()
		f.mkdir("d/sub")
		f.write("d/secret", "mine")
		f.write("d/sub/inner", "mine")
		f.read("d/sub/inner") // whatever is kept of the way there is of no use later
		must(t, "swap", os.Rename(filepath.Join(root, "d"), filepath.Join(root, "away")))
		must(t, "swap", os.Symlink(dir, filepath.Join(root, "d")))
		for _, p := range []string{"d/secret", "d/sub/inner", "d/new"} {
			wantErr(t, o.name+" of "+p, o.run(f.ctx, f.FS, p), vole.ErrPathEscape)
		}
	}
}
