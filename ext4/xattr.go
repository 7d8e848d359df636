package ext4

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"syscall"
)

// Extended attributes lie behind the inode's fields, and in one more block when there
// are more. Both are rows of entries from the front, with the values from the back.
const (
	xattrEntry      = 16
	xattrHeader     = 32 // of a block
	xattrRefs       = 4  // offset of the number of inodes that share a block
	xattrHash       = 12
	xattrSum        = 16
	maxXattrValue   = 64 << 10
	xattrSystem     = 7
	xattrACL        = 2
	xattrDefaultACL = 3
)

// xattrPrefixes are how names begin, which is stored as a number.
var xattrPrefixes = []struct {
	index  byte
	prefix string
	whole  bool // the number is the whole name
}{
	{1, "user.", false},
	{xattrACL, "system.posix_acl_access", true},
	{xattrDefaultACL, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
	{xattrSystem, "system.", false},
}

var errNoXattr = syscall.ENODATA

// xattr is one extended attribute.
type xattr struct {
	index byte
	name  string // without what the index stands for
	value []byte
	inode uint32 // that holds the value; 0: value does
	size  int    // of the value
}

// splitXattr finds the number of a name's prefix.
func splitXattr(full string) (index byte, name string, err error) {
	for _, p := range xattrPrefixes {
		if p.whole && full == p.prefix {
			return p.index, "", nil
		}
		if rest, ok := strings.CutPrefix(full, p.prefix); ok && !p.whole {
			if rest == "" || len(rest) > maxName || strings.ContainsRune(rest, 0) {
				return 0, "", errInvalid
			}
			if p.index == xattrSystem {
				break
			}
			return p.index, rest, nil
		}
	}
	return 0, "", unsupportedf("attributes named %q", full)
}

// fullName is the opposite; "" for what is not shown to anyone.
func (x xattr) fullName() string {
	if x.index == xattrSystem && x.name == "data" {
		return ""
	}
	for _, p := range xattrPrefixes {
		if p.index == x.index {
			return p.prefix + x.name
		}
	}
	return ""
}

// parseXattrs reads a row of entries. Values are at offsets from base, and not before from.
func (fs *FS) parseXattrs(ents, base []byte, from int) ([]xattr, error) {
	bad := corruptf("extended attributes")
	var list []xattr
	for off := 0; ; {
		if off+4 > len(ents) {
			return nil, bad
		}
		if le.Uint32(ents[off:]) == 0 {
			return list, nil
		}
		if off+xattrEntry > len(ents) {
			return nil, bad
		}
		n := int(ents[off])
		x := xattr{index: ents[off+1], inode: le.Uint32(ents[off+4:])}
		at, size := int(le.Uint16(ents[off+2:])), le.Uint32(ents[off+8:])
		if off+xattrEntry+n > len(ents) || size > maxXattrValue {
			return nil, bad
		}
		x.name, x.size = string(ents[off+xattrEntry:off+xattrEntry+n]), int(size)
		x.value = []byte{} // of no bytes: wherever it says that they lie
		if x.inode == 0 && x.size > 0 {
			if at+x.size > len(base) || at < from {
				return nil, bad
			}
			x.value = slices.Clone(base[at : at+x.size])
		}
		list = append(list, x)
		off += (xattrEntry + n + 3) &^ 3
	}
}

// innerArea returns the part of an inode that may hold attributes; nil: none.
func (i *inode) innerArea() []byte {
	if x := oldInodeSize + i.extra(); i.extra() > 0 && x+4 < len(i.raw) {
		return i.raw[x:]
	}
	return nil
}

func (fs *FS) innerXattrs(i *inode) ([]xattr, error) {
	area := i.innerArea()
	if area == nil || le.Uint32(area) != xattrMagic {
		return nil, nil
	}
	return fs.parseXattrs(area[4:], area[4:], 0)
}

// xattrBlockData returns an inode's block of attributes, checked; nil: none.
func (fs *FS) xattrBlockData(i *inode) ([]byte, error) {
	at := i.xattrBlock()
	if at == 0 {
		return nil, nil
	}
	if at < fs.sb.first || at >= fs.sb.blocks {
		return nil, corruptf("extended attributes of inode %d", i.num)
	}
	b, err := fs.get(at)
	if err != nil {
		return nil, err
	}
	if b.passed.Load() == passKey(checkXattr, 0) {
		return b.data, nil
	}
	if le.Uint32(b.data) != xattrMagic || le.Uint32(b.data[8:]) != 1 {
		return nil, corruptf("extended attributes of inode %d", i.num)
	}
	if fs.sb.csum && fs.xattrSum(at, b.data) != le.Uint32(b.data[xattrSum:]) {
		return nil, corruptf("checksum of extended attributes of inode %d", i.num)
	}
	b.passed.Store(passKey(checkXattr, 0))
	return b.data, nil
}

func (fs *FS) xattrSum(at uint64, b []byte) uint32 {
	c := crc32c(crc32c64(fs.sb.seed, at), b[:xattrSum])
	return crc32c(crc32c(c, zeros[:4]), b[xattrSum+4:])
}

func (fs *FS) outerXattrs(i *inode) ([]xattr, error) {
	b, err := fs.xattrBlockData(i)
	if b == nil || err != nil {
		return nil, err
	}
	return fs.parseXattrs(b[xattrHeader:], b, xattrHeader)
}

// xattrs returns all attributes of an inode.
func (fs *FS) xattrs(i *inode) ([]xattr, error) {
	inner, err := fs.innerXattrs(i)
	if err != nil {
		return nil, err
	}
	outer, err := fs.outerXattrs(i)
	return append(inner, outer...), err
}

// xattrValue returns an attribute's value, from an inode of its own if need be.
func (fs *FS) xattrValue(x xattr) ([]byte, error) {
	if x.inode == 0 {
		return x.value, nil
	}
	i, err := fs.inode(x.inode)
	if err != nil {
		return nil, err
	}
	if !i.has(flagEAInode) || i.size() != int64(x.size) {
		return nil, corruptf("inode %d of an extended attribute", x.inode)
	}
	v := make([]byte, x.size)
	_, err = fs.readAt(i, v, 0)
	return v, err
}

// getXattr returns one attribute as it is stored.
func (fs *FS) getXattr(i *inode, index byte, name string) ([]byte, error) {
	list, err := fs.xattrs(i)
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if x.index == index && x.name == name {
			return fs.xattrValue(x)
		}
	}
	return nil, errNoXattr
}

