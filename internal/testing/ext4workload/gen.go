package ext4workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// Options say which operations a generator makes.
type Options struct {
	Bytes     int64 // largest content of one operation
	Far       int64 // largest offset of a write, or size of a file; 0: 64 MiB
	Files     int   // approximate number of files
	Crash     bool  // only operations that take effect as a whole or not at all
	Host      bool  // only operations that system calls do in the same way
	Checked   bool  // only times that e2fsck accepts
	LongNames bool
}

// Gen generates operations that mostly succeed on its model.
type Gen struct {
	opts   Options
	random *rand.Rand
	model  *Model // the caller applies each operation to it before the next
	made   int    // operations
}

// NewGen returns a generator of operations that mostly succeed on a model.
func NewGen(seed uint64, m *Model, opts Options) *Gen {
	if opts.Far == 0 {
		opts.Far = 64 << 20
	}
	return &Gen{opts: opts, random: rand.New(rand.NewPCG(seed, 3)), model: m}
}

// weights are the relative frequencies of the operations.
var weights = [kindCount]int{
	WriteFile: 20, WriteSparse: 3, Open: 8, Close: 6, WriteAt: 16, Append: 8, Truncate: 7, Punch: 5, Allocate: 4,
	Mkdir: 6, MkdirAll: 2, Symlink: 5, Link: 4, Mknod: 2, Rename: 10, Remove: 10, RemoveAll: 1, Copy: 2,
	Chmod: 3, Chown: 3, Chtimes: 3, Setxattr: 8, Removexattr: 3,
}

// chooseKind chooses the next operation by weight, and within the options.
func (g *Gen) chooseKind() Kind {
	for {
		total := 0
		for _, w := range weights {
			total += w
		}
		v, k := g.random.IntN(total), Kind(0)
		for ; v >= weights[k]; k++ {
			v -= weights[k]
		}
		// Remove files while there are more than the options ask for.
		full := int(g.model.nextIno) > 0 && g.estimateFileCount() > g.opts.Files
		if full && (k == WriteFile || k == Mkdir || k == Symlink || k == Link || k == Copy || k == Mknod) && g.random.IntN(3) > 0 {
			k = Remove
			if g.random.IntN(25) == 0 {
				k = RemoveAll
			}
		}
		// Overwriting in place, and allocating in steps, are not atomic in a crash. Trees are
		// removed and copied seldom, or there would be few files.
		switch {
		case g.opts.Crash && (k == WriteAt || k == Allocate || k == Punch && g.random.IntN(2) == 0):
		case g.opts.Host && (k == Copy || k == MkdirAll || k == WriteSparse):
		case (k == RemoveAll || k == Copy) && !full && g.random.IntN(3) > 0:
		default:
			return k
		}
	}
}

// estimateFileCount returns the number of files, which it counts only every 64 operations.
func (g *Gen) estimateFileCount() int {
	if g.made <= 0 || g.model.counted == 0 || g.made%64 == 0 {
		g.model.counted = countNodes(g.model.root)
	}
	return g.model.counted
}

// countNodes counts a node and everything beneath it.
func countNodes(n *fileNode) int {
	c := 1
	for _, k := range n.children {
		c += countNodes(k)
	}
	return c
}

// Next generates an operation. It draws paths that exist from the model, so most
// operations succeed; some deliberately name missing files, or have long or invalid
// arguments.
func (g *Gen) Next() *Op {
	g.made++
	o := &Op{Kind: g.chooseKind(), Slot: -1, Seed: g.random.Uint64()}
	switch o.Kind {
	case WriteFile, WriteSparse:
		g.fillWriteFile(o)
	case Open:
		o.Slot, o.Mode = g.random.IntN(8), uint32(g.random.IntN(0o1000))|0o400
		o.Path = g.mostlyNewPath(5)
		if n, err := g.model.resolvePath(o.Path, false); err == nil && n.isSymlink() {
			o.Path = g.newPath()
		}
		if g.model.slots[o.Slot] != nil {
			o.Kind = Close
		}
	case Close:
		o.Slot = g.random.IntN(8)
	case WriteAt, Append, Truncate, Punch, Allocate:
		g.fillFileOp(o)
	case Mkdir, MkdirAll:
		o.Path, o.Mode = g.mostlyNewPath(12), uint32(g.random.IntN(0o1000))|0o700
		if o.Kind == MkdirAll {
			for range g.random.IntN(4) {
				o.Path += "/" + g.newName()
			}
		}
	case Symlink:
		o.Path, o.Path2 = g.mostlyNewPath(12), g.symlinkTarget()
	case Link:
		o.Path, o.Path2 = g.existingPath(false), g.mostlyNewPath(12)
	case Mknod:
		g.fillMknod(o)
	case Rename, Copy:
		o.Path, o.Path2, o.Flag = g.existingPath(g.random.IntN(3) == 0), g.mostlyNewPath(3), g.random.IntN(5) == 0
	case Remove:
		o.Path = g.mostlyExistingPath(15)
	case RemoveAll:
		o.Path = g.existingPath(true)
		if o.Path == "." {
			o.Path = g.newPath()
		}
	default:
		g.fillAttributeOp(o)
	}
	return o
}

