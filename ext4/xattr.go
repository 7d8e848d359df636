package ext4

import (
	"errors"
	"slices"
	"strings"
	"syscall"
)

// Extended attributes lie after the inode's fields, and in one more block if they need it.
// In both areas entries are packed from the front, and values from the back.
const (
	xattrEntryLen   = 16
	xattrHeaderLen  = 32 // of a block
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

// errNoXattr says that an attribute does not exist.
var errNoXattr = syscall.ENODATA

// xattr is one extended attribute.
type xattr struct {
	index byte
	name  string // without the prefix that the index stands for
	value []byte
	inode uint32 // inode that holds the value; 0: it is in value
	size  int    // of the value
}

// splitXattrName splits an attribute's name into the number of its prefix and the rest.
func splitXattrName(full string) (index byte, name string, err error) {
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

// fullXattrName joins prefix and rest; "" for an internal attribute.
func (x xattr) fullXattrName() string {
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

// parseXattrEntries reads the entries of an attribute area. Offsets of values count from
// base, and must not be before from.
func (fs *FS) parseXattrEntries(ents, base []byte, from int) ([]xattr, error) {
	bad := corruptf("extended attributes are invalid")
	var list []xattr
	for off := 0; ; {
		if off+4 > len(ents) {
			return nil, bad
		}
		if le.Uint32(ents[off:]) == 0 {
			return list, nil
		}
		if off+xattrEntryLen > len(ents) {
			return nil, bad
		}
		n := int(ents[off])
		x := xattr{index: ents[off+1], inode: le.Uint32(ents[off+4:])}
		at, size := int(le.Uint16(ents[off+2:])), le.Uint32(ents[off+8:])
		if off+xattrEntryLen+n > len(ents) || size > maxXattrValue {
			return nil, bad
		}
		x.name, x.size = string(ents[off+xattrEntryLen:off+xattrEntryLen+n]), int(size)
		x.value = []byte{} // of no bytes: wherever it says that they lie
		if x.inode == 0 && x.size > 0 {
			if at+x.size > len(base) || at < from {
				return nil, bad
			}
			x.value = slices.Clone(base[at : at+x.size])
		}
		list = append(list, x)
		off += (xattrEntryLen + n + 3) &^ 3
	}
}

// xattrBodyArea returns the part of an inode that may hold attributes, or nil.
func (i *inode) xattrBodyArea() []byte {
	if x := oldInodeSize + i.extraSize(); i.extraSize() > 0 && x+4 < len(i.raw) {
		return i.raw[x:]
	}
	return nil
}

// readBodyXattrs returns the attributes in an inode.
func (fs *FS) readBodyXattrs(i *inode) ([]xattr, error) {
	area := i.xattrBodyArea()
	if area == nil || le.Uint32(area) != xattrMagic {
		return nil, nil
	}
	return fs.parseXattrEntries(area[4:], area[4:], 0)
}

// readXattrBlock returns an inode's attribute block, checked, or nil.
func (fs *FS) readXattrBlock(i *inode) ([]byte, error) {
	at := i.xattrBlock()
	if at == 0 {
		return nil, nil
	}
	if at < fs.sb.firstBlock || at >= fs.sb.blocks {
		return nil, corruptf("the extended attributes of inode %d are invalid", i.num)
	}
	b, err := fs.getBlock(at)
	if err != nil {
		return nil, err
	}
	if b.verified.Load() == verifiedKey(checkXattr, 0) {
		return b.data, nil
	}
	if le.Uint32(b.data) != xattrMagic || le.Uint32(b.data[8:]) != 1 {
		return nil, corruptf("the extended attributes of inode %d are invalid", i.num)
	}
	if fs.sb.metadataCsum && fs.xattrBlockChecksum(at, b.data) != le.Uint32(b.data[xattrSum:]) {
		return nil, corruptf("the extended attributes of inode %d have a wrong checksum", i.num)
	}
	b.verified.Store(verifiedKey(checkXattr, 0))
	return b.data, nil
}

// xattrBlockChecksum computes the checksum of the attribute block at block number at.
func (fs *FS) xattrBlockChecksum(at uint64, b []byte) uint32 {
	c := crc32c(crc32cUint64(fs.sb.csumSeed, at), b[:xattrSum])
	return crc32c(crc32c(c, zeros[:4]), b[xattrSum+4:])
}

// readBlockXattrs returns the attributes in an inode's attribute block.
func (fs *FS) readBlockXattrs(i *inode) ([]xattr, error) {
	b, err := fs.readXattrBlock(i)
	if b == nil || err != nil {
		return nil, err
	}
	return fs.parseXattrEntries(b[xattrHeaderLen:], b, xattrHeaderLen)
}

// readXattrs returns all attributes of an inode.
func (fs *FS) readXattrs(i *inode) ([]xattr, error) {
	inner, err := fs.readBodyXattrs(i)
	if err != nil {
		return nil, err
	}
	outer, err := fs.readBlockXattrs(i)
	return append(inner, outer...), err
}

// readXattrValue returns an attribute's value, which may lie in an inode of its own.
func (fs *FS) readXattrValue(x xattr) ([]byte, error) {
	if x.inode == 0 {
		return x.value, nil
	}
	i, err := fs.readInode(x.inode)
	if err != nil {
		return nil, err
	}
	if !i.hasFlag(flagEAInode) || i.size() != int64(x.size) {
		return nil, corruptf("inode %d should hold the value of an extended attribute", x.inode)
	}
	v := make([]byte, x.size)
	_, err = fs.readContent(i, v, 0)
	return v, err
}

// getXattr returns the value of one attribute as it is stored. ENODATA.
func (fs *FS) getXattr(i *inode, index byte, name string) ([]byte, error) {
	list, err := fs.readXattrs(i)
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if x.index == index && x.name == name {
			return fs.readXattrValue(x)
		}
	}
	return nil, errNoXattr
}

// Getxattr returns the value of an extended attribute, by its full name. POSIX ACLs have
// the form that the system calls use. ENODATA.
func (fs *FS) Getxattr(path, name string) ([]byte, error) {
	index, rest, err := splitXattrName(name)
	if err != nil {
		return nil, err
	}
	var value []byte
	err = fs.viewPath(path, false, func(i *inode) error {
		value, err = fs.getXattr(i, index, rest)
		if err == nil && (index == xattrACL || index == xattrDefaultACL) {
			value, err = aclDiskToSyscall(value)
		}
		return err
	})
	return value, err
}

// Listxattr returns the full names of the extended attributes, sorted.
func (fs *FS) Listxattr(path string) ([]string, error) {
	names := []string{}
	err := fs.viewPath(path, false, func(i *inode) error {
		list, err := fs.readXattrs(i)
		for _, x := range list {
			if n := x.fullXattrName(); n != "" {
				names = append(names, n)
			}
		}
		return err
	})
	slices.Sort(names)
	return names, err
}

// Setxattr sets an extended attribute. ENOSPC: no room beside the other attributes;
// ErrUnsupported: a name that ext4 does not store; EPERM: a user attribute of something
// that is neither file nor directory.
func (fs *FS) Setxattr(path, name string, value []byte) error {
	index, rest, err := splitXattrName(name)
	if err != nil {
		return err
	}
	if len(value) > maxXattrValue {
		return syscall.E2BIG
	}
	if value == nil {
		value = []byte{}
	}
	return fs.changePath(path, false, func(i *inode) error {
		if index == 1 && !i.isDir() && !i.isRegular() {
			return errPerm
		}
		if index == xattrACL || index == xattrDefaultACL {
			return fs.setACL(i, index, value)
		}
		return fs.setXattr(i, index, rest, value)
	})
}

// Removexattr removes an extended attribute. ENODATA.
func (fs *FS) Removexattr(path, name string) error {
	index, rest, err := splitXattrName(name)
	if err != nil {
		return err
	}
	return fs.changePath(path, false, func(i *inode) error {
		return fs.setXattr(i, index, rest, nil)
	})
}

// isNoXattr reports whether an error says that an attribute does not exist.
func isNoXattr(err error) bool { return errors.Is(err, errNoXattr) }

// hasXattrs reports whether an inode may have attributes: it has a place for them in use.
func (i *inode) hasXattrs() bool {
	area := i.xattrBodyArea()
	return i.xattrBlock() != 0 || area != nil && le.Uint32(area) == xattrMagic
}