// setXattr sets an attribute, or removes it when value is nil. The caller stores the inode.
func (fs *FS) setXattr(i *inode, index byte, name string, value []byte) error {
	list, err := fs.xattrs(i)
	if err != nil {
		return err
	}
	n := len(list)
	list = slices.DeleteFunc(list, func(x xattr) bool { return x.index == index && x.name == name })
	if value == nil && len(list) == n {
		return errNoXattr
	}
	if value != nil {
		list = append(list, xattr{index: index, name: name, value: value, size: len(value)})
	}
	fs.touch(i, stampCtime)
	return fs.storeXattrs(i, list)
}

// storeXattrs stores all attributes of an inode, the small ones in it.
func (fs *FS) storeXattrs(i *inode, list []xattr) error {
	for _, x := range list {
		if x.inode != 0 {
			return unsupportedf("changing attributes that have inodes of their own")
		}
	}
	slices.SortStableFunc(list, func(a, b xattr) int { return cmp.Compare(a.space(), b.space()) })
	var inner []xattr
	if area := i.innerArea(); area != nil {
		clear(area)
		for room := len(area) - 4 - 4; len(list) > 0 && list[0].space() <= room; list = list[1:] {
			room -= list[0].space()
			inner = append(inner, list[0])
		}
		if len(inner) > 0 {
			le.PutUint32(area, xattrMagic)
			packXattrs(area[4:], 0, inner, false)
		}
	}
	return fs.storeOuter(i, list)
}

// space returns how many bytes an attribute takes.
func (x xattr) space() int { return (xattrEntry+len(x.name)+3)&^3 + (len(x.value)+3)&^3 }

// packXattrs writes entries and values that fit. Offsets count from shift bytes before area.
func packXattrs(area []byte, shift int, list []xattr, hashes bool) {
	off, end := 0, len(area)
	for _, x := range list {
		e := area[off:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= (len(x.value) + 3) &^ 3
			copy(area[end:], x.value)
			le.PutUint16(e[2:], uint16(end+shift))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		if hashes {
			le.PutUint32(e[12:], x.hash())
		}
		copy(e[xattrEntry:], x.name)
		off += (xattrEntry + len(x.name) + 3) &^ 3
	}
}

// hash is what Linux finds equal blocks by.
func (x xattr) hash() uint32 {
	h := uint32(0)
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	for v := x.value; len(v) > 0; v = v[min(4, len(v)):] {
		var w [4]byte
		copy(w[:], v)
		h = h<<16 ^ h>>16 ^ le.Uint32(w[:])
	}
	return h
}

// storeOuter stores the attributes that do not fit into the inode, in a block of its own.
func (fs *FS) storeOuter(i *inode, list []xattr) error {
	old := i.xattrBlock()
	if len(list) == 0 {
		return fs.dropXattrBlock(i)
	}
	need := 4
	for _, x := range list {
		need += x.space()
	}
	if need > int(fs.sb.blockSize)-xattrHeader {
		return errNoSpace
	}
	// The order that Linux searches by.
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	at := old
	if old != 0 {
		b, err := fs.xattrBlockData(i)
		if err != nil {
			return err
		}
		if le.Uint32(b[xattrRefs:]) > 1 {
			if err := fs.dropXattrBlock(i); err != nil {
				return err
			}
			at = 0
		}
	}
	if at == 0 {
		r, err := fs.alloc(fs.sb.groupStart((i.num-1)/fs.sb.inodesPer), 1)
		if err != nil {
			return err
		}
		at = r.start
		fs.addBlocks(i, 1)
		fs.setXattrBlock(i, at)
	}
	b := fs.fresh(at)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[xattrRefs:], 1)
	le.PutUint32(b[8:], 1)
	packXattrs(b[xattrHeader:], xattrHeader, list, true)
	var h uint32
	for _, x := range list {
		h = h<<16 ^ h>>16 ^ x.hash()
	}
	le.PutUint32(b[xattrHash:], h)
	if fs.sb.csum {
		le.PutUint32(b[xattrSum:], fs.xattrSum(at, b))
	}
	return nil
}

