package ext4oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DiffOptions says which differences [Diff] ignores.
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

// SameImage compares two readers of one image: nothing is ignored.
var SameImage = DiffOptions{}

// SameContent compares two images, or trees that the same operations created: it ignores
// everything that depends on where and when something was written.
var SameContent = DiffOptions{
	LostFound: true, Atime: true, Mtime: true, Ctime: true, Btime: true,
	Ino: true, Blocks: true, Holes: true, DirSize: true,
}

// treeDiffer collects differences.
type treeDiffer struct {
	opts        DiffOptions
	differences []string
	unlisted    int
}

// addDifference records a difference, or counts it when the list is full.
func (d *treeDiffer) addDifference(path, format string, args ...any) {
	if len(d.differences) >= d.opts.Max {
		d.unlisted++
		return
	}
	d.differences = append(d.differences, fmt.Sprintf("%q: %s", path, fmt.Sprintf(format, args...)))
}

// Diff returns how b differs from a, one line per difference, in the order of the paths;
// nil if they are the same. Hard links are compared as sets of paths: which of them are
// one file.
func Diff(a, b Tree, opts DiffOptions) []string {
	if opts.Max <= 0 {
		opts.Max = 20
	}
	d := &treeDiffer{opts: opts}
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	linksA, linksB := a.Links(), b.Links()
	for _, path := range paths.Paths() {
		if opts.LostFound && (path == "lost+found" || strings.HasPrefix(path, "lost+found/")) {
			continue
		}
		// Nodes of different types have nothing else to compare.
		x, y := a[path], b[path]
		switch {
		case y == nil:
			d.addDifference(path, "missing: %v", x)
		case x == nil:
			d.addDifference(path, "not expected: %v", y)
		case x.Type() != y.Type():
			d.addDifference(path, "is %v, want %v", y, x)
		default:
			d.compareNodes(path, x, y)
			if x.Ino != 0 && y.Ino != 0 && linksA[path] != linksB[path] {
				d.addDifference(path, "hard link to %q, want %q", linksB[path], linksA[path])
			}
		}
	}
	if d.unlisted > 0 {
		d.differences = append(d.differences, fmt.Sprintf("and %d more", d.unlisted))
	}
	return d.differences
}

// compareNodes compares two nodes of the same type.
func (d *treeDiffer) compareNodes(path string, a, b *Node) {
	if a.Mode != b.Mode {
		d.addDifference(path, "mode %04o, want %04o", b.Mode&0o7777, a.Mode&0o7777)
	}
	if a.UID != b.UID || a.GID != b.GID {
		d.addDifference(path, "owner %d:%d, want %d:%d", b.UID, b.GID, a.UID, a.GID)
	}
	if a.Size != b.Size && !(a.IsDir() && d.opts.DirSize) {
		d.addDifference(path, "size %d, want %d", b.Size, a.Size)
	}
	if a.Nlink != b.Nlink && !(a.IsDir() && (d.opts.DirNlink || d.opts.LostFound && path == ".")) {
		d.addDifference(path, "link count %d, want %d", b.Nlink, a.Nlink)
	}
	if a.Ino != b.Ino && !d.opts.Ino {
		d.addDifference(path, "inode %d, want %d", b.Ino, a.Ino)
	}
	if a.Blocks != b.Blocks && !d.opts.Blocks {
		d.addDifference(path, "%d sectors, want %d", b.Blocks, a.Blocks)
	}
	if a.Major != b.Major || a.Minor != b.Minor {
		d.addDifference(path, "device %d:%d, want %d:%d", b.Major, b.Minor, a.Major, a.Minor)
	}
	if a.Target != b.Target {
		d.addDifference(path, "leads to %s, want %s", quoteShortened(b.Target), quoteShortened(a.Target))
	}
	if a.Sum != b.Sum {
		d.addDifference(path, "content %v, want %v", b.Sum, a.Sum)
	}
	if !d.opts.Holes && a.Data != nil && b.Data != nil && !slices.Equal(a.Data, b.Data) {
		d.addDifference(path, "%s", describeRangeDiff(a.Data, b.Data))
	}
	d.compareTimes(path, a, b)
	d.compareXattrs(path, a.Xattrs, b.Xattrs)
}

// compareTimes compares the four times of two nodes.
func (d *treeDiffer) compareTimes(path string, a, b *Node) {
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
			d.addDifference(path, "%s %v, want %v", t.name, t.b, t.a)
		}
	}
}

// compareXattrs compares the extended attributes of two nodes.
func (d *treeDiffer) compareXattrs(path string, a, b map[string]string) {
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
			d.addDifference(path, "xattr %q missing, want %s", name, quoteShortened(x))
		case !inA:
			d.addDifference(path, "xattr %q not expected: %s", name, quoteShortened(y))
		case x != y:
			d.addDifference(path, "xattr %q is %s, want %s", name, quoteShortened(y), quoteShortened(x))
		}
	}
}

// describeRangeDiff describes the first difference of two hole maps.
func describeRangeDiff(a, b []Range) string {
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

// quoteShortened quotes a value, shortened if it is long.
func quoteShortened(s string) string {
	if len(s) <= 48 {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes, sum %v)", s[:40], len(s), sumOfString(s))
}

// sumOfString distinguishes long values with the same beginning.
func sumOfString(s string) Sum {
	sum := newContentSummer()
	sum.addPiece(0, []byte(s))
	return sum.finishSum(int64(len(s)))
}
