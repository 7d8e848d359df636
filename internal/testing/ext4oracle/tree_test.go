package ext4oracle

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

// sample returns a tree in which every field of a node counts.
func sample() Tree {
	return Tree{
		".":   {Mode: TypeDir | 0o755, Size: 4096, Nlink: 3, Ino: 2},
		"dir": {Mode: TypeDir | 0o755, Size: 4096, Nlink: 2, Ino: 12},
		"f": {
			Mode: TypeRegular | 0o644, UID: 1, GID: 2, Size: 9000, Nlink: 2, Ino: 13, Blocks: 24,
			Xattrs: map[string]string{"user.a": "1", "user.b": ""},
			Data:   []Range{{0, 4096}},
		},
		"dir/f": {
			Mode: TypeRegular | 0o644, UID: 1, GID: 2, Size: 9000, Nlink: 2, Ino: 13, Blocks: 24,
			Xattrs: map[string]string{"user.a": "1", "user.b": ""},
			Data:   []Range{{0, 4096}},
		},
		"null":       {Mode: TypeChar | 0o666, Nlink: 1, Ino: 14, Major: 1, Minor: 3},
		"symlink":    {Mode: TypeSymlink | 0o777, Nlink: 1, Size: 1, Ino: 15, Target: "f"},
		"lost+found": {Mode: TypeDir | 0o700, Nlink: 2, Ino: 11},
	}
}

func TestDiff(t *testing.T) {
	for name, c := range map[string]struct {
		change func(Tree)
		want   string // in the difference
		ignore DiffOptions
		still  bool // is a difference even then
	}{
		"missing":       {func(b Tree) { delete(b, "null") }, "missing", SameContent, true},
		"not expected":  {func(b Tree) { b["new"] = &Node{Mode: TypeFIFO} }, "not expected: fifo", SameContent, true},
		"lost+found":    {func(b Tree) { delete(b, "lost+found") }, "missing", DiffOptions{LostFound: true}, false},
		"type":          {func(b Tree) { b["null"].Mode = TypeBlock | 0o666 }, "is block device", SameContent, true},
		"mode":          {func(b Tree) { b["f"].Mode |= 0o4000 }, "mode 4644, want 0644", SameContent, true},
		"uid":           {func(b Tree) { b["f"].UID = 70000 }, "owner 70000:2", SameContent, true},
		"gid":           {func(b Tree) { b["f"].GID = 70000 }, "owner 1:70000", SameContent, true},
		"size":          {func(b Tree) { b["f"].Size++ }, "size 9001", SameContent, true},
		"size of dir":   {func(b Tree) { b["dir"].Size *= 2 }, "size 8192", DiffOptions{DirSize: true}, false},
		"links":         {func(b Tree) { b["f"].Nlink++ }, "link count 3", SameContent, true},
		"links of dir":  {func(b Tree) { b["dir"].Nlink++ }, "link count 3", DiffOptions{DirNlink: true}, false},
		"links of dir2": {func(b Tree) { b["dir"].Nlink++ }, "link count 3", SameContent, true},
		"linked":        {func(b Tree) { b["null"].Ino = b["symlink"].Ino }, `hard link to "null", want ""`, SameContent, true},
		"inode":         {func(b Tree) { b["null"].Ino = 99 }, "inode 99, want 14", DiffOptions{Ino: true}, false},
		"not linked":    {func(b Tree) { b["f"].Ino = 99 }, `hard link to "", want "dir/f"`, SameContent, true},
		"blocks":        {func(b Tree) { b["f"].Blocks = 8 }, "8 sectors", DiffOptions{Blocks: true}, false},
		"device":        {func(b Tree) { b["null"].Minor = 5 }, "device 1:5", SameContent, true},
		"target":        {func(b Tree) { b["symlink"].Target = "g" }, `leads to "g"`, SameContent, true},
		"content":       {func(b Tree) { b["f"].Sum[5]++ }, "content", SameContent, true},
		"holes":         {func(b Tree) { b["f"].Data = []Range{{4096, 4096}} }, "data range 0", DiffOptions{Holes: true}, false},
		"no data":       {func(b Tree) { b["f"].Data = []Range{} }, "a hole where", DiffOptions{Holes: true}, false},
		"atime":         {func(b Tree) { b["f"].Atime.Nsec = 1 }, "atime", DiffOptions{Atime: true}, false},
		"mtime":         {func(b Tree) { b["f"].Mtime.Sec = -1 }, "mtime 1969-12-31T23:59:59Z", DiffOptions{Mtime: true}, false},
		"mtime of file": {func(b Tree) { b["f"].Mtime.Sec = 1 }, "mtime", DiffOptions{DirMtime: true}, true},
		"mtime of dir":  {func(b Tree) { b["dir"].Mtime.Sec = 1 }, "mtime", DiffOptions{DirMtime: true}, false},
		"ctime":         {func(b Tree) { b["f"].Ctime.Nsec = 1 }, "ctime", DiffOptions{Ctime: true}, false},
		"btime":         {func(b Tree) { b["f"].Btime.Nsec = 1 }, "btime", DiffOptions{Btime: true}, false},
		"xattr":         {func(b Tree) { b["f"].Xattrs["user.a"] = "2" }, `xattr "user.a" is "2", want "1"`, SameContent, true},
		"xattr missing": {func(b Tree) { delete(b["f"].Xattrs, "user.b") }, `"user.b" missing`, SameContent, true},
		"xattr more":    {func(b Tree) { b["f"].Xattrs["user.c"] = "" }, `"user.c" not expected`, SameContent, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := sample(), sample()
			if d := Diff(a, b, SameImage); d != nil {
				t.Fatal("differs from itself: ", d)
			}
			c.change(b)
			if d := Diff(a, b, SameImage); !strings.Contains(strings.Join(d, "\n"), c.want) {
				t.Errorf("Diff = %q, want %q in it", d, c.want)
			}
			if d := Diff(a, b, c.ignore); (d != nil) != c.still {
				t.Errorf("Diff with %+v = %q", c.ignore, d)
			}
		})
	}
}

