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

func isSystemAttribute(name string) bool {
	return name == capabilityAttr || name == accessACL || name == defaultACL
}

// isCopiedAttribute reports whether a source reads an attribute.
func isCopiedAttribute(name string) bool {
	return strings.HasPrefix(name, "user.") || isSystemAttribute(name)
}

// setAttribute gives an item an attribute that is copied.
func (it *item) setAttribute(name string, value []byte) {
	m := &it.xattrs
	if isSystemAttribute(name) {
		m = &it.system
	}
	if *m == nil {
		*m = map[string][]byte{}
	}
	(*m)[name] = value
}
