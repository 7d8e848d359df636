package ext4workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// Options say which operations are made.
type Options struct {
	Bytes     int64 // most content of one operation
	Far       int64 // most offset of a write or size of a file; 0: 64 MiB
	Files     int   // how many files there should be, more or less
	Crash     bool  // only what happens as a whole or not at all
	Host      bool  // only what system calls do in the same way
	Checked   bool  // only times that e2fsck believes
	LongNames bool
}

// Gen makes operations.
type Gen struct {
	opts Options
	r    *rand.Rand
	m    *Model
	n    int
}

// NewGen returns a generator of operations that mostly succeed on a model.
func NewGen(seed uint64, m *Model, opts Options) *Gen {
	if opts.Far == 0 {
		opts.Far = 64 << 20
	}
	return &Gen{opts: opts, r: rand.New(rand.NewPCG(seed, 3)), m: m}
}

// weights are how often each kind is made.
var weights = [kinds]int{
	WriteFile: 20, WriteSparse: 3, Open: 8, Close: 6, WriteAt: 16, Append: 8, Truncate: 7, Punch: 5, Allocate: 4,
	Mkdir: 6, MkdirAll: 2, Symlink: 5, Link: 4, Mknod: 2, Rename: 10, Remove: 10, RemoveAll: 1, Copy: 2,
	Chmod: 3, Chown: 3, Chtimes: 3, Setxattr: 8, Removexattr: 3,
}

func (g *Gen) kind() Kind {
	for {
		total := 0
		for _, w := range weights {
			total += w
		}
		v, k := g.r.IntN(total), Kind(0)
		for ; v >= weights[k]; k++ {
			v -= weights[k]
		}
		// Keep the number of files near what was asked for.
		full := int(g.m.nextIno) > 0 && g.count() > g.opts.Files
		if full && (k == WriteFile || k == Mkdir || k == Symlink || k == Link || k == Copy || k == Mknod) && g.r.IntN(3) > 0 {
			k = Remove
			if g.r.IntN(25) == 0 {
				k = RemoveAll
			}
		}
		switch {
		case g.opts.Crash && (k == WriteAt || k == Allocate || k == Punch && g.r.IntN(2) == 0):
		case g.opts.Host && (k == Copy || k == MkdirAll || k == WriteSparse):
		case (k == RemoveAll || k == Copy) && !full && g.r.IntN(3) > 0:
		default:
			return k
		}
	}
}

// count estimates the number of files: it counts again now and then.
func (g *Gen) count() int {
	if g.n <= 0 || g.m.counted == 0 || g.n%64 == 0 {
		g.m.counted = count(g.m.root)
	}
	return g.m.counted
}

func count(n *node) int {
	c := 1
	for _, k := range n.kids {
		c += count(k)
	}
	return c
}

// Next makes an operation.
func (g *Gen) Next() *Op {
	g.n++
	o := &Op{Kind: g.kind(), Slot: -1, Seed: g.r.Uint64()}
	switch o.Kind {
	case WriteFile, WriteSparse:
		g.writeFile(o)
	case Open:
		o.Slot, o.Mode = g.r.IntN(8), uint32(g.r.IntN(0o1000))|0o400
		o.Path = g.maybe(5)
		if n, err := g.m.get(o.Path, false); err == nil && n.isLink() {
			o.Path = g.fresh()
		}
		if g.m.slots[o.Slot] != nil {
			o.Kind = Close
		}
	case Close:
		o.Slot = g.r.IntN(8)
	case WriteAt, Append, Truncate, Punch, Allocate:
		g.fileOp(o)
	case Mkdir, MkdirAll:
		o.Path, o.Mode = g.maybe(12), uint32(g.r.IntN(0o1000))|0o700
		if o.Kind == MkdirAll {
			for range g.r.IntN(4) {
				o.Path += "/" + g.name()
			}
		}
	case Symlink:
		o.Path, o.Path2 = g.maybe(12), g.target()
	case Link:
		o.Path, o.Path2 = g.old(false), g.maybe(12)
	case Mknod:
		g.mknod(o)
	case Rename, Copy:
		o.Path, o.Path2, o.Flag = g.old(g.r.IntN(3) == 0), g.maybe(3), g.r.IntN(5) == 0
	case Remove:
		o.Path = g.maybe2(15)
	case RemoveAll:
		o.Path = g.old(true)
		if o.Path == "." {
			o.Path = g.fresh()
		}
	default:
		g.attributes(o)
	}
	return o
}

