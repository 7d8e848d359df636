package ext4oracle

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// names writes names of all lengths and of odd bytes.
func (p *populator) names() {
	p.mkdir("names/lengths")
	for _, name := range []string{
		"sp ace", "new\nline", "tab\t", "non\xff\xfeutf8", "\xc3", "\x01\x02\x7f", "-rf", "...", ".hidden",
		"back\\slash", "quote\"'`$(x)", "*?[a]", "\u00fcn\u00efc\u00f6de", "u\u0308", "\u65e5\u672c\u8a9e",
		"\U0001f600", "CON", "a:b", "Case", "case", strings.Repeat("n", 255), strings.Repeat("\xff", 255),
	} {
		p.file("names/"+name, []byte(name))
	}
	for n := 1; n <= 255; n += 1 + n/20 {
		p.file("names/lengths/"+strings.Repeat("x", n), nil)
	}
	p.mkdir("names/" + strings.Repeat("d", 255))
	p.file("names/"+strings.Repeat("d", 255)+"/"+strings.Repeat("f", 255), []byte("long"))
}

// fill makes n empty files with names of different lengths in a directory.
func (p *populator) fill(dir string, n int, name func(i int) string) {
	p.mkdir(dir)
	for i := 0; i < n && p.err == nil; i++ {
		f, err := os.OpenFile(p.path(dir+"/"+name(i)), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
		if err == nil && i%10 == 0 {
			_, err = fmt.Fprintf(f, "content %d\n", i)
		}
		if err == nil {
			err = f.Close()
		}
		p.must(err)
	}
}

// unlink removes those of n files for which which returns true.
func (p *populator) unlink(dir string, n int, name func(i int) string, which func(i int) bool) {
	for i := 0; i < n && p.err == nil; i++ {
		if which(i) {
			p.must(os.Remove(p.path(dir + "/" + name(i))))
		}
	}
}

// many writes directories that are large enough for an index, with gaps.
func (p *populator) many() {
	name := func(i int) string { return fmt.Sprintf("file-%06d-%s", i, strings.Repeat("x", i%40)) }
	count := p.scale.pick(600, 3000, 100000)
	p.fill("many/files", count, name)
	p.unlink("many/files", count, name, func(i int) bool { return i%7 == 0 })
	// Gaps that are filled again, with longer names.
	again := func(i int) string { return fmt.Sprintf("again-%d-%s", i, strings.Repeat("y", 50+i%60)) }
	p.fill("many/files", count/20, again)

	long := func(i int) string { return fmt.Sprintf("%0255d", i) }
	p.fill("many/long", p.scale.pick(200, 1000, 5000), long) // few to a block

	for i := range p.scale.pick(100, 600, 66000) {
		p.mkdir(fmt.Sprintf("many/dirs/%d", i))
	}
	p.must(os.Rename(p.path("many/files/"+name(1)), p.path("many/long/moved")))
	p.must(os.Rename(p.path("many/files/"+name(2)), p.path("many/files/"+name(3)))) // replaces
	p.must(os.Rename(p.path("many/dirs/1"), p.path("many/dirs/2/moved")))
}

// emptied writes directories that were large.
func (p *populator) emptied() {
	name := func(i int) string { return fmt.Sprintf("%0100d", i) }
	all := func(int) bool { return true }
	count := p.scale.pick(300, 1500, 10000)
	p.fill("emptied/all", count, name)
	p.unlink("emptied/all", count, name, all)
	p.fill("emptied/first", count, name)
	p.unlink("emptied/first", count, name, func(i int) bool { return i < count-3 })
	p.fill("emptied/refilled", count, name)
	p.unlink("emptied/refilled", count, name, all)
	p.fill("emptied/refilled", 5, name)
}

// inline writes files and directories that fit an inode, or nearly.
func (p *populator) inline() {
	p.mkdir("inline")
	for _, n := range []int{0, 1, 4, 59, 60, 61, 64, 100, 128, 130, 132, 136, 140, 148, 152, 156, 160, 161, 164, 168, 200, 300} {
		name := fmt.Sprintf("inline/f%d", n)
		p.file(name, p.bytes(n))
		if n%8 == 4 {
			p.setxattr(name, "user.beside", []byte("data"))
		}
		p.file(name+".x", nil) // the attribute is there first
		p.setxattr(name+".x", "user.before", p.bytes(20))
		p.write(name+".x", 0, p.bytes(n))
	}
	p.file("inline/grown", p.bytes(50))
	p.write("inline/grown", 50, p.bytes(5000))
	p.file("inline/shrunk", p.bytes(5000))
	p.truncate("inline/shrunk", 40)
	p.file("inline/tail", p.bytes(150))
	p.truncate("inline/tail", 20)
	p.truncate("inline/tail", 90)
	p.truncate("inline/zeros", 100)
	for n := range 14 {
		dir := fmt.Sprintf("inline/dir%02d", n)
		p.fill(dir, n, func(i int) string { return fmt.Sprintf("entry%d", i) })
	}
	p.fill("inline/gap", 6, func(i int) string { return fmt.Sprint("e", i) })
	p.unlink("inline/gap", 6, func(i int) string { return fmt.Sprint("e", i) }, func(i int) bool { return i%2 == 0 })
}

// acl is a POSIX access control list in the form of the system.posix_acl_* attributes.
type acl []byte

// newACL begins a list.
func newACL() acl { return acl{2, 0, 0, 0} }

// Tags of entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// with appends an entry. They must come in the order of tags and ids.
func (a acl) with(tag, perm uint16, id uint32) acl {
	return append(a, byte(tag), byte(tag>>8), byte(perm), byte(perm>>8),
		byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
}

// nobody is the id of entries that have none.
const nobody = ^uint32(0)

// users returns a list that names n users and groups.
func users(n int, perm uint16) acl {
	a := newACL().with(aclUserObj, 7, nobody)
	for i := range n {
		a = a.with(aclUser, perm, uint32(1000+i*70000))
	}
	a = a.with(aclGroupObj, 5, nobody)
	for i := range n {
		a = a.with(aclGroup, perm, uint32(2000+i))
	}
	return a.with(aclMask, perm, nobody).with(aclOther, 4, nobody)
}

// acls writes access control lists, alone, as a default, and inherited.
func (p *populator) acls() {
	const access, inherited = "system.posix_acl_access", "system.posix_acl_default"
	p.mkdir("acls")
	for _, n := range []int{1, 2, 5, 30} {
		name := fmt.Sprintf("acls/users%d", n)
		p.file(name, nil)
		p.setxattr(name, access, users(n, 6))
	}
	minimal := newACL().with(aclUserObj, 6, nobody).with(aclGroupObj, 4, nobody).with(aclOther, 0, nobody)
	p.file("acls/minimal", nil)
	p.setxattr("acls/minimal", access, minimal) // becomes the mode
	p.mkdir("acls/both")
	p.setxattr("acls/both", access, users(1, 7))
	p.setxattr("acls/both", inherited, users(3, 5))
	p.mkdir("acls/small-default")
	p.setxattr("acls/small-default", inherited, minimal)
	for _, dir := range []string{"acls/both", "acls/small-default"} {
		p.mkdir(dir + "/sub/sub")
		p.file(dir+"/sub/file", []byte("inherits"))
		p.must(os.Symlink("x", p.path(dir+"/symlink")))
		p.must(unix.Mkfifo(p.path(dir+"/fifo"), 0o666))
	}
	p.must(unix.Chmod(p.path("acls/both/sub/file"), 0o640)) // changes the mask
	p.setxattr("acls/both/sub/file", "user.too", []byte("beside the list"))
}
