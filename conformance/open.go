package conformance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var openTests = []test{
	{"Matrix", testOpenMatrix},
	{"Modes", testOpenModes},
	{"NotFiles", testOpenNotFiles},
	{"Links", testOpenLinks},
	{"Entry", testOpenEntry},
	{"ExclusiveRace", testOpenExclusiveRace},
	{"ReadOnlyHandle", testOpenReadOnlyHandle},
	{"AppendHandle", testOpenAppendHandle},
	{"NoParents", testOpenNoParents},
}

func testOpenMatrix(t *testing.T, e *env) {
	f := e.files(t)
	cases := []struct {
		opts         vole.OpenOptions
		there, gone  error  // when the file is there, and when it is missing
		left, create string // the content afterwards
	}{
		{vole.OpenOptions{}, nil, vole.ErrNotExist, "old", ""},
		{vole.OpenOptions{Write: true}, nil, vole.ErrNotExist, "old", ""},
		{vole.OpenOptions{Append: true}, nil, vole.ErrNotExist, "old", ""},
		{vole.OpenOptions{Write: true, Truncate: true}, nil, vole.ErrNotExist, "", ""},
		{vole.OpenOptions{Append: true, Truncate: true}, nil, vole.ErrNotExist, "", ""},
		{vole.OpenOptions{Create: true}, nil, nil, "old", ""},
		{vole.OpenOptions{Create: true, Append: true}, nil, nil, "old", ""},
		{vole.OpenOptions{Create: true, Truncate: true}, nil, nil, "", ""},
		{vole.OpenOptions{Create: true, Exclusive: true}, vole.ErrExists, nil, "old", ""},
		{vole.OpenOptions{Create: true, Exclusive: true, Truncate: true}, vole.ErrExists, nil, "old", ""},
	}
	result := func(what string, h *vole.File, err, want error) {
		t.Helper()
		if err == nil {
			defer h.Close()
		}
		if want == nil {
			ok(t, what, err)
		} else {
			wantErr(t, what, err, want)
		}
	}
	for _, c := range cases {
		must(t, "write", f.WriteFile(f.ctx, "f", []byte("old"), 0o604))
		h, err := f.Open(f.ctx, "f", c.opts)
		result(fmt.Sprintf("open with %+v", c.opts), h, err, c.there)
		f.holds("f", c.left)
		equal(t, "mode of a file that was there", f.lstat("f").Mode, 0o604)

		h, err = f.Open(f.ctx, "new", c.opts)
		result(fmt.Sprintf("open of a missing file with %+v", c.opts), h, err, c.gone)
		f.exists("new", c.gone == nil)
		if c.gone == nil {
			f.holds("new", "")
			f.remove("new")
		}
	}
	f.used("after all", 3)
}

func testOpenModes(t *testing.T, e *env) {
	f := e.files(t)
	for i, m := range permissions {
		p := fmt.Sprint("f", i)
		h, err := f.Open(f.ctx, p, vole.OpenOptions{Create: true, Mode: m})
		must(t, "open", err)
		// The mode applies to later calls of Open.
		_, err = h.WriteAt(f.ctx, []byte("x"), 0)
		ok(t, fmt.Sprintf("write to a new file of mode %v", m), err)
		ok(t, "close", h.Close())
		got := f.lstat(p).Mode
		if m&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			got, m = got.Perm(), m.Perm() // a write may take these away
		}
		equal(t, "mode of a new file", got, m)
	}
	f.open("plain", vole.OpenOptions{Create: true})
	equal(t, "mode by default", f.lstat("plain").Mode, 0o644)
	for _, m := range permissions {
		f.open("exact", vole.OpenOptions{Create: true, Exclusive: true, Mode: m})
		equal(t, "mode of an untouched new file", f.lstat("exact").Mode, m)
		f.remove("exact")
	}
}

