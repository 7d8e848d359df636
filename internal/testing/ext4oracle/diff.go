package ext4oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DiffOptions says what [Diff] leaves out.
type DiffOptions struct {
	Max int // differences listed at most; 0 means 20

	LostFound bool // leave out lost+found
	Atime     bool // leave out times of access
	Mtime     bool // leave out times of modification of all files
	DirMtime  bool // leave out times of modification of directories
	Ctime     bool // leave out times of change
	Btime     bool // leave out times of birth
	Ino       bool // leave out inode numbers; which paths are one file is compared still
	Blocks    bool // leave out the space that files take
	Holes     bool // leave out where the holes are; also if one of the two has no map
	DirSize   bool // leave out the sizes of directories
	DirNlink  bool // leave out the link counts of directories
}

// SameImage is for two readers of the same image.
var SameImage = DiffOptions{}

// SameContent is for two images, or for trees made by the same operations: all but what
// depends on where and when something was written.
var SameContent = DiffOptions{
	LostFound: true, Atime: true, Mtime: true, Ctime: true, Btime: true,
	Ino: true, Blocks: true, Holes: true, DirSize: true,
}

// differ gathers differences.
type differ struct {
	opts  DiffOptions
	found []string
	more  int
}

func (d *differ) add(path, format string, args ...any) {
	if len(d.found) >= d.opts.Max {
		d.more++
		return
	}
	d.found = append(d.found, fmt.Sprintf("%q: %s", path, fmt.Sprintf(format, args...)))
}

// Diff returns how b differs from a, a line per difference, in the order of the paths.
// It returns nil when the two are the same.
func Diff(a, b Tree, opts DiffOptions) []string {
	if opts.Max <= 0 {
		opts.Max = 20
	}
	d := &differ{opts: opts}
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	linksA, linksB := a.Links(), b.Links()
	for _, path := range paths.Paths() {
		if opts.LostFound && (path == "lost+found" || strings.HasPrefix(path, "lost+found/")) {
			continue
		}
		x, y := a[path], b[path]
		switch {
		case y == nil:
			d.add(path, "missing: %v", x)
		case x == nil:
			d.add(path, "not expected: %v", y)
		case x.Type() != y.Type():
			d.add(path, "is %v, want %v", y, x)
		default:
			d.node(path, x, y)
			if x.Ino != 0 && y.Ino != 0 && linksA[path] != linksB[path] {
				d.add(path, "hard link to %q, want %q", linksB[path], linksA[path])
			}
		}
	}
	if d.more > 0 {
		d.found = append(d.found, fmt.Sprintf("and %d more", d.more))
	}
	return d.found
}

// node compares two nodes of one type.
func (d *differ) node(path string, a, b *Node) {
	if a.Mode != b.Mode {
		d.add(path, "mode %04o, want %04o", b.Mode&0o7777, a.Mode&0o7777)
	}
	if a.UID != b.UID || a.GID != b.GID {
		d.add(path, "owner %d:%d, want %d:%d", b.UID, b.GID, a.UID, a.GID)
	}
	if a.Size != b.Size && !(a.IsDir() && d.opts.DirSize) {
		d.add(path, "size %d, want %d", b.Size, a.Size)
	}
	if a.Nlink != b.Nlink && !(a.IsDir() && (d.opts.DirNlink || d.opts.LostFound && path == ".")) {
		d.add(path, "link count %d, want %d", b.Nlink, a.Nlink)
	}
	if a.Ino != b.Ino && !d.opts.Ino {
		d.add(path, "inode %d, want %d", b.Ino, a.Ino)
	}
	if a.Blocks != b.Blocks && !d.opts.Blocks {
		d.add(path, "%d sectors, want %d", b.Blocks, a.Blocks)
	}
	if a.Major != b.Major || a.Minor != b.Minor {
		d.add(path, "device %d:%d, want %d:%d", b.Major, b.Minor, a.Major, a.Minor)
	}
	if a.Target != b.Target {
		d.add(path, "leads to %s, want %s", brief(b.Target), brief(a.Target))
	}
	if a.Sum != b.Sum {
		d.add(path, "content %v, want %v", b.Sum, a.Sum)
	}
	if !d.opts.Holes && a.Data != nil && b.Data != nil && !slices.Equal(a.Data, b.Data) {
		d.add(path, "%s", diffRanges(a.Data, b.Data))
	}
	d.times(path, a, b)
	d.xattrs(path, a.Xattrs, b.Xattrs)
}

func (d *differ) times(path string, a, b *Node) {
	for _, t := range []struct {
		name    string
		a, b    Time
		ignored bool
	}{
		{"atime", a.Atime, b.Atime, d.opts.Atime},
		{"mtime", a.Mtime, b.Mtime, d.opts.Mtime || d.opts.DirMtime && a.IsDir()},
		{"ctime", a.Ctime, b.Ctime, d.opts.Ctime},
		{"btime", a.Btime, b.Btime, d.opts.Btime},
	} {
		if t.a != t.b && !t.ignored {
			d.add(path, "%s %v, want %v", t.name, t.b, t.a)
		}
	}
}

func (d *differ) xattrs(path string, a, b map[string]string) {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		x, inA := a[name]
		y, inB := b[name]
		switch {
		case !inB:
			d.add(path, "xattr %q missing, want %s", name, brief(x))
		case !inA:
			d.add(path, "xattr %q not expected: %s", name, brief(y))
		case x != y:
			d.add(path, "xattr %q is %s, want %s", name, brief(y), brief(x))
		}
	}
}

// diffRanges says where two hole maps part.
func diffRanges(a, b []Range) string {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return fmt.Sprintf("data at %v where a hole should be (%d ranges, want %d)", b[i], len(b), len(a))
		case i >= len(b):
			return fmt.Sprintf("a hole where data should be at %v (%d ranges, want %d)", a[i], len(b), len(a))
		case a[i] != b[i]:
			return fmt.Sprintf("data range %d is %v, want %v (%d ranges, want %d)", i, b[i], a[i], len(b), len(a))
		}
	}
	return "the same ranges"
}

// brief quotes a value, shortened.
func brief(s string) string {
	if len(s) <= 48 {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes, sum %v)", s[:40], len(s), briefSum(s))
}

// briefSum tells long values apart that start the same.
func briefSum(s string) Sum {
	sum := newSummer()
	sum.add(0, []byte(s))
	return sum.sum(int64(len(s)))
}
