package ext4oracle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Scale says how much [Populate] writes.
type Scale int

const (
	Small  Scale = iota // fits an image of 32 MiB
	Normal              // fits an image of 200 MiB
	Big                 // fits an image of 2 GiB
)

// pick returns one of three values by scale.
func (s Scale) pick(small, normal, big int) int { return []int{small, normal, big}[s] }

// PopulateOptions says what [Populate] writes.
type PopulateOptions struct {
	Scale Scale
}

// populator writes the hard cases. After a call fails the others do nothing.
type populator struct {
	root    string
	scale   Scale
	block   int64
	random  *rand.ChaCha8
	skipped []string
	err     error
}

// Populate fills a mounted directory with everything that is hard about ext4, by
// ordinary system calls. The same seed gives the same files, but for the times that
// the kernel sets. It returns what this file system cannot hold, as short sentences.
func Populate(dir string, seed uint64, opts PopulateOptions) (skipped []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, err
	}
	p := &populator{root: dir, scale: opts.Scale, block: st.Bsize, random: newRandom(seed)}
	for _, section := range []func(){
		p.links, p.xattrs, p.acls, p.sparse, p.allocated, p.fragmented, p.special, p.owners,
		p.times, p.names, p.deep, p.inline, p.many, p.emptied, p.magic,
	} {
		section()
		if p.err != nil {
			return p.skipped, p.err
		}
	}
	return p.skipped, nil
}

// newRandom returns a source of bytes.
func newRandom(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// path returns the full path of a file.
func (p *populator) path(name string) string { return p.root + "/" + name }

// must stops at an error.
func (p *populator) must(err error) {
	if p.err == nil && err != nil {
		p.err = fmt.Errorf("populating: %w", err)
	}
}

// may notes an error that is one of those that a file system may give, and stops at
// any other. It reports whether there was none.
func (p *populator) may(what string, err error, allowed ...unix.Errno) bool {
	if err == nil {
		return p.err == nil
	}
	for _, e := range allowed {
		if errors.Is(err, e) {
			p.skipped = append(p.skipped, fmt.Sprintf("%s: %v", what, e))
			return false
		}
	}
	p.must(fmt.Errorf("%s: %w", what, err))
	return false
}

// mkdir makes a directory and those above it.
func (p *populator) mkdir(name string) {
	if p.err == nil {
		p.must(os.MkdirAll(p.path(name), 0o755))
	}
}

// bytes returns n bytes that do not compress.
func (p *populator) bytes(n int) []byte {
	b := make([]byte, n)
	p.random.Read(b)
	return b
}

// file makes a file.
func (p *populator) file(name string, content []byte) {
	if p.err == nil {
		p.must(os.WriteFile(p.path(name), content, 0o644))
	}
}

// write writes to a file, which is made when it is not there, and reports whether
// the file system can have data at that offset.
func (p *populator) write(name string, off int64, content []byte) bool {
	if p.err != nil {
		return false
	}
	f, err := os.OpenFile(p.path(name), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		p.must(err)
		return false
	}
	defer f.Close()
	_, err = f.WriteAt(content, off)
	return p.may(fmt.Sprintf("data at offset %d", off), err, unix.EFBIG)
}

// truncate sets the size of a file, which is made when it is not there.
func (p *populator) truncate(name string, size int64) {
	p.write(name, 0, nil)
	if p.err == nil {
		p.may(fmt.Sprintf("a file of %d bytes", size), os.Truncate(p.path(name), size), unix.EFBIG)
	}
}

// fallocate changes how a file is laid out.
func (p *populator) fallocate(name string, mode uint32, off, n int64) {
	p.write(name, 0, nil)
	if p.err != nil {
		return
	}
	f, err := os.OpenFile(p.path(name), os.O_RDWR, 0)
	if err != nil {
		p.must(err)
		return
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), mode, off, n)
	p.may(fmt.Sprintf("fallocate mode %#x", mode), err, unix.EOPNOTSUPP, unix.EINVAL)
}

// setxattr sets an extended attribute and reports whether it had room.
func (p *populator) setxattr(name, attr string, value []byte) bool {
	if p.err != nil {
		return false
	}
	err := unix.Lsetxattr(p.path(name), attr, value, 0)
	return p.may(fmt.Sprintf("xattr %.24q of %d bytes", attr, len(value)), err,
		unix.ENOSPC, unix.E2BIG, unix.ERANGE, unix.EOPNOTSUPP)
}

