package transfer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// GNU tar, star and bsdtar write access lists as text, one entry after the other as acl(5)
// has them, in these records of PAX.
var aclRecords = map[string]string{"SCHILY.acl.access": accessACL, "SCHILY.acl.default": defaultACL}

// The attribute that holds a list begins with a version, followed by its entries: tag, rights
// and id, as linux/posix_acl_xattr.h has them.
const aclVersion = 2

const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = 1<<32 - 1

	maxACL = 4096 // entries
)

// aclEntry is one entry of an access list; perm is a mask of 4 (read), 2 and 1 (execute).
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// nameLookup finds the id of a user, or of a group, by its name.
type nameLookup func(group bool, name string) (id string, err error)

// lookupHostName are the users and groups of this host, which GNU tar takes, too, for the names
// that it has written.
func lookupHostName(group bool, name string) (string, error) {
	if group {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

// parseACL makes the value of an attribute of a list as text.
func parseACL(text string, lookup nameLookup) ([]byte, error) {
	var list []aclEntry
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		e, err := parseACLEntry(word, lookup)
		if err != nil {
			return nil, driver.Errorf(vole.ErrInvalid, "entry %q of an access list: %v", word, err)
		}
		if list = append(list, e); len(list) > maxACL {
			return nil, driver.Errorf(vole.ErrInvalid, "an access list of more than %d entries", maxACL)
		}
	}
	slices.SortStableFunc(list, func(a, b aclEntry) int { // as Linux wants them
		return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id))
	})
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range list {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b, nil
}

// parseACLEntry reads "user:1000:rw-", or star's "user:name:rw-:1000".
func parseACLEntry(word string, lookup nameLookup) (entry aclEntry, err error) {
	fields := strings.Split(strings.TrimSpace(word), ":")
	if len(fields) == 2 && (strings.HasPrefix(fields[0], "m") || strings.HasPrefix(fields[0], "o")) {
		fields = []string{fields[0], "", fields[1]} // mask and other have no name
	}
	if len(fields) < 3 || len(fields) > 4 {
		return entry, fmt.Errorf("it does not have the form TAG:NAME:RIGHTS")
	}
	tags := map[string][2]uint16{"user": {aclUserObj, aclUser}, "group": {aclGroupObj, aclGroup}, "mask": {aclMask}, "other": {aclOther}}
	tag, ok := tags[fields[0]]
	for name, t := range tags {
		if !ok && fields[0] == name[:1] {
			tag, ok = t, true
		}
	}
	named := fields[1] != ""
	if !ok || named && tag[1] == 0 {
		return entry, fmt.Errorf("unknown tag")
	}
	entry.tag, entry.id = tag[0], aclNoID
	if named {
		entry.tag = tag[1]
		if entry.id, err = parseACLID(fields, tag[1] == aclGroup, lookup); err != nil {
			return entry, err
		}
	}
	for i, c := range fields[2] {
		bit, known := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, 'X': 1}[c]
		if !known && c != '-' || i > 2 {
			return entry, fmt.Errorf("unknown rights")
		}
		entry.perm |= bit
	}
	return entry, nil
}

// parseACLID is the id of a named entry: its last field, or its name.
func parseACLID(fields []string, group bool, lookup nameLookup) (uint32, error) {
	id := fields[1]
	if len(fields) == 4 {
		id = fields[3]
	} else if strings.Trim(id, "0123456789") != "" {
		var err error
		if id, err = lookup(group, id); err != nil {
			return 0, fmt.Errorf("its name is not known here")
		}
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil || n > maxID {
		return 0, fmt.Errorf("its id is not a number from 0 to %d", int64(maxID))
	}
	return uint32(n), nil
}

// formatACL is the opposite of parseACL; "" for a value that is no access list.
func formatACL(b []byte) string {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != aclVersion || len(b)%8 != 4 {
		return ""
	}
	var words []string
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), ""
		if tag == aclUser || tag == aclGroup {
			id = strconv.FormatUint(uint64(binary.LittleEndian.Uint32(b[4:])), 10)
		}
		name := map[uint16]string{aclUserObj: "user", aclUser: "user", aclGroupObj: "group", aclGroup: "group", aclMask: "mask", aclOther: "other"}[tag]
		if name == "" {
			return ""
		}
		rights := []byte("---")
		for i, c := range []byte("rwx") {
			if perm&(4>>i) != 0 {
				rights[i] = c
			}
		}
		words = append(words, name+":"+id+":"+string(rights))
	}
	return strings.Join(words, ",")
}
