package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var xattrTests = []test{
	{"SetGet", testXattrSetGet},
	{"List", testXattrList},
	{"Missing", testXattrMissing},
	{"Namespaces", testXattrNamespaces},
	{"Links", testXattrLinks},
	{"Large", testXattrLarge},
}

func (f *files) hasXattr(p, name, want string) {
	f.t.Helper()
	got, err := f.Getxattr(f.ctx, p, name)
	if err != nil || string(got) != want {
		f.t.Errorf("%s of %s is %q, %v, want %q", name, p, got, err, want)
	}
}

func testXattrSetGet(t *testing.T, e *env) {
	need(t, e.caps.Xattrs, "extended attributes")
	f := e.files(t)
	f.fixture()
	for _, p := range []string{"file", "dir", "."} {
		for _, v := range []string{"v", "", "binary\x00\xff\n", pattern(1, 1000), "shorter"} {
			must(t, "setxattr", f.Setxattr(f.ctx, p, "user.a", []byte(v)))
			f.hasXattr(p, "user.a", v)
		}
		must(t, "removexattr", f.Removexattr(f.ctx, p, "user.a"))
		_, err := f.Getxattr(f.ctx, p, "user.a")
		wantErr(t, "getxattr after removal", err, vole.ErrNoXattr)
	}
	f.holds("file", "content")
	f.used("attributes count nothing", int64(len("content")+len("inner")))

	// A write by path makes a new file of that name; a write by handle does not.
	must(t, "setxattr", f.Setxattr(f.ctx, "file", "user.a", []byte("v")))
	h := f.open("file", vole.OpenOptions{Write: true})
	_, err := h.WriteAt(f.ctx, []byte("C"), 0)
	must(t, "write", err)
	f.hasXattr("file", "user.a", "v")
}

func testXattrList(t *testing.T, e *env) {
	need(t, e.caps.Xattrs, "extended attributes")
	f := e.files(t)
	f.write("f", "x")
	list, err := f.Listxattr(f.ctx, "f")
	must(t, "listxattr", err)
	equal(t, "attributes of a new file", len(list), 0)
	want := []string{"user.A", "user.a", "user.b.c", "user.z", "user.ü"}
	for i := range want {
		must(t, "setxattr", f.Setxattr(f.ctx, "f", want[(i*3)%5], []byte("v")))
	}
	list, err = f.Listxattr(f.ctx, "f")
	must(t, "listxattr", err)
	if !slices.Equal(list, want) {
		t.Errorf("attributes %q, want %q", list, want)
	}
	for i, name := range want {
		must(t, "removexattr", f.Removexattr(f.ctx, "f", name))
		list, err = f.Listxattr(f.ctx, "f")
		must(t, "listxattr", err)
		if !slices.Equal(list, want[i+1:]) {
			t.Errorf("attributes %q, want %q", list, want[i+1:])
		}
	}
}

func testXattrMissing(t *testing.T, e *env) {
	need(t, e.caps.Xattrs, "extended attributes")
	f := e.files(t)
	f.fixture()
	for _, p := range []string{"file", "dir", "."} {
		_, err := f.Getxattr(f.ctx, p, "user.nosuch")
		wantErr(t, "getxattr", err, vole.ErrNoXattr)
		wantErr(t, "removexattr", f.Removexattr(f.ctx, p, "user.nosuch"), vole.ErrNoXattr)
	}
	_, err := f.Getxattr(f.ctx, "nosuch", "user.k")
	wantErr(t, "getxattr of a missing file", err, vole.ErrNotExist)
	f.hasXattr("file", "user.k", "v")
}

// Only the namespace "user." exists.
func testXattrNamespaces(t *testing.T, e *env) {
	need(t, e.caps.Xattrs, "extended attributes")
	f := e.files(t)
	f.write("f", "x")
	for _, name := range []string{"nosuch.attr", "plain", "user", "user.", "USER.a", ".a"} {
		err := f.Setxattr(f.ctx, "f", name, []byte("v"))
		wantAny(t, fmt.Sprintf("setxattr %q", name), err, vole.ErrUnsupported, vole.ErrInvalid)
		if _, err := f.Getxattr(f.ctx, "f", name); err == nil {
			t.Errorf("attribute %q was read", name)
		}
	}
	list, err := f.Listxattr(f.ctx, "f")
	must(t, "listxattr", err)
	equal(t, "attributes", len(list), 0)
}

// Attributes by path are the link's own. Where links have none, the call must not reach the
// attributes of the link's target.
func testXattrLinks(t *testing.T, e *env) {
	need(t, e.caps.Xattrs && e.caps.Links, "extended attributes and links")
	f := e.files(t)
	f.fixture()
	if err := f.Setxattr(f.ctx, "link", "user.onlink", []byte("v")); err != nil {
		wantAny(t, "setxattr of a link", err, vole.ErrPermission, vole.ErrUnsupported)
	}
	_, err := f.Getxattr(f.ctx, "file", "user.onlink")
	wantErr(t, "getxattr of the file", err, vole.ErrNoXattr)
	if v, err := f.Getxattr(f.ctx, "link", "user.k"); err == nil {
		t.Errorf("the link has the file's attribute %q", v)
	}
	if err := f.Removexattr(f.ctx, "link", "user.k"); err == nil {
		t.Error("the file's attribute was removed from the link")
	}
	f.hasXattr("file", "user.k", "v")

	f.link("file", "hard")
	f.hasXattr("hard", "user.k", "v")
	f.symlink("dir", "dirlink")
	f.write("dir/f", "x")
	must(t, "setxattr through a link", f.Setxattr(f.ctx, "dirlink/f", "user.a", []byte("1")))
	f.hasXattr("dir/f", "user.a", "1")
}

// Backends differ in how much fits. Too much is refused, and attributes set before stay.
func testXattrLarge(t *testing.T, e *env) {
	need(t, e.caps.Xattrs, "extended attributes")
	f := e.files(t)
	f.write("f", "x")
	must(t, "setxattr", f.Setxattr(f.ctx, "f", "user.small", []byte("stays")))
	for _, n := range []int{2000, 4096, 30_000, 64 << 10} {
		v := pattern(n, n)
		err := f.Setxattr(f.ctx, "f", "user.large", []byte(v))
		if err == nil {
			f.hasXattr("f", "user.large", v)
			continue
		}
		wantAny(t, fmt.Sprintf("setxattr of %d bytes", n), err, vole.ErrNoSpace, vole.ErrUnsupported, vole.ErrInvalid)
		if n <= 2000 {
			t.Errorf("an attribute of %d bytes was refused: %v", n, err)
		}
	}
	f.hasXattr("f", "user.small", "stays")
	must(t, "setxattr of a long name", f.Setxattr(f.ctx, "f", "user."+strings.Repeat("n", 250), []byte("v")))
}
