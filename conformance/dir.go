package conformance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
)

var dirTests = []test{
	{"Mkdir", testMkdir},
	{"MkdirAll", testMkdirAll},
	{"MkdirRace", testMkdirRace},
	{"Sorted", testListSorted},
	{"Entries", testListEntries},
	{"Stream", testListStream},
	{"Refused", testListRefused},
	{"Huge", testListHuge},
	{"Changing", testDirChanging},
	{"Removed", testListRemovedDir},
}

func testMkdir(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	for i, m := range []fs.FileMode{0, 0o700, 0o755, 0o777, 0o500, 0o333, fs.ModeSticky | 0o777, fs.ModeSetgid | 0o775} {
		p := fmt.Sprint("dir/", i)
		must(t, "mkdir", f.Mkdir(f.ctx, p, m))
		equal(t, "mode", f.lstat(p).Mode, fs.ModeDir|m)
		f.remove(p)
	}
	before := f.tree()
	cases := map[string]error{
		"file": vole.ErrExists, "dir": vole.ErrExists, "full/x": vole.ErrExists, ".": vole.ErrExists, "/": vole.ErrExists,
		"nosuch/x": vole.ErrNotExist, "file/x": vole.ErrNotDir,
	}
	if e.caps.Links {
		cases["link"], cases["link/x"] = vole.ErrExists, vole.ErrNotDir
		f.symlink("nosuch", "dangling")
		cases["dangling"], cases["dangling/x"] = vole.ErrExists, vole.ErrNotExist
		before = f.tree()
	}
	for p, want := range cases {
		wantErr(t, "mkdir "+p, f.Mkdir(f.ctx, p, 0o755), want)
	}
	f.unchanged("refused mkdirs", before)
	f.used("directories count nothing", int64(len("content")+len("inner")))
}

func testMkdirAll(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "mkdir", f.MkdirAll(f.ctx, "a/b/c/d", 0o750))
	equal(t, "mode", f.lstat("a/b/c/d").Mode, fs.ModeDir|0o750)
	must(t, "mkdir again", f.MkdirAll(f.ctx, "a/b/c/d", 0o700))
	equal(t, "mode of what was there", f.lstat("a/b/c/d").Mode, fs.ModeDir|0o750)
	for _, p := range []string{".", "/", "", "a", "full"} {
		ok(t, fmt.Sprintf("mkdir of %q, which is there", p), f.MkdirAll(f.ctx, p, 0o755))
	}
	before := f.tree()
	for _, p := range []string{"file", "file/x", "file/x/y", "full/x", "full/x/y"} {
		wantErr(t, "mkdir "+p, f.MkdirAll(f.ctx, p, 0o755), vole.ErrNotDir)
	}
	f.unchanged("refused mkdirs", before)
	if e.caps.Links {
		f.symlink("a/b", "ln")
		must(t, "mkdir through a link", f.MkdirAll(f.ctx, "ln/new/deep", 0o755))
		f.hasNames("a/b", "c", "new")
		f.symlink("file", "fileln")
		wantErr(t, "mkdir through a link to a file", f.MkdirAll(f.ctx, "fileln/x", 0o755), vole.ErrNotDir)
	}
}

func testMkdirRace(t *testing.T, e *env) {
	f := e.files(t)
	for i := range 4 {
		oneWins(t, race(8, func(int) error { return f.Mkdir(f.ctx, fmt.Sprint("d", i), 0o755) }), vole.ErrExists)
	}
	errs := race(8, func(i int) error { return f.MkdirAll(f.ctx, fmt.Sprint("all/of/them/", i%2), 0o755) })
	ok(t, "mkdir all", errors.Join(errs...))
	f.hasNames("all/of/them", "0", "1")
}

func testListSorted(t *testing.T, e *env) {
	f := e.files(t)
	want := []string{"-", ".a", "0", "10", "9", "A", "Z", "a", "a b", "a-b", "a.b", "aa", "a~", "b", "z", "é", "日"}
	for i := range want {
		f.write("d/"+want[i*7%len(want)], "x") // in another order
	}
	f.hasNames("d", want...)
	for _, n := range []int{1, 2, 5, 1000} {
		got := readDirBy(t, f, "d", n, vole.DirOptions{Sorted: true})
		if !slices.Equal(got, want) {
			t.Errorf("read %d at a time: %q, want %q", n, got, want)
		}
	}
}

// readDirBy lists a directory n entries at a time.
func readDirBy(t *testing.T, f *files, p string, n int, opts vole.DirOptions) []string {
	t.Helper()
	d, err := f.OpenDir(f.ctx, p, opts)
	must(t, "open dir", err)
	defer d.Close()
	var got []string
	for {
		list, err := d.Read(f.ctx, n)
		if err != nil {
			if err != io.EOF || len(list) != 0 {
				t.Fatalf("end of the list: %d entries, %v", len(list), err)
			}
			break
		}
		if len(list) == 0 || len(list) > n {
			t.Fatalf("%d entries when %d were asked for", len(list), n)
		}
		for _, e := range list {
			got = append(got, e.Name)
		}
	}
	if list, err := d.Read(f.ctx, n); err != io.EOF || len(list) != 0 {
		t.Errorf("read after the end: %d entries, %v", len(list), err)
	}
	ok(t, "close", d.Close())
	return got
}

// An entry of a listing is what Lstat says of the file.
func testListEntries(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	if e.caps.Links {
		f.symlink("dir", "dirlink")
		f.symlink("/outside", "dangling")
		f.link("file", "hard")
	}
	for _, opts := range []vole.DirOptions{{}, {Sorted: true}, {NamesOnly: true}, {Sorted: true, NamesOnly: true}} {
		d, err := f.OpenDir(f.ctx, ".", opts)
		must(t, "open dir", err)
		n := 0
		for {
			list, err := d.Read(f.ctx, 3)
			if err == io.EOF {
				break
			}
			must(t, "read", err)
			for _, got := range list {
				n++
				checkEntry(t, f, got, opts)
			}
		}
		ok(t, "close", d.Close())
		equal(t, "entries", n, len(f.names(".")))
	}
}