func (g *Gen) writeFile(o *Op) {
	o.Path, o.Len, o.Flag = g.maybe(3), g.length(), g.r.IntN(8) == 0
	if g.r.IntN(2) == 0 {
		o.Mode = uint32(g.r.IntN(0o1000)) | 0o400
	}
	if g.r.IntN(15) == 0 && !g.opts.Host {
		o.Path += "/" + g.name() + "/" + g.name()
	}
	if o.Kind == WriteSparse {
		o.Len = g.r.Int64N(g.opts.Far)
	}
}

// length chooses how much to write.
func (g *Gen) length() int64 {
	most := max(g.opts.Bytes, 16)
	switch g.r.IntN(12) {
	case 0:
		return 0
	case 1, 2:
		return g.r.Int64N(most)
	case 3:
		return min(4096*(1+g.r.Int64N(8)), most)
	case 4, 5:
		return g.r.Int64N(min(most, 100_000))
	}
	return g.r.Int64N(min(most, 9000))
}

func (g *Gen) fileOp(o *Op) {
	if g.r.IntN(3) > 0 && len(g.m.slots) > 0 {
		o.Slot = g.r.IntN(8)
	}
	o.Path = g.file()
	n, err := g.m.fileOf(o)
	size := int64(0)
	if err == nil {
		size = n.size
	} else if o.Slot >= 0 {
		o.Slot = -1
	}
	o.Len = g.length()
	switch g.r.IntN(10) {
	case 0:
		o.Off = g.r.Int64N(g.opts.Far)
	case 1:
		o.Off = size
	case 2:
		o.Off = (size + 4095) / 4096 * 4096
	default:
		o.Off = g.r.Int64N(size + 20_000)
	}
	if g.r.IntN(2) == 0 {
		o.Off &^= 4095
	}
	switch o.Kind {
	case Truncate:
		o.Len = o.Off
		if g.r.IntN(50) == 0 {
			o.Len = g.m.maxFile() - 1 + g.r.Int64N(3)
		}
		o.Off = 0
	case Punch:
		o.Len++
		if g.opts.Crash {
			o.Len = min(o.Len, 64<<10)
		}
	case Allocate:
		o.Len, o.Flag = min(o.Len, 400_000)+1, g.r.IntN(2) == 0
	case Append:
		if g.opts.Crash {
			o.Len = min(o.Len, 256<<10)
		}
		o.Off = 0
	case WriteAt:
		if g.r.IntN(200) == 0 && g.opts.Far > 1<<40 {
			o.Off = g.m.maxFile() - o.Len + g.r.Int64N(2)
		}
	}
}

func (g *Gen) mknod(o *Op) {
	o.Path = g.maybe(12)
	types := []uint32{ext4oracle.TypeFIFO, ext4oracle.TypeSocket, ext4oracle.TypeChar, ext4oracle.TypeBlock}
	o.Mode = types[g.r.IntN(4)] | uint32(g.r.IntN(0o1000))
	if o.Mode&ext4oracle.TypeMask == ext4oracle.TypeChar || o.Mode&ext4oracle.TypeMask == ext4oracle.TypeBlock {
		major, minor := uint64(g.r.IntN(4096)), uint64(g.r.IntN(1<<20))
		if g.r.IntN(2) == 0 {
			major, minor = major&255, minor&255
		}
		o.Dev = minor&0xff | major<<8 | minor&^0xff<<12
	}
}