// fillWriteFile chooses path, size and mode of a file to be written.
func (g *Gen) fillWriteFile(o *Op) {
	o.Path, o.Len, o.Flag = g.mostlyNewPath(3), g.chooseLength(), g.random.IntN(8) == 0
	if g.random.IntN(2) == 0 {
		o.Mode = uint32(g.random.IntN(0o1000)) | 0o400
	}
	if g.random.IntN(15) == 0 && !g.opts.Host {
		o.Path += "/" + g.newName() + "/" + g.newName()
	}
	if o.Kind == WriteSparse {
		o.Len = g.random.Int64N(g.opts.Far)
	}
}

// chooseLength chooses how much to write.
func (g *Gen) chooseLength() int64 {
	// Most lengths are small; whole blocks and empty writes occur often enough.
	most := max(g.opts.Bytes, 16)
	switch g.random.IntN(12) {
	case 0:
		return 0
	case 1, 2:
		return g.random.Int64N(most)
	case 3:
		return min(4096*(1+g.random.Int64N(8)), most)
	case 4, 5:
		return g.random.Int64N(min(most, 100_000))
	}
	return g.random.Int64N(min(most, 9000))
}

// fillFileOp chooses file and range of an operation on content. Half of the offsets are
// aligned.
func (g *Gen) fillFileOp(o *Op) {
	// Open files are preferred: their names may be gone.
	if g.random.IntN(3) > 0 && len(g.model.slots) > 0 {
		o.Slot = g.random.IntN(8)
	}
	o.Path = g.mostlyFilePath()
	n, err := g.model.fileOfOp(o)
	size := int64(0)
	if err == nil {
		size = n.size
	} else if o.Slot >= 0 {
		o.Slot = -1
	}
	o.Len = g.chooseLength()
	// Most writes overlap the file or begin shortly after its end.
	switch g.random.IntN(10) {
	case 0:
		o.Off = g.random.Int64N(g.opts.Far)
	case 1:
		o.Off = size
	case 2:
		o.Off = (size + 4095) / 4096 * 4096
	default:
		o.Off = g.random.Int64N(size + 20_000)
	}
	if g.random.IntN(2) == 0 {
		o.Off &^= 4095
	}
	switch o.Kind {
	case Truncate:
		// The size is in Len, and sometimes at the limit of the format.
		o.Len = o.Off
		if g.random.IntN(50) == 0 {
			o.Len = g.model.maxFileSize() - 1 + g.random.Int64N(3)
		}
		o.Off = 0
	case Punch:
		// Large holes take more than one operation of the journal.
		o.Len++
		if g.opts.Crash {
			o.Len = min(o.Len, 64<<10)
		}
	case Allocate:
		o.Len, o.Flag = min(o.Len, 400_000)+1, g.random.IntN(2) == 0
	case Append:
		if g.opts.Crash {
			o.Len = min(o.Len, 256<<10)
		}
		o.Off = 0
	case WriteAt:
		if g.random.IntN(200) == 0 && g.opts.Far > 1<<40 {
			o.Off = g.model.maxFileSize() - o.Len + g.random.Int64N(2)
		}
	}
}

// fillMknod chooses type and number of a special file.
func (g *Gen) fillMknod(o *Op) {
	o.Path = g.mostlyNewPath(12)
	types := []uint32{ext4oracle.TypeFIFO, ext4oracle.TypeSocket, ext4oracle.TypeChar, ext4oracle.TypeBlock}
	o.Mode = types[g.random.IntN(4)] | uint32(g.random.IntN(0o1000))
	if o.Mode&ext4oracle.TypeMask == ext4oracle.TypeChar || o.Mode&ext4oracle.TypeMask == ext4oracle.TypeBlock {
		major, minor := uint64(g.random.IntN(4096)), uint64(g.random.IntN(1<<20))
		if g.random.IntN(2) == 0 {
			major, minor = major&255, minor&255
		}
		o.Dev = minor&0xff | major<<8 | minor&^0xff<<12
	}
}

