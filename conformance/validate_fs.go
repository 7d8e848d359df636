package conformance

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// Every operation refuses every bad path, in each place it takes one.
func testValidatePaths(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	cases := []struct {
		path string
		want error
		hint string
	}{
		{"..", vole.ErrPathEscape, "'..'"},
		{"../file", vole.ErrPathEscape, "'..'"},
		{"/..", vole.ErrPathEscape, "'..'"},
		{"full/..", vole.ErrPathEscape, "'..'"},
		{"full/../file", vole.ErrPathEscape, "'..'"},
		{"nosuch/../../../outside", vole.ErrPathEscape, "'..'"},
		{"a\x00b", vole.ErrInvalid, "NUL"},
		{"\x00", vole.ErrInvalid, "NUL"},
		{strings.Repeat("e", 256), vole.ErrInvalid, "255"},
		{"full/" + strings.Repeat("e", 256) + "/x", vole.ErrInvalid, "255"},
		{strings.Repeat("d/", 2050), vole.ErrInvalid, "4095"},
	}
	for _, o := range e.pathOps() {
		for _, c := range cases {
			what := fmt.Sprintf("%s of %.30q", o.name, c.path)
			err := o.run(f.ctx, f.FS, c.path)
			wantErrOf(t, what, err, c.want, o.op, "vol")
			saysHow(t, what, err, c.hint)
		}
	}
	f.unchanged("refused paths", before)
}

// Leading, trailing and doubled slashes and "." mean nothing.
func testPathForms(t *testing.T, e *env) {
	f := e.files(t)
	f.write("a/b/c", "data")
	for _, p := range []string{"a/b/c", "/a/b/c", "//a//b///c", "./a/./b/c", "a/b/c/", "a/b/c/."} {
		f.holds(p, "data")
		equal(t, "name", f.lstat(p).Name, "c")
	}
	f.write("/x//y/", "written")
	f.holds("x/y", "written")
	for _, root := range []string{"", ".", "/", "//", "./", "/."} {
		e := f.lstat(root)
		equal(t, "name of the root", e.Name, ".")
		equal(t, "type of the root", e.IsDir(), true)
		if got := f.names(root); !strings.Contains(strings.Join(got, " "), "a") {
			t.Errorf("%q lists %q", root, got)
		}
	}
}

// Names of files are bytes: what shells, globs, SQL and URLs see in them is nothing.
func testOddFileNames(t *testing.T, e *env) {
	f := e.files(t)
	odd := []string{
		" ", "a b", "-rf", "...", ".hidden", "..data", "*", "a\nb", "ü", "u\u0308", "日本", "%2e%2e", "%00", "a\\b", `"'`, "a;b", "$x",
		"a:b", "#", "?", "&", "+", "~", "NUL", "\x7f", "\x01", strings.Repeat("n", 255), strings.Repeat("ü", 127),
	}
	f.mkdir("d")
	for i, name := range odd {
		f.write("d/"+name, fmt.Sprint(i))
	}
	got := f.names("d")
	equal(t, "names", len(got), len(odd))
	for i, name := range odd {
		f.holds("d/"+name, fmt.Sprint(i))
		equal(t, "name", f.lstat("d/"+name).Name, name)
	}
	for _, name := range odd {
		must(t, fmt.Sprintf("rename %q", name), f.Rename(f.ctx, "d/"+name, "d/x", vole.RenameOptions{}))
		f.remove("d/x")
	}
	f.hasNames("d")

	// Bytes that are no UTF-8: kept as they are, or refused in so many words.
	err := f.WriteFile(f.ctx, "bad\xff", []byte("data"), 0o644)
	if err != nil {
		wantErr(t, "name that is no UTF-8", err, vole.ErrInvalid)
		return
	}
	f.holds("bad\xff", "data")
	f.exists("bad\ufffd", false)
}