// Only files and directories are opened, and no call blocks on a fifo.
func testOpenNotFiles(t *testing.T, e *env) {
	f := e.files(t)
	f.mkdir("dir")
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o666, 0))
	must(t, "socket", f.Mknod(f.ctx, "socket", fs.ModeSocket|0o666, 0))
	if e.caps.Links {
		f.symlink("fifo", "fifolink")
		f.symlink("dir", "dirlink")
	}
	before := f.tree()
	for _, opts := range []vole.OpenOptions{{}, {Write: true}, {Append: true}, {Create: true}, {Create: true, Truncate: true}} {
		for _, p := range []string{"dir", ".", "dirlink"} {
			if p == "dirlink" && !e.caps.Links {
				continue
			}
			_, err := f.Open(f.ctx, p, opts)
			wantErr(t, fmt.Sprintf("open %s with %+v", p, opts), err, vole.ErrIsDir)
		}
		for _, p := range []string{"fifo", "socket", "fifolink"} {
			if p == "fifolink" && !e.caps.Links {
				continue
			}
			wantErr(t, fmt.Sprintf("open %s with %+v", p, opts), within(t, func() error {
				_, err := f.Open(f.ctx, p, opts)
				return err
			}), vole.ErrUnsupported)
		}
	}
	_, err := f.ReadFile(f.ctx, "fifo")
	wantErr(t, "read a fifo", err, vole.ErrUnsupported)
	wantAny(t, "truncate a fifo", within(t, func() error { return f.Truncate(f.ctx, "fifo", 0) }), vole.ErrUnsupported, vole.ErrInvalid)
	f.unchanged("refused opens", before)
}

// within ends the test when fn does not return in half a minute.
func within(t *testing.T, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the call does not return")
		return nil
	}
}

func testOpenLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("d/file", "data")
	f.symlink("d/file", "link")
	f.symlink("d", "dirlink")
	f.symlink("d/later", "dangling")
	f.symlink("loop", "loop")

	h := f.open("link", vole.OpenOptions{Write: true})
	_, err := h.WriteAt(f.ctx, []byte("DATA"), 0)
	must(t, "write through a link", err)
	f.holds("d/file", "DATA")

	for _, p := range []string{"link", "dangling", "dirlink", "loop"} {
		for _, opts := range []vole.OpenOptions{{NoFollow: true}, {NoFollow: true, Write: true}, {NoFollow: true, Create: true}} {
			_, err := f.Open(f.ctx, p, opts)
			wantErr(t, fmt.Sprintf("open %s with %+v", p, opts), err, vole.ErrLoop)
		}
	}
	f.open("dirlink/file", vole.OpenOptions{NoFollow: true})
	f.open("d/file", vole.OpenOptions{NoFollow: true, Create: true})

	_, err = f.Open(f.ctx, "dangling", vole.OpenOptions{})
	wantErr(t, "open a dangling link", err, vole.ErrNotExist)
	_, err = f.Open(f.ctx, "dangling", vole.OpenOptions{Create: true, Exclusive: true})
	wantErr(t, "create over a dangling link", err, vole.ErrExists)
	f.exists("d/later", false)
	f.open("dangling", vole.OpenOptions{Create: true})
	f.exists("d/later", true)
	f.isLink("dangling", "d/later")
	_, err = f.Open(f.ctx, "loop", vole.OpenOptions{Create: true})
	wantErr(t, "create through a loop", err, vole.ErrLoop)
}

