package conformance

import (
	"io"
	"io/fs"
	"testing"

	"github.com/volehq/vole"
)

var capsTests = []test{
	{"Backend", testCapsBackend},
	{"Dir", testCapsDir},
	{"Disk", testCapsDisk},
	{"Quota", testCapsQuota},
	{"Links", testCapsLinks},
	{"Xattrs", testCapsXattrs},
	{"Chown", testCapsChown},
	{"Devices", testCapsDevices},
	{"Holes", testCapsHoles},
}

// refusedCreate checks that spec is refused as unsupported and that nothing is left
// that would block the name.
func (e *env) refusedCreate(t *testing.T, spec vole.Spec) {
	t.Helper()
	_, err := e.store.Create(t.Context(), "refused", spec)
	wantErrOf(t, "create", err, vole.ErrUnsupported, "create", "refused")
	_, err = e.store.Get(t.Context(), "refused")
	wantErr(t, "get after a refused create", err, vole.ErrNotFound)
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes after a refused create", len(all), 0)
	e.create(t, "refused")
}

func testCapsBackend(t *testing.T, e *env) {
	if e.caps.Backend == "" {
		t.Error("the backend has no name")
	}
	equal(t, "caps asked again", e.store.Caps(), e.caps)
	equal(t, "read-only", e.caps.ReadOnly, false)
	if !e.caps.Dir && !e.caps.Disk {
		t.Error("the backend claims no kind of volume")
	}
}

func testCapsDir(t *testing.T, e *env) {
	if e.caps.Dir {
		equal(t, "kind", e.createSpec(t, "v", vole.Spec{}).Info().Kind, vole.KindDir)
		return
	}
	e.refusedCreate(t, vole.Spec{Kind: vole.KindDir})
}

func testCapsDisk(t *testing.T, e *env) {
	spec := vole.Spec{Kind: vole.KindDisk, Capacity: 128 * vole.MiB}
	if e.caps.Disk {
		info := e.createSpec(t, "v", spec).Info()
		equal(t, "kind", info.Kind, vole.KindDisk)
		equal(t, "capacity", info.Capacity, 128*vole.MiB)
		return
	}
	e.refusedCreate(t, spec)
}

func testCapsQuota(t *testing.T, e *env) {
	need(t, e.caps.Dir, "dir volumes")
	if e.caps.Quota {
		equal(t, "quota", e.createSpec(t, "v", vole.Spec{Quota: 1}).Info().Quota, 1)
		return
	}
	e.refusedCreate(t, vole.Spec{Quota: vole.GiB})
	v := e.createSpec(t, "v", vole.Spec{})
	wantErr(t, "set a quota", v.Update(t.Context(), vole.Update{Quota: vole.GiB}), vole.ErrUnsupported)
}

func testCapsLinks(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	if e.caps.Links {
		ok(t, "link", f.Link(f.ctx, "f", "hard"))
		ok(t, "symlink", f.Symlink(f.ctx, "f", "soft"))
		return
	}
	before := f.tree()
	wantErr(t, "link", f.Link(f.ctx, "f", "hard"), vole.ErrUnsupported)
	wantErr(t, "symlink", f.Symlink(f.ctx, "f", "soft"), vole.ErrUnsupported)
	f.unchanged("refused links", before)
}

func testCapsXattrs(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	if e.caps.Xattrs {
		ok(t, "setxattr", f.Setxattr(f.ctx, "f", "user.a", []byte("v")))
		return
	}
	wantErr(t, "setxattr", f.Setxattr(f.ctx, "f", "user.a", []byte("v")), vole.ErrUnsupported)
	_, err := f.Getxattr(f.ctx, "f", "user.a")
	wantErr(t, "getxattr", err, vole.ErrUnsupported)
	_, err = f.Listxattr(f.ctx, "f")
	wantErr(t, "listxattr", err, vole.ErrUnsupported)
	wantErr(t, "removexattr", f.Removexattr(f.ctx, "f", "user.a"), vole.ErrUnsupported)
}

func testCapsChown(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	was := f.lstat("f")
	err := f.Chown(f.ctx, "f", 12345, 54321)
	now := f.lstat("f")
	if e.caps.Chown {
		ok(t, "chown", err)
		equal(t, "uid", now.UID, 12345)
		equal(t, "gid", now.GID, 54321)
		return
	}
	wantAny(t, "chown", err, vole.ErrUnsupported, vole.ErrPermission)
	equal(t, "uid", now.UID, was.UID)
	equal(t, "gid", now.GID, was.GID)
}

func testCapsDevices(t *testing.T, e *env) {
	f := e.files(t)
	kinds := map[string]fs.FileMode{"char": fs.ModeDevice | fs.ModeCharDevice, "block": fs.ModeDevice}
	const rdev = 1<<8 | 3 // as makedev(1, 3): /dev/null, were it opened
	for name, kind := range kinds {
		err := f.Mknod(f.ctx, name, kind|0o600, rdev)
		if !e.caps.Devices {
			wantAny(t, "mknod "+name, err, vole.ErrUnsupported, vole.ErrPermission)
			f.exists(name, false)
			f.mkdir("d")
			err = f.Mknod(f.ctx, "d/"+name, kind|0o600, rdev)
			wantAny(t, "mknod d/"+name, err, vole.ErrUnsupported, vole.ErrPermission)
			f.exists("d/"+name, false)
			f.remove("d")
			continue
		}
		must(t, "mknod "+name, err)
		equal(t, name+"'s mode", f.lstat(name).Mode, kind|0o600)
		equal(t, name+"'s number", f.lstat(name).Rdev, rdev)
		_, err = f.Open(f.ctx, name, vole.OpenOptions{Write: true})
		wantErr(t, "open "+name, err, vole.ErrUnsupported)
	}
}

func testCapsHoles(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "")
	const size, at = 8 << 20, 6 << 20
	h := f.open("f", vole.OpenOptions{Write: true})
	_, err := h.WriteAt(f.ctx, []byte("data"), at)
	must(t, "write", err)
	must(t, "extend", h.Truncate(f.ctx, size))
	start, end, err := h.NextData(f.ctx, 0)
	must(t, "next data", err)
	if !e.caps.Holes {
		if start != 0 || end != size {
			t.Errorf("first data %d to %d of a backend without holes, want 0 to %d", start, end, size)
		}
		return
	}
	if start < at-1<<20 || start > at || end <= at || end >= size {
		t.Errorf("first data %d to %d, want a little about %d", start, end, at)
	}
	_, _, err = h.NextData(f.ctx, end)
	if err != io.EOF {
		t.Errorf("data after the last: %v", err)
	}
	if a := f.lstat("f").Allocated; a <= 0 || a > 2<<20 {
		t.Errorf("%d bytes are allocated for 4 bytes of data", a)
	}
}