// fillAttributeOp chooses path and values of a change of metadata.
func (g *Gen) fillAttributeOp(o *Op) {
	// The owner's read permission always stays.
	o.Path = g.existingPath(g.random.IntN(2) == 0)
	switch o.Kind {
	case Chmod:
		o.Mode = uint32(g.random.IntN(0o10000)) | 0o400
	case Chown:
		o.UID, o.GID = g.random.IntN(70_000)-1, g.random.IntN(70_000)-1
	case Chtimes:
		o.Sec, o.Nsec = g.random.Int64N(1<<34)-1<<31, g.random.Int64N(1e9)
		if g.opts.Checked {
			o.Sec = min(o.Sec, 10_737_418_240-1) // e2fsck takes what is after 2310 for a mistake
		}
	case Setxattr, Removexattr:
		// Few names, so that values are replaced, and sizes around the room in an inode.
		names := []string{"user.a", "user." + strings.Repeat("n", 200), "trusted.t", "user.b", "user.large", aclName}
		o.Name = names[g.random.IntN(len(names))]
		n := g.random.IntN(60)
		if o.Name == "user.large" || g.random.IntN(10) == 0 {
			n = g.random.IntN(3500)
		}
		o.Value = string(Content(o.Seed|7, int64(n)))
		if o.Name == aclName {
			o.Value = ACL(g.random.Uint32N(5000), uint32(g.random.IntN(0o1000))|0o400)
		}
		if o.Kind == Removexattr {
			o.Value = ""
		}
	}
}

// newName returns a name that most likely does not exist.
func (g *Gen) newName() string {
	// Names have bytes that are no UTF-8. One in 300 is a byte too long.
	n := g.random.IntN(14)
	switch {
	case g.opts.LongNames && g.random.IntN(2) == 0:
		n = g.random.IntN(240)
	case g.random.IntN(10) == 0:
		n = g.random.IntN(245)
	case g.random.IntN(300) == 0:
		return strings.Repeat("z", 256)
	}
	return fmt.Sprintf("%x%s", g.random.IntN(100_000), strings.Repeat("q\xfcé", n)[:n])
}

// symlinkTarget chooses the target of a symbolic link: a long one, or something that may
// exist.
func (g *Gen) symlinkTarget() string {
	switch g.random.IntN(6) {
	case 0:
		return strings.Repeat("x/", 1+g.random.IntN(2047))
	case 1:
		return strings.Repeat("y", 55+g.random.IntN(10))
	case 2:
		return strings.Repeat("abcdefg/", g.random.IntN(520)) + "h"
	}
	// A name that may exist, relative to the root or to the same directory.
	p := g.existingPath(g.random.IntN(2) == 0)
	return p[strings.LastIndexByte(p, '/')+1:]
}

// chooseDirectory chooses a directory, and returns its path with a slash; "" for the root.
// It walks down at random, at most five levels, and stops where it finds no subdirectory
// in three attempts, which keeps it fast in large directories.
func (g *Gen) chooseDirectory() (string, *fileNode) {
	at, n := "", g.model.root
	for range g.random.IntN(5) {
		found := false
		for range 3 {
			if len(n.names) == 0 {
				break
			}
			name := n.names[g.random.IntN(len(n.names))]
			if kid := n.children[name]; kid.isDirectory() && !(n == g.model.root && name == "lost+found") {
				at, n, found = at+name+"/", kid, true
				break
			}
		}
		if !found {
			break
		}
	}
	return at, n
}

// newPath returns a path that most likely does not exist.
func (g *Gen) newPath() string {
	at, _ := g.chooseDirectory()
	return at + g.newName()
}

// existingPath chooses a path that exists; with dirs it may be a directory.
func (g *Gen) existingPath(dirs bool) string {
	for range 20 {
		at, n := g.chooseDirectory()
		if len(n.names) == 0 {
			continue
		}
		name := n.names[g.random.IntN(len(n.names))]
		if (dirs || !n.children[name].isDirectory()) && name != "lost+found" {
			return at + name
		}
	}
	return g.newPath()
}

// mostlyFilePath chooses a path that most often is a regular file.
func (g *Gen) mostlyFilePath() string {
	for range 10 {
		p := g.existingPath(false)
		if n, err := g.model.resolvePath(p, false); err == nil && n.isRegular() {
			return p
		}
	}
	return g.existingPath(true)
}

// mostlyNewPath returns a new path or, one time in k, an existing one.
func (g *Gen) mostlyNewPath(k int) string {
	if g.random.IntN(k) == 0 {
		return g.existingPath(true)
	}
	return g.newPath()
}

// mostlyExistingPath returns an existing path or, one time in k, a new one.
func (g *Gen) mostlyExistingPath(k int) string {
	if g.random.IntN(k) == 0 {
		return g.newPath()
	}
	return g.existingPath(g.random.IntN(4) == 0)
}

// Expected reports whether an operation may fail with an error that the model does not
// predict. small: the file system may run out of space. Attributes may not fit beside
// others.
func Expected(o *Op, err error, small bool) bool {
	return Errno(err) == syscall.ENOSPC && (small || o.Kind == Setxattr || o.Kind == Copy)
}