func (g *Gen) attributes(o *Op) {
	o.Path = g.old(g.r.IntN(2) == 0)
	switch o.Kind {
	case Chmod:
		o.Mode = uint32(g.r.IntN(0o10000)) | 0o400
	case Chown:
		o.UID, o.GID = g.r.IntN(70_000)-1, g.r.IntN(70_000)-1
	case Chtimes:
		o.Sec, o.Nsec = g.r.Int64N(1<<34)-1<<31, g.r.Int64N(1e9)
		if g.opts.Checked {
			o.Sec = min(o.Sec, 10_737_418_240-1) // e2fsck takes what is after 2310 for a mistake
		}
	case Setxattr, Removexattr:
		names := []string{"user.a", "user." + strings.Repeat("n", 200), "trusted.t", "user.b", "user.large", aclName}
		o.Name = names[g.r.IntN(len(names))]
		n := g.r.IntN(60)
		if o.Name == "user.large" || g.r.IntN(10) == 0 {
			n = g.r.IntN(3500)
		}
		o.Value = string(Content(o.Seed|7, int64(n)))
		if o.Name == aclName {
			o.Value = ACL(g.r.Uint32N(5000), uint32(g.r.IntN(0o1000))|0o400)
		}
		if o.Kind == Removexattr {
			o.Value = ""
		}
	}
}

// name makes a new name.
func (g *Gen) name() string {
	n := g.r.IntN(14)
	switch {
	case g.opts.LongNames && g.r.IntN(2) == 0:
		n = g.r.IntN(240)
	case g.r.IntN(10) == 0:
		n = g.r.IntN(245)
	case g.r.IntN(300) == 0:
		return strings.Repeat("z", 256)
	}
	return fmt.Sprintf("%x%s", g.r.IntN(100_000), strings.Repeat("q\xfcé", n)[:n])
}

func (g *Gen) target() string {
	switch g.r.IntN(6) {
	case 0:
		return strings.Repeat("x/", 1+g.r.IntN(2047))
	case 1:
		return strings.Repeat("y", 55+g.r.IntN(10))
	case 2:
		return strings.Repeat("abcdefg/", g.r.IntN(520)) + "h"
	}
	// Something that may be there, seen from the root or from the same directory.
	p := g.old(g.r.IntN(2) == 0)
	return p[strings.LastIndexByte(p, '/')+1:]
}

// dir chooses a directory and returns its path with a slash; "" for the root.
func (g *Gen) dir() (string, *node) {
	at, n := "", g.m.root
	for range g.r.IntN(5) {
		found := false
		for range 3 {
			if len(n.names) == 0 {
				break
			}
			name := n.names[g.r.IntN(len(n.names))]
			if kid := n.kids[name]; kid.isDir() && !(n == g.m.root && name == "lost+found") {
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

func (g *Gen) fresh() string {
	at, _ := g.dir()
	return at + g.name()
}

// old chooses a path that is there; with dirs also of a directory.
func (g *Gen) old(dirs bool) string {
	for range 20 {
		at, n := g.dir()
		if len(n.names) == 0 {
			continue
		}
		name := n.names[g.r.IntN(len(n.names))]
		if (dirs || !n.kids[name].isDir()) && name != "lost+found" {
			return at + name
		}
	}
	return g.fresh()
}

// file chooses a path that is most often that of a regular file.
func (g *Gen) file() string {
	for range 10 {
		p := g.old(false)
		if n, err := g.m.get(p, false); err == nil && n.isRegular() {
			return p
		}
	}
	return g.old(true)
}

// maybe makes a new path or, one time in k, chooses one that is there.
func (g *Gen) maybe(k int) string {
	if g.r.IntN(k) == 0 {
		return g.old(true)
	}
	return g.fresh()
}

// maybe2 is the opposite.
func (g *Gen) maybe2(k int) string {
	if g.r.IntN(k) == 0 {
		return g.fresh()
	}
	return g.old(g.r.IntN(4) == 0)
}

// Expected reports whether an error may come although the model does not say so.
func Expected(o *Op, err error, small bool) bool {
	return Errno(err) == syscall.ENOSPC && (small || o.Kind == Setxattr || o.Kind == Copy)
}
