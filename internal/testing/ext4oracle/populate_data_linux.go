package ext4oracle

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// writeXattrs writes extended attributes of all sizes: in the inode, in a block, in shared
// blocks and in inodes of their own.
func (p *populator) writeXattrs() {
	p.makeDirs("xattrs/dir")
	for n := 0; n <= 100; n += 4 { // past what an inode has room for
		name := fmt.Sprintf("xattrs/inode%d", n)
		p.writeFile(name, nil)
		p.setXattr(name, "user.v", p.randomBytes(n))
		p.setXattr(name, "trusted.w", []byte("beside"))
	}
	p.writeFile("xattrs/all", []byte("x"))
	p.setXattr("xattrs/all", "user.empty", nil)
	p.setXattr("xattrs/all", "trusted.t", []byte("tt"))
	p.setXattr("xattrs/all", "trusted.vole.dotted.name", []byte("1"))
	p.setXattr("xattrs/all", "security.vole", p.randomBytes(10))
	p.setXattr("xattrs/all", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 19: 0})
	p.setXattr("xattrs/all", "user.\xff\xfe\n", []byte("odd name"))
	p.setXattr("xattrs/all", "user."+strings.Repeat("n", 250), p.randomBytes(20))
	p.setXattr("xattrs/dir", "user.of-a-dir", p.randomBytes(60))
	p.writeManyXattrs()
	p.writeSharedXattrs()
	// Bound by the block: the largest that it takes.
	p.writeFile("xattrs/limit", nil)
	for n := int(p.block); n > int(p.block)-200 && p.err == nil; n -= 4 {
		if unix.Lsetxattr(p.fullPath("xattrs/limit"), "user.limit", p.randomBytes(n), 0) == nil {
			break
		}
	}
	for _, n := range []int{5000, 20000, 65536} { // need the feature ea_inode
		name := fmt.Sprintf("xattrs/huge%d", n)
		p.writeFile(name, nil)
		value := p.randomBytes(n)
		if p.setXattr(name, "user.huge", value) {
			p.writeFile(name+"b", nil)
			p.setXattr(name+"b", "user.huge", value) // shares the inode
		}
	}
}

// writeManyXattrs writes a file whose attributes grew, shrank and moved.
func (p *populator) writeManyXattrs() {
	p.writeFile("xattrs/many", []byte("x"))
	set := func(i, n int) { p.setXattr("xattrs/many", fmt.Sprintf("user.key%d", i), p.randomBytes(n)) }
	count := 12
	for i := range count {
		set(i, 3*i)
	}
	for i := 0; i < count && p.err == nil; i += 3 {
		p.stopOnError(unix.Lremovexattr(p.fullPath("xattrs/many"), fmt.Sprintf("user.key%d", i)))
	}
	set(1, 90)
	set(2, 1)
	set(100, 70)
	p.writeFile("xattrs/removed", nil)
	p.setXattr("xattrs/removed", "user.big", p.randomBytes(300))
	p.stopOnError(unix.Lremovexattr(p.fullPath("xattrs/removed"), "user.big"))
}

// writeSharedXattrs writes files that share an attribute block, some of which left it
// again.
func (p *populator) writeSharedXattrs() {
	value := p.randomBytes(700)
	for i := range 20 {
		name := fmt.Sprintf("xattrs/shared%d", i)
		p.writeFile(name, nil)
		p.setXattr(name, "user.shared", value)
	}
	p.setXattr("xattrs/shared3", "user.own", []byte("another"))
	p.stopOnError(unix.Lremovexattr(p.fullPath("xattrs/shared4"), "user.shared"))
	p.stopOnError(os.Remove(p.fullPath("xattrs/shared5")))
}

// writeSparseFiles writes holes, up to the largest offsets of the file system.
func (p *populator) writeSparseFiles() {
	p.makeDirs("sparse")
	p.truncateFile("sparse/all", 5<<20)
	p.truncateFile("sparse/odd", 5<<20+123)
	p.truncateFile("sparse/hole", 300<<20)
	p.writeAt("sparse/hole", 100<<20, []byte("A"))
	p.writeAt("sparse/hole", 299<<20+17, []byte("B"))
	p.writeFile("sparse/plain", p.randomBytes(12345))
	p.writeFile("sparse/zeros", make([]byte, 20000)) // data that is zeros
	p.writeFile("sparse/cut", p.randomBytes(30000))
	p.truncateFile("sparse/cut", 10001)
	p.truncateFile("sparse/cut", 40000) // what was behind the cut must be zeros
	// A block at each place where a block map goes one level deeper.
	per := p.block / 4
	for _, n := range []int64{0, 11, 12, 12 + per - 1, 12 + per, 12 + per + per*per - 1, 12 + per + per*per, 12 + per + 2*per*per} {
		p.writeAt("sparse/levels", n*p.block, p.randomBytes(100))
	}
	for _, end := range []int64{16 << 40, 4 << 40, 2 << 40, 16 << 30} {
		if p.writeAt("sparse/huge", end-2*p.block-7, p.randomBytes(7)) {
			break
		}
	}
}

