package ext4oracle

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrs writes extended attributes in the inode, in a block, in shared blocks and in
// inodes of their own, of all sizes.
func (p *populator) xattrs() {
	p.mkdir("xattrs/dir")
	for n := 0; n <= 100; n += 4 { // past what an inode has room for
		name := fmt.Sprintf("xattrs/inode%d", n)
		p.file(name, nil)
		p.setxattr(name, "user.v", p.bytes(n))
		p.setxattr(name, "trusted.w", []byte("beside"))
	}
	p.file("xattrs/all", []byte("x"))
	p.setxattr("xattrs/all", "user.empty", nil)
	p.setxattr("xattrs/all", "trusted.t", []byte("tt"))
	p.setxattr("xattrs/all", "trusted.vole.dotted.name", []byte("1"))
	p.setxattr("xattrs/all", "security.vole", p.bytes(10))
	p.setxattr("xattrs/all", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 19: 0})
	p.setxattr("xattrs/all", "user.\xff\xfe\n", []byte("odd name"))
	p.setxattr("xattrs/all", "user."+strings.Repeat("n", 250), p.bytes(20))
	p.setxattr("xattrs/dir", "user.of-a-dir", p.bytes(60))
	p.manyXattrs()
	p.sharedXattrs()
	// Bound by the block: the largest that it takes.
	p.file("xattrs/limit", nil)
	for n := int(p.block); n > int(p.block)-200 && p.err == nil; n -= 4 {
		if unix.Lsetxattr(p.path("xattrs/limit"), "user.limit", p.bytes(n), 0) == nil {
			break
		}
	}
	for _, n := range []int{5000, 20000, 65536} { // need the feature ea_inode
		name := fmt.Sprintf("xattrs/huge%d", n)
		p.file(name, nil)
		value := p.bytes(n)
		if p.setxattr(name, "user.huge", value) {
			p.file(name+"b", nil)
			p.setxattr(name+"b", "user.huge", value) // shares the inode
		}
	}
}

// manyXattrs writes a file whose attributes grew, shrank and moved.
func (p *populator) manyXattrs() {
	p.file("xattrs/many", []byte("x"))
	set := func(i, n int) { p.setxattr("xattrs/many", fmt.Sprintf("user.key%d", i), p.bytes(n)) }
	count := 12
	for i := range count {
		set(i, 3*i)
	}
	for i := 0; i < count && p.err == nil; i += 3 {
		p.must(unix.Lremovexattr(p.path("xattrs/many"), fmt.Sprintf("user.key%d", i)))
	}
	set(1, 90)
	set(2, 1)
	set(100, 70)
	p.file("xattrs/removed", nil)
	p.setxattr("xattrs/removed", "user.big", p.bytes(300))
	p.must(unix.Lremovexattr(p.path("xattrs/removed"), "user.big"))
}

// sharedXattrs writes files that share a block of attributes, some of which left it.
func (p *populator) sharedXattrs() {
	value := p.bytes(700)
	for i := range 20 {
		name := fmt.Sprintf("xattrs/shared%d", i)
		p.file(name, nil)
		p.setxattr(name, "user.shared", value)
	}
	p.setxattr("xattrs/shared3", "user.own", []byte("another"))
	p.must(unix.Lremovexattr(p.path("xattrs/shared4"), "user.shared"))
	p.must(os.Remove(p.path("xattrs/shared5")))
}

// sparse writes holes, up to the largest offsets that the file system has.
func (p *populator) sparse() {
	p.mkdir("sparse")
	p.truncate("sparse/all", 5<<20)
	p.truncate("sparse/odd", 5<<20+123)
	p.truncate("sparse/hole", 300<<20)
	p.write("sparse/hole", 100<<20, []byte("A"))
	p.write("sparse/hole", 299<<20+17, []byte("B"))
	p.file("sparse/plain", p.bytes(12345))
	p.file("sparse/zeros", make([]byte, 20000)) // data that is zeros
	p.file("sparse/cut", p.bytes(30000))
	p.truncate("sparse/cut", 10001)
	p.truncate("sparse/cut", 40000) // what was behind the cut must be zeros
	// A block at each place where a block map goes one level deeper.
	per := p.block / 4
	for _, n := range []int64{0, 11, 12, 12 + per - 1, 12 + per, 12 + per + per*per - 1, 12 + per + per*per, 12 + per + 2*per*per} {
		p.write("sparse/levels", n*p.block, p.bytes(100))
	}
	for _, end := range []int64{16 << 40, 4 << 40, 2 << 40, 16 << 30} {
		if p.write("sparse/huge", end-2*p.block-7, p.bytes(7)) {
			break
		}
	}
}

