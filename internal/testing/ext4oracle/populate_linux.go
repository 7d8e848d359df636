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

// Scales.
const (
	Small  Scale = iota // fits an image of 32 MiB
	Normal              // fits an image of 200 MiB
	Big                 // fits an image of 2 GiB
)

// pickByScale returns one of three values.
func (s Scale) pickByScale(small, normal, big int) int { return []int{small, normal, big}[s] }

// PopulateOptions says what [Populate] writes.
type PopulateOptions struct {
	Scale Scale
}

// populator writes files that are hard to read. After an error its methods do nothing.
type populator struct {
	root    string
	scale   Scale
	block   int64
	random  *rand.ChaCha8
	skipped []string
	err     error
}

// Populate fills a mounted directory with everything that is hard about ext4, by ordinary
// system calls. The same seed gives the same files, except for times that the kernel sets.
// It returns what this file system cannot hold, as short sentences.
func Populate(dir string, seed uint64, opts PopulateOptions) (skipped []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, err
	}
	p := &populator{root: dir, scale: opts.Scale, block: st.Bsize, random: newRandomSource(seed)}
	for _, section := range []func(){
		p.writeLinks, p.writeXattrs, p.writeACLs, p.writeSparseFiles, p.writeFallocated, p.writeFragmented, p.writeSpecialFiles, p.writeModesAndOwners,
		p.writeTimes, p.writeOddNames, p.writeDeepTree, p.writeInlineCases, p.writeLargeDirs, p.writeEmptiedDirs, p.writeJournalLookalikes,
	} {
		section()
		if p.err != nil {
			return p.skipped, p.err
		}
	}
	return p.skipped, nil
}

// newRandomSource returns a source of random bytes.
func newRandomSource(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// fullPath returns the full path of a file.
func (p *populator) fullPath(name string) string { return p.root + "/" + name }

// stopOnError records the first error, after which nothing more is written.
func (p *populator) stopOnError(err error) {
	if p.err == nil && err != nil {
		p.err = fmt.Errorf("populating: %w", err)
	}
}

// allowErrors records err in skipped if it is one of the allowed errors, and stops at any
// other. It reports whether there was no error.
func (p *populator) allowErrors(what string, err error, allowed ...unix.Errno) bool {
	if err == nil {
		return p.err == nil
	}
	for _, e := range allowed {
		if errors.Is(err, e) {
			p.skipped = append(p.skipped, fmt.Sprintf("%s: %v", what, e))
			return false
		}
	}
	p.stopOnError(fmt.Errorf("%s: %w", what, err))
	return false
}

// makeDirs creates a directory and its parents.
func (p *populator) makeDirs(name string) {
	if p.err == nil {
		p.stopOnError(os.MkdirAll(p.fullPath(name), 0o755))
	}
}

// randomBytes returns n bytes that do not compress.
func (p *populator) randomBytes(n int) []byte {
	b := make([]byte, n)
	p.random.Read(b)
	return b
}

// writeFile creates a file.
func (p *populator) writeFile(name string, content []byte) {
	if p.err == nil {
		p.stopOnError(os.WriteFile(p.fullPath(name), content, 0o644))
	}
}

// writeAt writes to a file, which it creates if it does not exist, and reports whether the
// file system supports data at that offset.
func (p *populator) writeAt(name string, off int64, content []byte) bool {
	if p.err != nil {
		return false
	}
	f, err := os.OpenFile(p.fullPath(name), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		p.stopOnError(err)
		return false
	}
	defer f.Close()
	_, err = f.WriteAt(content, off)
	return p.allowErrors(fmt.Sprintf("data at offset %d", off), err, unix.EFBIG)
}

// truncateFile sets the size of a file, which it creates if it does not exist.
func (p *populator) truncateFile(name string, size int64) {
	p.writeAt(name, 0, nil)
	if p.err == nil {
		p.allowErrors(fmt.Sprintf("a file of %d bytes", size), os.Truncate(p.fullPath(name), size), unix.EFBIG)
	}
}

// fallocateFile changes the allocation of a file.
func (p *populator) fallocateFile(name string, mode uint32, off, n int64) {
	p.writeAt(name, 0, nil)
	if p.err != nil {
		return
	}
	f, err := os.OpenFile(p.fullPath(name), os.O_RDWR, 0)
	if err != nil {
		p.stopOnError(err)
		return
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), mode, off, n)
	p.allowErrors(fmt.Sprintf("fallocate mode %#x", mode), err, unix.EOPNOTSUPP, unix.EINVAL)
}

// setXattr sets an extended attribute, and reports whether there was room.
func (p *populator) setXattr(name, attr string, value []byte) bool {
	if p.err != nil {
		return false
	}
	err := unix.Lsetxattr(p.fullPath(name), attr, value, 0)
	return p.allowErrors(fmt.Sprintf("xattr %.24q of %d bytes", attr, len(value)), err,
		unix.ENOSPC, unix.E2BIG, unix.ERANGE, unix.EOPNOTSUPP)
}

