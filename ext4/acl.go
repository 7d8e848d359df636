package ext4

// POSIX access control lists. On disk an entry of a named user or group has 8 bytes
// and others have 4; the system calls pass 8 bytes for each, and another version.
const (
	aclVersionDisk    = 1
	aclVersionSyscall = 2

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNobody = ^uint32(0)
)

// aclEntry is one entry of a list: permissions of a class, or of one user or group.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL reads a list in the form of the disk or of the system calls, and checks it.
func parseACL(b []byte, version uint32) ([]aclEntry, error) {
	if len(b) < 4 || le.Uint32(b) != version {
		return nil, errInvalid
	}
	var list []aclEntry
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, errInvalid
		}
		e, n := aclEntry{tag: le.Uint16(b), perm: le.Uint16(b[2:]), id: aclNobody}, 4
		named := e.tag == aclUser || e.tag == aclGroup
		if named || version == aclVersionSyscall {
			if n = 8; len(b) < n {
				return nil, errInvalid
			}
			if named {
				e.id = le.Uint32(b[4:])
			}
		}
		list, b = append(list, e), b[n:]
	}
	return list, checkACL(list)
}

// checkACL checks that a list is complete and in order, as Linux requires.
func checkACL(list []aclEntry) error {
	seen, last, named := uint16(0), uint16(0), false
	for _, e := range list {
		switch e.tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			if seen&e.tag != 0 {
				return errInvalid
			}
		case aclUser, aclGroup:
			named = true
		default:
			return errInvalid
		}
		if e.tag < last || e.perm > 7 {
			return errInvalid
		}
		seen, last = seen|e.tag, e.tag
	}
	const must = aclUserObj | aclGroupObj | aclOther
	if len(list) > 0 && (seen&must != must || named && seen&aclMask == 0) {
		return errInvalid
	}
	return nil
}

// encodeACL writes a list in the form of the given version.
func encodeACL(list []aclEntry, version uint32) []byte {
	b := le.AppendUint32(nil, version)
	for _, e := range list {
		b = le.AppendUint16(le.AppendUint16(b, e.tag), e.perm)
		if version == aclVersionSyscall || e.tag == aclUser || e.tag == aclGroup {
			b = le.AppendUint32(b, e.id)
		}
	}
	return b
}

// aclDiskToSyscall converts a list from the form on disk to that of the system calls.
func aclDiskToSyscall(b []byte) ([]byte, error) {
	list, err := parseACL(b, aclVersionDisk)
	if err != nil {
		return nil, corruptf("an access control list is invalid")
	}
	return encodeACL(list, aclVersionSyscall), nil
}

// setACL sets a list given in the form of the system calls. An access list that is
// equivalent to permission bits is stored as those.
func (fs *FS) setACL(i *inode, index byte, value []byte) error {
	list, err := parseACL(value, aclVersionSyscall)
	if err != nil {
		return err
	}
	if i.fileType() == typeSymlink {
		return unsupportedf("access control lists of symbolic links")
	}
	if index == xattrDefaultACL && !i.isDir() {
		return errPerm
	}
	keep := len(list) > 0
	if index == xattrACL && keep {
		mode, more := aclPermBits(list)
		le.PutUint16(i.raw[inMode:], i.mode()&^0o777|mode)
		keep = more
	}
	if keep {
		return fs.setXattr(i, index, "", encodeACL(list, aclVersionDisk))
	}
	fs.setTimesToNow(i, stampCtime)
	if err := fs.setXattr(i, index, "", nil); err != nil && !isNoXattr(err) {
		return err
	}
	return nil
}

// aclPermBits returns the permission bits of a list, and whether it has entries beyond
// them.
func aclPermBits(list []aclEntry) (mode uint16, more bool) {
	for _, e := range list {
		switch e.tag {
		case aclUserObj:
			mode |= e.perm << 6
		case aclGroupObj:
			if !more {
				mode |= e.perm << 3
			}
		case aclMask:
			mode = mode&^0o070 | e.perm<<3
			more = true
		case aclOther:
			mode |= e.perm
		default:
			more = true
		}
	}
	return mode, more
}

// readACL returns the access list, or the default list, of an inode; nil if it has none.
func (fs *FS) readACL(i *inode, index byte) ([]aclEntry, error) {
	b, err := fs.getXattr(i, index, "")
	if isNoXattr(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := parseACL(b, aclVersionDisk)
	if err != nil {
		return nil, corruptf("the access control list of inode %d is invalid", i.num)
	}
	return list, nil
}

// applyModeToACL makes an inode's access list agree with new permission bits, as chmod
// does.
func (fs *FS) applyModeToACL(i *inode, mode uint16) error {
	list, err := fs.readACL(i, xattrACL)
	if list == nil || err != nil {
		return err
	}
	var group *aclEntry // that the bits of the group are for: the mask, or without one the group
	for k := range list {
		switch e := &list[k]; e.tag {
		case aclUserObj:
			e.perm = mode >> 6 & 7
		case aclOther:
			e.perm = mode & 7
		case aclGroupObj, aclMask: // in this order, see checkACL
			group = e
		}
	}
	if group != nil {
		group.perm = mode >> 3 & 7
	}
	return fs.setXattr(i, xattrACL, "", encodeACL(list, aclVersionDisk))
}

// inheritDefaultACL applies the default list of a directory to a new inode in it:
// permission bits that both grant, an access list, and for a directory the default list
// itself.
func (fs *FS) inheritDefaultACL(dir, i *inode) error {
	if i.fileType() == typeSymlink || !dir.hasXattrs() {
		return nil
	}
	list, err := fs.readACL(dir, xattrDefaultACL)
	if list == nil || err != nil {
		return err
	}
	if i.isDir() {
		if err := fs.setXattr(i, xattrDefaultACL, "", encodeACL(list, aclVersionDisk)); err != nil {
			return err
		}
	}
	mode := i.mode()
	intersectACLWithMode(list, &mode)
	le.PutUint16(i.raw[inMode:], mode)
	if _, more := aclPermBits(list); !more {
		return nil
	}
	return fs.setXattr(i, xattrACL, "", encodeACL(list, aclVersionDisk))
}

// intersectACLWithMode removes from a list and from permission bits what only one of them
// grants.
func intersectACLWithMode(list []aclEntry, mode *uint16) {
	var group *aclEntry // as in applyModeToACL
	both := func(e *aclEntry, shift int) {
		e.perm &= *mode >> shift & 7
		*mode = *mode&^(7<<shift) | e.perm<<shift
	}
	for k := range list {
		switch e := &list[k]; e.tag {
		case aclUserObj:
			both(e, 6)
		case aclOther:
			both(e, 0)
		case aclGroupObj, aclMask:
			group = e
		}
	}
	if group != nil {
		both(group, 3)
	}
}