// allocated writes space that is allocated but was never written, and other results
// of fallocate.
func (p *populator) allocated() {
	const (
		keep  = unix.FALLOC_FL_KEEP_SIZE
		punch = unix.FALLOC_FL_PUNCH_HOLE | keep
	)
	p.mkdir("alloc")
	size := int64(p.scale.pick(1<<20, 2<<20, 64<<20))
	p.fallocate("alloc/unwritten", 0, 0, size)
	p.fallocate("alloc/part", 0, 0, size)
	p.write("alloc/part", 400<<10, p.bytes(7*4096))
	p.write("alloc/part", 900<<10+5, p.bytes(1))
	p.fallocate("alloc/keep-empty", keep, 0, 512<<10)
	p.file("alloc/keep", []byte("hi\n"))
	p.fallocate("alloc/keep", keep, 0, 512<<10)
	p.file("alloc/keep-far", p.bytes(5000))
	p.fallocate("alloc/keep-far", keep, 1<<20, 64<<10)
	p.file("alloc/punched", p.bytes(1<<20))
	p.fallocate("alloc/punched", punch, 64<<10, 128<<10)
	p.fallocate("alloc/punched", punch, 500001, 33333)
	p.file("alloc/punched-all", p.bytes(64<<10))
	p.fallocate("alloc/punched-all", punch, 0, 64<<10)
	p.file("alloc/zeroed", p.bytes(512<<10))
	p.fallocate("alloc/zeroed", unix.FALLOC_FL_ZERO_RANGE, 100<<10, 99999)
	p.file("alloc/collapsed", p.bytes(512<<10))
	p.fallocate("alloc/collapsed", unix.FALLOC_FL_COLLAPSE_RANGE, 64<<10, 64<<10)
	p.file("alloc/inserted", p.bytes(512<<10))
	p.fallocate("alloc/inserted", unix.FALLOC_FL_INSERT_RANGE, 128<<10, 64<<10)
}

// fragmented writes files of so many extents that they need a tree of two levels. Three
// files that grow in turns are fragmented on the disk too.
func (p *populator) fragmented() {
	p.mkdir("extents")
	count := int64(p.scale.pick(1500, 3000, 30000))
	for _, order := range []string{"forward", "backward"} {
		n := count
		if order == "backward" { // few: another file of that size has no room
			n = count / 10
		}
		p.scatter("extents/"+order, n, order == "backward")
	}
	block := int(p.block)
	for i := range p.scale.pick(20, 200, 2000) {
		for j := range 3 {
			p.write(fmt.Sprintf("extents/turns%d", j), int64(i*block), p.bytes(block))
		}
	}
	p.scatter("extents/cut", count/3, false)
	p.truncate("extents/cut", 10*p.block)
	p.scatter("extents/gone", count/3, false)
	p.truncate("extents/gone", 0)
}

// scatter writes every other block of a file, each an extent of its own.
func (p *populator) scatter(name string, blocks int64, backward bool) {
	if p.err != nil {
		return
	}
	f, err := os.Create(p.path(name))
	if err != nil {
		p.must(err)
		return
	}
	defer f.Close()
	for i := range blocks {
		if backward {
			i = blocks - 1 - i
		}
		if _, err := f.WriteAt(p.bytes(int(p.block)), 2*i*p.block); err != nil {
			p.must(err)
			return
		}
	}
	p.must(f.Sync())
}

// journalMagic is how blocks of the journal start; blocks of data that start so must
// be escaped when they go through it.
var journalMagic = []byte{0xc0, 0x3b, 0x39, 0x98}

// magic writes files whose blocks look like those of the journal.
func (p *populator) magic() {
	p.mkdir("magic")
	p.file("magic/text", bytes.Repeat(append(slices.Clone(journalMagic), "magic"...), 3000))
	blocks := p.bytes(50 * 1024)
	for i := 0; i < len(blocks); i += 1024 {
		copy(blocks[i:], journalMagic)
		blocks[i+7] = byte(i/1024) % 6 // a type of block
	}
	p.file("magic/blocks", blocks)
	p.file("magic/short", journalMagic)
}