func TestDiffIsShort(t *testing.T) {
	a := Tree{}
	for i := range 100 {
		a[strings.Repeat("x", i+1)] = &Node{Mode: TypeRegular}
	}
	if d := Diff(a, Tree{}, DiffOptions{Max: 3}); len(d) != 4 || d[3] != "and 97 more" {
		t.Errorf("Diff = %q", d)
	}
}

func TestWiden(t *testing.T) {
	got := Widen([]Range{{1024, 1024}, {3072, 1024}, {5000, 1}, {20000, 100}, {50000, 0}}, 20050)
	if want := []Range{{0, 8192}, {16384, 20050 - 16384}}; !slices.Equal(got, want) {
		t.Errorf("Widen = %v, want %v", got, want)
	}
	if got := Widen(nil, 100); got == nil || len(got) != 0 {
		t.Errorf("Widen of nothing = %#v", got)
	}
}

func TestSum(t *testing.T) {
	file := make([]byte, 3<<20+77)
	copy(file[5000:], "some")
	copy(file[2<<20:], "data")
	file[len(file)-1] = 1
	want, n, err := SumReader(bytes.NewReader(file))
	if err != nil || n != int64(len(file)) {
		t.Fatal(n, err)
	}
	ranges := []Range{{5000, 4}, {2 << 20, 4}, {int64(len(file)) - 1, 1}}
	if got, err := SumAt(bytes.NewReader(file), n, ranges); err != nil || got != want {
		t.Errorf("SumAt = %v, %v, want %v", got, err, want)
	}
	if got, _ := SumAt(bytes.NewReader(file), n, ranges[1:]); got == want {
		t.Error("the same sum without some of the data")
	}
	if _, err := SumAt(bytes.NewReader(file[:n-1]), n, ranges); err == nil {
		t.Error("a file that is too short has a sum")
	}
	sums := map[Sum]bool{want: true}
	for _, other := range [][]byte{file[:n-1], append(bytes.Clone(file), 0), append(make([]byte, unit), file...)} {
		got, _, _ := SumReader(bytes.NewReader(other))
		sums[got] = true
	}
	if len(sums) != 4 {
		t.Errorf("different files have the same sum: %v", slices.Collect(maps.Keys(sums)))
	}
}
