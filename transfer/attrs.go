package transfer

import (
	"strings"
)

// Extended attributes of the system that a disk volume keeps for the Linux that mounts it.
// On files of the host they would give rights there, so they are never set on them.
const (
	capabilityAttr = "security.capability"
	accessACL      = "system.posix_acl_access"
	defaultACL     = "system.posix_acl_default"
)

func isSystemAttr(name string) bool {
	return name == capabilityAttr || name == accessACL || name == defaultACL
}

// isCopiedAttr reports whether a source reads an attribute.
func isCopiedAttr(name string) bool { return strings.HasPrefix(name, "user.") || isSystemAttr(name) }

// setAttr gives an item an attribute that is copied.
func (it *item) setAttr(name string, value []byte) {
	m := &it.xattrs
	if isSystemAttr(name) {
		m = &it.system
	}
	if *m == nil {
		*m = map[string][]byte{}
	}
	(*m)[name] = value
}
