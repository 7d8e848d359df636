package ext4oracle

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// writeOddNames writes names of all lengths and of odd bytes.
func (p *populator) writeOddNames() {
	p.makeDirs("names/lengths")
	for _, name := range []string{
		"sp ace", "new\nline", "tab\t", "non\xff\xfeutf8", "\xc3", "\x01\x02\x7f", "-rf", "...", ".hidden",
		"back\\slash", "quote\"'`$(x)", "*?[a]", "\u00fcn\u00efc\u00f6de", "u\u0308", "\u65e5\u672c\u8a9e",
		"\U0001f600", "CON", "a:b", "Case", "case", strings.Repeat("n", 255), strings.Repeat("\xff", 255),
	} {
		p.writeFile("names/"+name, []byte(name))
	}
	for n := 1; n <= 255; n += 1 + n/20 {
		p.writeFile("names/lengths/"+strings.Repeat("x", n), nil)
	}
	p.makeDirs("names/" + strings.Repeat("d", 255))
	p.writeFile("names/"+strings.Repeat("d", 255)+"/"+strings.Repeat("f", 255), []byte("long"))
}

// fillDirectory makes n empty files with names of different lengths in a directory.
func (p *populator) fillDirectory(dir string, n int, name func(i int) string) {
	p.makeDirs(dir)
	for i := 0; i < n && p.err == nil; i++ {
		f, err := os.OpenFile(p.fullPath(dir+"/"+name(i)), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
		if err == nil && i%10 == 0 {
			_, err = fmt.Fprintf(f, "content %d\n", i)
		}
		if err == nil {
			err = f.Close()
		}
		p.stopOnError(err)
	}
}

// removeFiles removes those of n files for which which returns true.
func (p *populator) removeFiles(dir string, n int, name func(i int) string, which func(i int) bool) {
	for i := 0; i < n && p.err == nil; i++ {
		if which(i) {
			p.stopOnError(os.Remove(p.fullPath(dir + "/" + name(i))))
		}
	}
}

// writeLargeDirs writes directories that are large enough for an index, with gaps that are
// partly filled again, names that leave few entries to a block, and many subdirectories.
func (p *populator) writeLargeDirs() {
	name := func(i int) string { return fmt.Sprintf("file-%06d-%s", i, strings.Repeat("x", i%40)) }
	count := p.scale.pickByScale(600, 3000, 100000)
	p.fillDirectory("many/files", count, name)
	p.removeFiles("many/files", count, name, func(i int) bool { return i%7 == 0 })
	// Gaps that are filled again, with longer names.
	again := func(i int) string { return fmt.Sprintf("again-%d-%s", i, strings.Repeat("y", 50+i%60)) }
	p.fillDirectory("many/files", count/20, again)

	long := func(i int) string { return fmt.Sprintf("%0255d", i) }
	p.fillDirectory("many/long", p.scale.pickByScale(200, 1000, 5000), long) // few to a block

	for i := range p.scale.pickByScale(100, 600, 66000) {
		p.makeDirs(fmt.Sprintf("many/dirs/%d", i))
	}
	p.stopOnError(os.Rename(p.fullPath("many/files/"+name(1)), p.fullPath("many/long/moved")))
	p.stopOnError(os.Rename(p.fullPath("many/files/"+name(2)), p.fullPath("many/files/"+name(3)))) // replaces
	p.stopOnError(os.Rename(p.fullPath("many/dirs/1"), p.fullPath("many/dirs/2/moved")))
}

// writeEmptiedDirs writes directories that were large, which do not shrink.
func (p *populator) writeEmptiedDirs() {
	name := func(i int) string { return fmt.Sprintf("%0100d", i) }
	all := func(int) bool { return true }
	count := p.scale.pickByScale(300, 1500, 10000)
	p.fillDirectory("emptied/all", count, name)
	p.removeFiles("emptied/all", count, name, all)
	p.fillDirectory("emptied/first", count, name)
	p.removeFiles("emptied/first", count, name, func(i int) bool { return i < count-3 })
	p.fillDirectory("emptied/refilled", count, name)
	p.removeFiles("emptied/refilled", count, name, all)
	p.fillDirectory("emptied/refilled", 5, name)
}

// writeInlineCases writes files and directories that fit an inode, or nearly.
func (p *populator) writeInlineCases() {
	p.makeDirs("inline")
	for _, n := range []int{0, 1, 4, 59, 60, 61, 64, 100, 128, 130, 132, 136, 140, 148, 152, 156, 160, 161, 164, 168, 200, 300} {
		name := fmt.Sprintf("inline/f%d", n)
		p.writeFile(name, p.randomBytes(n))
		if n%8 == 4 {
			p.setXattr(name, "user.beside", []byte("data"))
		}
		p.writeFile(name+".x", nil) // the attribute exists before the data
		p.setXattr(name+".x", "user.before", p.randomBytes(20))
		p.writeAt(name+".x", 0, p.randomBytes(n))
	}
	p.writeFile("inline/grown", p.randomBytes(50))
	p.writeAt("inline/grown", 50, p.randomBytes(5000))
	p.writeFile("inline/shrunk", p.randomBytes(5000))
	p.truncateFile("inline/shrunk", 40)
	p.writeFile("inline/tail", p.randomBytes(150))
	p.truncateFile("inline/tail", 20)
	p.truncateFile("inline/tail", 90)
	p.truncateFile("inline/zeros", 100)
	for n := range 14 {
		dir := fmt.Sprintf("inline/dir%02d", n)
		p.fillDirectory(dir, n, func(i int) string { return fmt.Sprintf("entry%d", i) })
	}
	p.fillDirectory("inline/gap", 6, func(i int) string { return fmt.Sprint("e", i) })
	p.removeFiles("inline/gap", 6, func(i int) string { return fmt.Sprint("e", i) }, func(i int) bool { return i%2 == 0 })
}

// acl is a POSIX access control list in the form of the system.posix_acl_* attributes.
type acl []byte

// newACLList begins a list.
func newACLList() acl { return acl{2, 0, 0, 0} }

// Tags of entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// withEntry appends an entry. They must come in the order of tags and ids.
func (a acl) withEntry(tag, perm uint16, id uint32) acl {
	return append(a, byte(tag), byte(tag>>8), byte(perm), byte(perm>>8),
		byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
}

// nobody is the id of entries that have none.
const nobody = ^uint32(0)

// aclForUsers returns a list that names n users and groups.
func aclForUsers(n int, perm uint16) acl {
	a := newACLList().withEntry(aclUserObj, 7, nobody)
	for i := range n {
		a = a.withEntry(aclUser, perm, uint32(1000+i*70000))
	}
	a = a.withEntry(aclGroupObj, 5, nobody)
	for i := range n {
		a = a.withEntry(aclGroup, perm, uint32(2000+i))
	}
	return a.withEntry(aclMask, perm, nobody).withEntry(aclOther, 4, nobody)
}

// writeACLs writes access control lists, alone, as a default, and inherited.
func (p *populator) writeACLs() {
	const access, inherited = "system.posix_acl_access", "system.posix_acl_default"
	p.makeDirs("acls")
	for _, n := range []int{1, 2, 5, 30} {
		name := fmt.Sprintf("acls/users%d", n)
		p.writeFile(name, nil)
		p.setXattr(name, access, aclForUsers(n, 6))
	}
	minimal := newACLList().withEntry(aclUserObj, 6, nobody).withEntry(aclGroupObj, 4, nobody).withEntry(aclOther, 0, nobody)
	p.writeFile("acls/minimal", nil)
	p.setXattr("acls/minimal", access, minimal) // becomes the mode
	p.makeDirs("acls/both")
	p.setXattr("acls/both", access, aclForUsers(1, 7))
	p.setXattr("acls/both", inherited, aclForUsers(3, 5))
	p.makeDirs("acls/small-default")
	p.setXattr("acls/small-default", inherited, minimal)
	for _, dir := range []string{"acls/both", "acls/small-default"} {
		p.makeDirs(dir + "/sub/sub")
		p.writeFile(dir+"/sub/file", []byte("inherits"))
		p.stopOnError(os.Symlink("x", p.fullPath(dir+"/symlink")))
		p.stopOnError(unix.Mkfifo(p.fullPath(dir+"/fifo"), 0o666))
	}
	p.stopOnError(unix.Chmod(p.fullPath("acls/both/sub/file"), 0o640)) // changes the mask
	p.setXattr("acls/both/sub/file", "user.too", []byte("beside the list"))
}