func testValidateModes(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, m := range []fs.FileMode{fs.ModeDir | 0o755, fs.ModeSymlink | 0o777, fs.ModeAppend | 0o644, fs.ModeIrregular, 0o10000 | 0o644} {
		calls := map[string]error{
			"mkdir":    f.Mkdir(f.ctx, "new", m),
			"mkdirall": f.MkdirAll(f.ctx, "new", m),
			"chmod":    f.Chmod(f.ctx, "file", m),
			"write":    f.WriteFile(f.ctx, "new", nil, m),
		}
		_, calls["open"] = f.Open(f.ctx, "new", vole.OpenOptions{Create: true, Mode: m})
		for op, err := range calls {
			what := fmt.Sprintf("%s with mode %v", op, m)
			wantErr(t, what, err, vole.ErrInvalid)
			saysHow(t, what, err, "permission")
		}
	}
	for _, m := range []fs.FileMode{0o644, fs.ModeDir | 0o755, fs.ModeSymlink | 0o777, fs.ModeNamedPipe | fs.ModeAppend} {
		wantErr(t, fmt.Sprintf("mknod with mode %v", m), f.Mknod(f.ctx, "new", m, 0), vole.ErrInvalid)
	}
	f.unchanged("refused modes", before)
}

func testValidateArguments(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	h := f.open("file", vole.OpenOptions{Write: true})
	d, err := f.OpenDir(f.ctx, "full", vole.DirOptions{})
	must(t, "open dir", err)
	defer d.Close()
	calls := map[string]func() error{
		"truncate to -1":           func() error { return f.Truncate(f.ctx, "file", -1) },
		"file truncate to -1":      func() error { return h.Truncate(f.ctx, -1) },
		"read at -1":               func() error { _, err := h.ReadAt(f.ctx, make([]byte, 1), -1); return err },
		"write at -1":              func() error { _, err := h.WriteAt(f.ctx, []byte("x"), -1); return err },
		"punch at -1":              func() error { return h.PunchHole(f.ctx, -1, 1) },
		"punch of -1":              func() error { return h.PunchHole(f.ctx, 0, -1) },
		"next data at -1":          func() error { _, _, err := h.NextData(f.ctx, -1); return err },
		"reader at -1":             func() error { _, err := f.NewReader(f.ctx, "file", -1, 1); return err },
		"read 0 entries":           func() error { _, err := d.Read(f.ctx, 0); return err },
		"read -1 entries":          func() error { _, err := d.Read(f.ctx, -1); return err },
		"uid -2":                   func() error { return f.Chown(f.ctx, "file", -2, -1) },
		"gid 1<<32-1":              func() error { return f.Chown(f.ctx, "file", -1, 1<<32-1) },
		"exclusive without create": func() error { return openClose(f, vole.OpenOptions{Write: true, Exclusive: true}) },
		"truncate without write":   func() error { return openClose(f, vole.OpenOptions{Truncate: true}) },
		"symlink to nothing":       func() error { return f.Symlink(f.ctx, "", "new") },
		"symlink with NUL":         func() error { return f.Symlink(f.ctx, "a\x00b", "new") },
		"symlink of 4096 bytes":    func() error { return f.Symlink(f.ctx, strings.Repeat("t", 4096), "new") },
		"setxattr without a name":  func() error { return f.Setxattr(f.ctx, "file", "", nil) },
		"setxattr with NUL":        func() error { return f.Setxattr(f.ctx, "file", "user.a\x00b", nil) },
		"setxattr with a long name": func() error {
			return f.Setxattr(f.ctx, "file", "user."+strings.Repeat("n", 251), nil)
		},
		"setxattr of 64 KiB + 1":     func() error { return f.Setxattr(f.ctx, "file", "user.a", make([]byte, 64<<10+1)) },
		"getxattr without a name":    func() error { _, err := f.Getxattr(f.ctx, "file", ""); return err },
		"removexattr without a name": func() error { return f.Removexattr(f.ctx, "file", "") },
	}
	for what, call := range calls {
		err := call()
		wantErr(t, what, err, vole.ErrInvalid)
		if err != nil && len(err.Error()) < 20 {
			t.Errorf("%s: error %q does not say what to do", what, err)
		}
	}
	for name, at := range map[string]time.Time{"far past": time.Unix(-1<<62, 0), "far future": time.Unix(1<<62, 0)} {
		// A time that cannot be kept is refused, or kept as near as can be; it is no crash.
		if err := f.Chtimes(f.ctx, "dir", at, at); err != nil {
			wantErr(t, "chtimes to the "+name, err, vole.ErrInvalid)
		}
	}
	f.unchanged("refused arguments", before)
}

func openClose(f *files, opts vole.OpenOptions) error {
	h, err := f.Open(f.ctx, "file", opts)
	if err != nil {
		return err
	}
	return h.Close()
}