// OpenEntry describes the file that it opened, whatever becomes of the name, and opens
// nothing but regular files.
func testOpenEntry(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	refused := map[string]error{"missing": vole.ErrNotExist, "file/x": vole.ErrNotDir, "dir": vole.ErrIsDir, ".": vole.ErrIsDir, "fifo": vole.ErrUnsupported}
	if e.caps.Links {
		f.symlink("full", "dirlink")
		f.symlink("../outside", "out")
		refused["link"], refused["dirlink"], refused["out/x"] = vole.ErrLoop, vole.ErrLoop, vole.ErrPathEscape
		checkOpenEntry(t, f, "dirlink/x", "inner")
	}
	for p, want := range refused {
		wantErr(t, "open "+p, within(t, func() error {
			_, _, err := f.OpenEntry(f.ctx, p)
			return err
		}), want)
	}
	for p, content := range map[string]string{"file": "content", "full/x": "inner", "/full/x": "inner"} {
		checkOpenEntry(t, f, p, content)
	}

	h, entry, err := f.OpenEntry(f.ctx, "full/x")
	must(t, "open", err)
	f.write("full/x", "another file")
	now, err := h.Stat(f.ctx)
	must(t, "stat", err)
	equal(t, "size of what was opened", now.Size, entry.Size)
	_, err = h.WriteAt(f.ctx, []byte("x"), 0)
	wantErr(t, "write", err, vole.ErrReadOnly)
	ok(t, "close", h.Close())
	_, err = h.ReadAt(f.ctx, make([]byte, 1), 0)
	wantErr(t, "read after close", err, vole.ErrClosed)
}

func checkOpenEntry(t *testing.T, f *files, p, content string) {
	t.Helper()
	want := f.lstat(p)
	h, got, err := f.OpenEntry(f.ctx, p)
	must(t, "open "+p, err)
	defer h.Close()
	if got.NoXattrs {
		attrs, err := f.Listxattr(f.ctx, p)
		if err == nil && len(attrs) > 0 {
			t.Errorf("%s is said to have no attributes, and has %v", p, attrs)
		}
	}
	got.Atime, got.NoXattrs = want.Atime, want.NoXattrs
	if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
		t.Errorf("opened as %s, lstat says %s", a, b)
	}
	buf := make([]byte, 100)
	n, err := h.ReadAt(f.ctx, buf, 0)
	if string(buf[:n]) != content || !errors.Is(err, io.EOF) {
		t.Errorf("%s holds %q, %v, want %q", p, buf[:n], err, content)
	}
}

func testOpenExclusiveRace(t *testing.T, e *env) {
	f := e.files(t)
	for i := range 5 {
		oneWins(t, race(8, func(int) error {
			h, err := f.Open(f.ctx, fmt.Sprint("f", i), vole.OpenOptions{Create: true, Exclusive: true})
			if err != nil {
				return err
			}
			return h.Close()
		}), vole.ErrExists)
	}
	errs := race(8, func(int) error {
		h, err := f.Open(f.ctx, "shared", vole.OpenOptions{Create: true})
		if err != nil {
			return err
		}
		return h.Close()
	})
	ok(t, "create without Exclusive", errors.Join(errs...))
}

func testOpenReadOnlyHandle(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	h := f.open("f", vole.OpenOptions{})
	for _, o := range handleOps {
		err := o.run(f.ctx, h)
		if o.changes {
			wantErr(t, o.name+" by a handle for reading", err, vole.ErrReadOnly)
		} else {
			ok(t, o.name+" by a handle for reading", err)
		}
	}
	f.holds("f", "data")
}

func testOpenAppendHandle(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	h := f.open("f", vole.OpenOptions{Append: true})
	_, err := h.WriteAt(f.ctx, []byte("X"), 0)
	wantErr(t, "write at an offset", err, vole.ErrInvalid)
	off, err := h.Append(f.ctx, []byte("+1"))
	must(t, "append", err)
	equal(t, "offset", off, 4)
	b := make([]byte, 6)
	_, err = h.ReadAt(f.ctx, b, 0)
	ok(t, "read", err)
	equal(t, "read by the handle", string(b), "data+1")
	f.holds("f", "data+1")
}

func testOpenNoParents(t *testing.T, e *env) {
	f := e.files(t)
	f.write("file", "x")
	before := f.tree()
	for p, want := range map[string]error{"nosuch/f": vole.ErrNotExist, "file/f": vole.ErrNotDir} {
		_, err := f.Open(f.ctx, p, vole.OpenOptions{Create: true})
		wantErr(t, "create "+p, err, want)
	}
	f.unchanged("refused creates", before)
}