// writeFallocated writes preallocated space, and other results of fallocate.
func (p *populator) writeFallocated() {
	const (
		keep  = unix.FALLOC_FL_KEEP_SIZE
		punch = unix.FALLOC_FL_PUNCH_HOLE | keep
	)
	p.makeDirs("alloc")
	size := int64(p.scale.pickByScale(1<<20, 2<<20, 64<<20))
	p.fallocateFile("alloc/unwritten", 0, 0, size)
	p.fallocateFile("alloc/part", 0, 0, size)
	p.writeAt("alloc/part", 400<<10, p.randomBytes(7*4096))
	p.writeAt("alloc/part", 900<<10+5, p.randomBytes(1))
	p.fallocateFile("alloc/keep-empty", keep, 0, 512<<10)
	p.writeFile("alloc/keep", []byte("hi\n"))
	p.fallocateFile("alloc/keep", keep, 0, 512<<10)
	p.writeFile("alloc/keep-far", p.randomBytes(5000))
	p.fallocateFile("alloc/keep-far", keep, 1<<20, 64<<10)
	p.writeFile("alloc/punched", p.randomBytes(1<<20))
	p.fallocateFile("alloc/punched", punch, 64<<10, 128<<10)
	p.fallocateFile("alloc/punched", punch, 500001, 33333)
	p.writeFile("alloc/punched-all", p.randomBytes(64<<10))
	p.fallocateFile("alloc/punched-all", punch, 0, 64<<10)
	p.writeFile("alloc/zeroed", p.randomBytes(512<<10))
	p.fallocateFile("alloc/zeroed", unix.FALLOC_FL_ZERO_RANGE, 100<<10, 99999)
	p.writeFile("alloc/collapsed", p.randomBytes(512<<10))
	p.fallocateFile("alloc/collapsed", unix.FALLOC_FL_COLLAPSE_RANGE, 64<<10, 64<<10)
	p.writeFile("alloc/inserted", p.randomBytes(512<<10))
	p.fallocateFile("alloc/inserted", unix.FALLOC_FL_INSERT_RANGE, 128<<10, 64<<10)
}

// writeFragmented writes files with so many extents that they need a tree of two levels.
// Three files that grow in turns are fragmented on disk too.
func (p *populator) writeFragmented() {
	p.makeDirs("extents")
	count := int64(p.scale.pickByScale(1500, 3000, 30000))
	for _, order := range []string{"forward", "backward"} {
		n := count
		if order == "backward" { // few: another file of that size has no room
			n = count / 10
		}
		p.writeEveryOtherBlock("extents/"+order, n, order == "backward")
	}
	block := int(p.block)
	for i := range p.scale.pickByScale(20, 200, 2000) {
		for j := range 3 {
			p.writeAt(fmt.Sprintf("extents/turns%d", j), int64(i*block), p.randomBytes(block))
		}
	}
	p.writeEveryOtherBlock("extents/cut", count/3, false)
	p.truncateFile("extents/cut", 10*p.block)
	p.writeEveryOtherBlock("extents/gone", count/3, false)
	p.truncateFile("extents/gone", 0)
}

// writeEveryOtherBlock writes every other block of a file, each an extent of its own.
func (p *populator) writeEveryOtherBlock(name string, blocks int64, backward bool) {
	if p.err != nil {
		return
	}
	f, err := os.Create(p.fullPath(name))
	if err != nil {
		p.stopOnError(err)
		return
	}
	defer f.Close()
	for i := range blocks {
		if backward {
			i = blocks - 1 - i
		}
		if _, err := f.WriteAt(p.randomBytes(int(p.block)), 2*i*p.block); err != nil {
			p.stopOnError(err)
			return
		}
	}
	p.stopOnError(f.Sync())
}

// journalMagic begins the blocks of a journal; data blocks that begin so must be escaped
// in it.
var journalMagic = []byte{0xc0, 0x3b, 0x39, 0x98}

// writeJournalLookalikes writes files whose blocks look like those of a journal.
func (p *populator) writeJournalLookalikes() {
	p.makeDirs("magic")
	p.writeFile("magic/text", bytes.Repeat(append(slices.Clone(journalMagic), "magic"...), 3000))
	blocks := p.randomBytes(50 * 1024)
	for i := 0; i < len(blocks); i += 1024 {
		copy(blocks[i:], journalMagic)
		blocks[i+7] = byte(i/1024) % 6 // a type of block
	}
	p.writeFile("magic/blocks", blocks)
	p.writeFile("magic/short", journalMagic)
}