func checkEntry(t *testing.T, f *files, got vole.Entry, opts vole.DirOptions) {
	t.Helper()
	want := f.lstat(got.Name)
	if opts.NamesOnly {
		equal(t, "name", got.Name, want.Name)
		equal(t, "type of "+got.Name, got.Mode.Type(), want.Mode.Type())
		return
	}
	got.Atime = want.Atime
	if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
		t.Errorf("listed as %s, lstat says %s", a, b)
	}
}

func testListStream(t *testing.T, e *env) {
	f := e.files(t)
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprintf("f%02d", i))
		f.write("d/"+want[i], "")
	}
	for _, opts := range []vole.DirOptions{{}, {NamesOnly: true}} {
		for _, n := range []int{1, 7, 50, 51} {
			got := readDirBy(t, f, "d", n, opts)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("read %d at a time: %q, want %q", n, got, want)
			}
		}
	}
	var got []string
	for e, err := range f.Entries(f.ctx, "d") {
		must(t, "entries", err)
		got = append(got, e.Name)
		if len(got) == 10 {
			break
		}
	}
	equal(t, "entries until the break", len(got), 10)
	f.mkdir("empty")
	f.hasNames("empty")
}

func testListRefused(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	cases := map[string]error{"file": vole.ErrNotDir, "nosuch": vole.ErrNotExist, "file/x": vole.ErrNotDir, "full/x": vole.ErrNotDir}
	if e.caps.Links {
		f.symlink("full", "dirlink")
		f.hasNames("dirlink", "x")
		f.symlink("nosuch", "dangling")
		cases["link"], cases["dangling"] = vole.ErrNotDir, vole.ErrNotExist
	}
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	cases["fifo"] = vole.ErrNotDir
	for p, want := range cases {
		wantErr(t, "list "+p, within(t, func() error { _, err := f.ReadDir(f.ctx, p); return err }), want)
	}
}

// hugeDir makes a directory of n empty files, quickly.
func hugeDir(t *testing.T, f *files, n int) {
	t.Helper()
	b := f.beside(vole.FSOptions{Batch: true})
	must(t, "mkdir", b.MkdirAll(t.Context(), "huge", 0o755))
	errs := race(4, func(i int) error {
		for j := i; j < n; j += 4 {
			h, err := b.Open(t.Context(), fmt.Sprintf("huge/f%05d", j), vole.OpenOptions{Create: true, Exclusive: true})
			if err == nil {
				err = h.Close()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "create", errors.Join(errs...))
	must(t, "sync", b.Sync(t.Context()))
}

func testListHuge(t *testing.T, e *env) {
	n := 5000
	if testing.Short() {
		n = 1500
	}
	f := e.files(t)
	hugeDir(t, f, n)
	got := f.names("huge")
	equal(t, "entries", len(got), n)
	for i, name := range got {
		if want := fmt.Sprintf("f%05d", i); name != want {
			t.Fatalf("entry %d is %s, want %s", i, name, want)
		}
	}
	seen := map[string]bool{}
	for e, err := range f.Entries(f.ctx, "huge") {
		must(t, "entries", err)
		seen[e.Name] = true
	}
	equal(t, "different entries of the stream", len(seen), n)
	must(t, "remove all", f.RemoveAll(f.ctx, "huge"))
	f.exists("huge", false)
}

// While a directory changes, what stays in it is listed, once.
func testDirChanging(t *testing.T, e *env) {
	const n = 1200
	f := e.files(t)
	hugeDir(t, f, n)
	churn := f.beside(vole.FSOptions{Batch: true})
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for j := 0; !done.Load(); j++ {
				a, b := fmt.Sprintf("huge/churn%d-%d", i, j), fmt.Sprintf("huge/moved%d-%d", i, j)
				err := errors.Join(churn.WriteFile(f.ctx, a, nil, 0o644), churn.Rename(f.ctx, a, b, vole.RenameOptions{}), churn.Remove(f.ctx, b))
				if err != nil {
					t.Errorf("churn: %v", err)
					return
				}
			}
		})
	}
	for round := range 6 {
		opts := vole.DirOptions{Sorted: round%2 == 0, NamesOnly: round%3 == 0}
		count := map[string]int{}
		for _, name := range readDirBy(t, f, "huge", 100, opts) {
			count[name]++
		}
		for i := range n {
			if c := count[fmt.Sprintf("f%05d", i)]; c != 1 {
				t.Errorf("f%05d was listed %d times with %+v", i, c, opts)
			}
		}
	}
	done.Store(true)
	wg.Wait()
}

func testListRemovedDir(t *testing.T, e *env) {
	f := e.files(t)
	f.write("d/a", "")
	f.write("d/b", "")
	d, err := f.OpenDir(f.ctx, "d", vole.DirOptions{})
	must(t, "open dir", err)
	must(t, "remove all", f.RemoveAll(f.ctx, "d"))
	f.write("d/c", "") // a successor, which the open directory is not
	for {
		list, err := d.Read(f.ctx, 10)
		if err == io.EOF {
			break
		}
		if err != nil {
			wantErr(t, "read a directory that is gone", err, vole.ErrNotExist)
			break
		}
		for _, e := range list {
			if e.Name == "c" {
				t.Error("the open directory lists its successor's file")
			}
		}
	}
	ok(t, "close", d.Close())
}