// links writes symbolic links, short ones that are kept in the inode and long ones, and
// hard links across directories.
func (p *populator) links() {
	p.mkdir("links/other/third")
	for _, n := range []int{1, 2, 30, 58, 59, 60, 61, 100, 255, 256, 1000, 1022, 1023, 1024, 2047, 2048, 4000, 4094, 4095} {
		target := make([]byte, n)
		for i := range target {
			target[i] = "abcdefgh/"[i%9]
		}
		err := os.Symlink(string(target), p.path(fmt.Sprintf("links/sym%04d", n)))
		p.may(fmt.Sprintf("a symlink of %d bytes", n), err, unix.ENAMETOOLONG)
	}
	p.must(os.Symlink("non\xff\xfeutf8\n", p.path("links/bytes")))
	p.must(os.Symlink("/links/first", p.path("links/absolute")))
	p.must(os.Symlink("other/../../links/./first", p.path("links/dots")))
	p.must(os.Symlink("loop", p.path("links/loop")))
	p.file("links/first", []byte("linked\n"))
	for _, name := range []string{"links/second", "links/other/first", "links/other/third/x"} {
		p.must(os.Link(p.path("links/first"), p.path(name)))
	}
	p.must(os.Link(p.path("links/sym0100"), p.path("links/other/symlink"))) // of a symlink itself
	p.file("links/many", p.bytes(100))
	for i := range p.scale.pick(100, 300, 3000) {
		p.must(os.Link(p.path("links/many"), p.path(fmt.Sprintf("links/other/third/l%d", i))))
	}
}

// special writes files that are neither files, directories nor symbolic links.
func (p *populator) special() {
	p.mkdir("special")
	dev := func(name string, kind uint32, major, minor uint32) {
		if p.err == nil {
			p.must(unix.Mknod(p.path("special/"+name), kind|0o640, int(unix.Mkdev(major, minor))))
		}
	}
	dev("fifo", unix.S_IFIFO, 0, 0)
	dev("socket", unix.S_IFSOCK, 0, 0)
	for i, d := range [][2]uint32{{0, 0}, {1, 3}, {255, 255}, {255, 256}, {256, 255}, {300, 70000}, {4095, 1<<20 - 1}} {
		dev(fmt.Sprintf("char%d", i), unix.S_IFCHR, d[0], d[1])
		dev(fmt.Sprintf("block%d", i), unix.S_IFBLK, d[0], d[1])
	}
	for _, name := range []string{"fifo", "socket", "char1", "block5"} {
		p.setxattr("special/"+name, "trusted.special", []byte(name))
	}
	p.must(os.Symlink("x", p.path("special/symlink")))
	p.setxattr("special/symlink", "trusted.symlink", p.bytes(30))
}

// owners writes modes and owners of all widths.
func (p *populator) owners() {
	p.mkdir("owners")
	for mode := range uint32(8) {
		name := fmt.Sprintf("owners/mode%d", mode)
		p.file(name, nil)
		p.must(unix.Chmod(p.path(name), mode<<9|0o751))
		p.mkdir(name + ".d")
		p.must(unix.Chmod(p.path(name+".d"), mode<<9|0o770))
	}
	p.mkdir("owners/mode2.d/inherits") // the group and the bit
	p.file("owners/none", nil)
	p.must(unix.Chmod(p.path("owners/none"), 0))
	for _, id := range [][2]int{{1, 2}, {65535, 65535}, {65536, 1}, {70000, 4000000000}, {4294967294, 4294967293}} {
		name := fmt.Sprintf("owners/%d-%d", id[0], id[1])
		p.file(name, nil)
		p.must(os.Lchown(p.path(name), id[0], id[1]))
		p.must(os.Symlink("x", p.path(name+".l")))
		p.must(os.Lchown(p.path(name+".l"), id[1], id[0]))
	}
}

// times writes times that need more than 32 bits of seconds, and nanoseconds.
func (p *populator) times() {
	p.mkdir("times")
	set := func(name string, sec int64, nsec int64) {
		// Two different times, so that they cannot be mixed up.
		ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec + 1, Nsec: 999999999 - nsec}}
		if p.err == nil {
			p.must(unix.UtimesNanoAt(unix.AT_FDCWD, p.path(name), ts, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
	for i, sec := range []int64{
		-1 << 31, -2145916800, -631152000, -1, 0, 1e9, // 1901, 1902, 1950, 1969, 1970, 2001
		1<<31 - 1, 1 << 31, 4102444800, 1<<32 - 1, 1 << 32, // 2038, 2100, 2106
		3<<31 - 1, 3 << 31, 13569465600, 0x37fffffff - 1, // 2174, 2400, 2446
	} {
		name := fmt.Sprintf("times/t%02d", i)
		p.file(name, nil)
		set(name, sec, 123456789)
	}
	p.mkdir("times/dir/sub")
	p.must(os.Symlink("2100", p.path("times/symlink")))
	set("times/symlink", 4102444800, 1)
	set("times/dir/sub", 13569465600, 999999999)
	set("times/dir", -631152000, 0)
}

// deep writes a long path.
func (p *populator) deep() {
	name := "deep"
	for i := range 60 {
		name = filepath.Join(name, fmt.Sprintf("level-%02d-%0*d", i, 1+i%30, i))
	}
	p.mkdir(name)
	p.file(name+"/bottom", []byte("bottom\n"))
}