func (fs *FS) setXattrBlock(i *inode, at uint64) {
	le.PutUint32(i.raw[inFileACL:], uint32(at))
	le.PutUint16(i.raw[inFileACLHi:], uint16(at>>32))
}

// dropXattrBlock frees an inode's block of attributes, or its share of it.
func (fs *FS) dropXattrBlock(i *inode) error {
	at := i.xattrBlock()
	if at == 0 {
		return nil
	}
	old, err := fs.xattrBlockData(i)
	if err != nil {
		return err
	}
	fs.setXattrBlock(i, 0)
	refs := le.Uint32(old[xattrRefs:])
	if refs <= 1 {
		return fs.freeMeta(i, at)
	}
	b, err := fs.mod(at)
	if err != nil {
		return err
	}
	le.PutUint32(b[xattrRefs:], refs-1)
	if fs.sb.csum {
		le.PutUint32(b[xattrSum:], fs.xattrSum(at, b))
	}
	fs.addBlocks(i, -1)
	return nil
}

// Getxattr returns the value of an extended attribute, by its full name. POSIX ACLs
// have the form in which the system calls pass them. ENODATA: there is none.
func (fs *FS) Getxattr(path, name string) ([]byte, error) {
	index, rest, err := splitXattr(name)
	if err != nil {
		return nil, err
	}
	var value []byte
	err = fs.view(path, false, func(i *inode) error {
		value, err = fs.getXattr(i, index, rest)
		if err == nil && (index == xattrACL || index == xattrDefaultACL) {
			value, err = aclToCall(value)
		}
		return err
	})
	return value, err
}

// Listxattr returns the full names of the extended attributes, sorted.
func (fs *FS) Listxattr(path string) ([]string, error) {
	names := []string{}
	err := fs.view(path, false, func(i *inode) error {
		list, err := fs.xattrs(i)
		for _, x := range list {
			if n := x.fullName(); n != "" {
				names = append(names, n)
			}
		}
		return err
	})
	slices.Sort(names)
	return names, err
}

// Setxattr sets an extended attribute. ENOSPC: there is no room for it beside the
// others; ErrUnsupported: a name of a kind that ext4 does not keep; EPERM: a user
// attribute of what is neither file nor directory.
func (fs *FS) Setxattr(path, name string, value []byte) error {
	index, rest, err := splitXattr(name)
	if err != nil {
		return err
	}
	if len(value) > maxXattrValue {
		return syscall.E2BIG
	}
	if value == nil {
		value = []byte{}
	}
	return fs.changeAt(path, false, func(i *inode) error {
		if index == 1 && !i.isDir() && !i.isRegular() {
			return errPerm
		}
		if index == xattrACL || index == xattrDefaultACL {
			return fs.setACL(i, index, value)
		}
		return fs.setXattr(i, index, rest, value)
	})
}

// Removexattr removes an extended attribute. ENODATA: there is none.
func (fs *FS) Removexattr(path, name string) error {
	index, rest, err := splitXattr(name)
	if err != nil {
		return err
	}
	return fs.changeAt(path, false, func(i *inode) error {
		return fs.setXattr(i, index, rest, nil)
	})
}

func noXattr(err error) bool { return errors.Is(err, errNoXattr) }

// hasXattrs reports whether an inode has a place where attributes are, or may be.
func (i *inode) hasXattrs() bool {
	area := i.innerArea()
	return i.xattrBlock() != 0 || area != nil && le.Uint32(area) == xattrMagic
}