// writeLinks writes short symbolic links, which are kept in the inode, long ones, and hard
// links across directories.
func (p *populator) writeLinks() {
	p.makeDirs("links/other/third")
	for _, n := range []int{1, 2, 30, 58, 59, 60, 61, 100, 255, 256, 1000, 1022, 1023, 1024, 2047, 2048, 4000, 4094, 4095} {
		target := make([]byte, n)
		for i := range target {
			target[i] = "abcdefgh/"[i%9]
		}
		err := os.Symlink(string(target), p.fullPath(fmt.Sprintf("links/sym%04d", n)))
		p.allowErrors(fmt.Sprintf("a symlink of %d bytes", n), err, unix.ENAMETOOLONG)
	}
	p.stopOnError(os.Symlink("non\xff\xfeutf8\n", p.fullPath("links/bytes")))
	p.stopOnError(os.Symlink("/links/first", p.fullPath("links/absolute")))
	p.stopOnError(os.Symlink("other/../../links/./first", p.fullPath("links/dots")))
	p.stopOnError(os.Symlink("loop", p.fullPath("links/loop")))
	p.writeFile("links/first", []byte("linked\n"))
	for _, name := range []string{"links/second", "links/other/first", "links/other/third/x"} {
		p.stopOnError(os.Link(p.fullPath("links/first"), p.fullPath(name)))
	}
	p.stopOnError(os.Link(p.fullPath("links/sym0100"), p.fullPath("links/other/symlink"))) // of a symlink itself
	p.writeFile("links/many", p.randomBytes(100))
	for i := range p.scale.pickByScale(100, 300, 3000) {
		p.stopOnError(os.Link(p.fullPath("links/many"), p.fullPath(fmt.Sprintf("links/other/third/l%d", i))))
	}
}

// writeSpecialFiles writes fifos, sockets and devices.
func (p *populator) writeSpecialFiles() {
	p.makeDirs("special")
	dev := func(name string, kind uint32, major, minor uint32) {
		if p.err == nil {
			p.stopOnError(unix.Mknod(p.fullPath("special/"+name), kind|0o640, int(unix.Mkdev(major, minor))))
		}
	}
	dev("fifo", unix.S_IFIFO, 0, 0)
	dev("socket", unix.S_IFSOCK, 0, 0)
	for i, d := range [][2]uint32{{0, 0}, {1, 3}, {255, 255}, {255, 256}, {256, 255}, {300, 70000}, {4095, 1<<20 - 1}} {
		dev(fmt.Sprintf("char%d", i), unix.S_IFCHR, d[0], d[1])
		dev(fmt.Sprintf("block%d", i), unix.S_IFBLK, d[0], d[1])
	}
	for _, name := range []string{"fifo", "socket", "char1", "block5"} {
		p.setXattr("special/"+name, "trusted.special", []byte(name))
	}
	p.stopOnError(os.Symlink("x", p.fullPath("special/symlink")))
	p.setXattr("special/symlink", "trusted.symlink", p.randomBytes(30))
}

// writeModesAndOwners writes modes and owners of all widths.
func (p *populator) writeModesAndOwners() {
	p.makeDirs("owners")
	for mode := range uint32(8) {
		name := fmt.Sprintf("owners/mode%d", mode)
		p.writeFile(name, nil)
		p.stopOnError(unix.Chmod(p.fullPath(name), mode<<9|0o751))
		p.makeDirs(name + ".d")
		p.stopOnError(unix.Chmod(p.fullPath(name+".d"), mode<<9|0o770))
	}
	p.makeDirs("owners/mode2.d/inherits") // the group and the bit
	p.writeFile("owners/none", nil)
	p.stopOnError(unix.Chmod(p.fullPath("owners/none"), 0))
	for _, id := range [][2]int{{1, 2}, {65535, 65535}, {65536, 1}, {70000, 4000000000}, {4294967294, 4294967293}} {
		name := fmt.Sprintf("owners/%d-%d", id[0], id[1])
		p.writeFile(name, nil)
		p.stopOnError(os.Lchown(p.fullPath(name), id[0], id[1]))
		p.stopOnError(os.Symlink("x", p.fullPath(name+".l")))
		p.stopOnError(os.Lchown(p.fullPath(name+".l"), id[1], id[0]))
	}
}

// writeTimes writes times that need more than 32 bits of seconds, and nanoseconds.
func (p *populator) writeTimes() {
	p.makeDirs("times")
	set := func(name string, sec int64, nsec int64) {
		// Two different times, so that they cannot be mixed up.
		ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec + 1, Nsec: 999999999 - nsec}}
		if p.err == nil {
			p.stopOnError(unix.UtimesNanoAt(unix.AT_FDCWD, p.fullPath(name), ts, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
	for i, sec := range []int64{
		-1 << 31, -2145916800, -631152000, -1, 0, 1e9, // 1901, 1902, 1950, 1969, 1970, 2001
		1<<31 - 1, 1 << 31, 4102444800, 1<<32 - 1, 1 << 32, // 2038, 2100, 2106
		3<<31 - 1, 3 << 31, 13569465600, 0x37fffffff - 1, // 2174, 2400, 2446
	} {
		name := fmt.Sprintf("times/t%02d", i)
		p.writeFile(name, nil)
		set(name, sec, 123456789)
	}
	p.makeDirs("times/dir/sub")
	p.stopOnError(os.Symlink("2100", p.fullPath("times/symlink")))
	set("times/symlink", 4102444800, 1)
	set("times/dir/sub", 13569465600, 999999999)
	set("times/dir", -631152000, 0)
}

// writeDeepTree writes a long path.
func (p *populator) writeDeepTree() {
	name := "deep"
	for i := range 60 {
		name = filepath.Join(name, fmt.Sprintf("level-%02d-%0*d", i, 1+i%30, i))
	}
	p.makeDirs(name)
	p.writeFile(name+"/bottom", []byte("bottom\n"))
}
