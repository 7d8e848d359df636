package ext4workload

import (
	"encoding/binary"
	"syscall"
)

// aclName is the attribute that holds an access list.
const aclName = "system.posix_acl_access"

// ACL returns an access list, in the form of the system calls, with an entry for one user.
func ACL(user uint32, mode uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	// Owner, user, group, mask, others; the entries without an id have this one.
	const none = ^uint32(0)
	add(1, uint16(mode>>6&7), none)
	add(2, 6, user)
	add(4, 5, none)
	add(0x10, uint16(mode>>3&7), none)
	add(0x20, uint16(mode&7), none)
	return string(b)
}

// applyModeToACL makes the access list agree with the permission bits, as chmod does: the
// owner, the mask and the others' entries take the bits. The lists of [ACL] always have a
// mask.
func (n *fileNode) applyModeToACL() {
	v, ok := n.xattrs[aclName]
	if !ok {
		return
	}
	b := []byte(v)
	// Each entry has tag, permissions (16 bits each) and id; the first 4 bytes are a version.
	for e := b[4:]; len(e) > 0; e = e[8:] {
		shift := uint32(0)
		switch e[0] {
		case 1:
			shift = 6
		case 0x10:
			shift = 3
		case 0x20:
		default:
			continue
		}
		binary.LittleEndian.PutUint16(e[2:], uint16(n.mode>>shift&7))
	}
	n.xattrs[aclName] = string(b)
}

// setXattr sets an attribute. An access list changes the permission bits too: with a mask,
// the group bits are those of the mask. Symbolic links have no access list, and only files
// and directories have user attributes.
func (n *fileNode) setXattr(o *Op) error {
	switch {
	case o.Name == aclName && n.isSymlink():
		return syscall.ENOTSUP
	case o.Name[:5] == "user." && !n.isDirectory() && !n.isRegular():
		return syscall.EPERM
	}
	n.xattrs[o.Name] = o.Value
	if o.Name == aclName {
		for e := []byte(o.Value)[4:]; len(e) > 0; e = e[8:] {
			perm := uint32(e[2])
			switch e[0] {
			case 1:
				n.mode = n.mode&^0o700 | perm<<6
			case 0x10:
				n.mode = n.mode&^0o070 | perm<<3
			case 0x20:
				n.mode = n.mode&^0o007 | perm
			}
		}
	}
	n.noteChange()
	return nil
}
