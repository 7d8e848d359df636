package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// nameOfDescriptor asks the kernel for the name of an open file.
func nameOfDescriptor(fd int) string {
	to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// chargedXattrBytes is the charge of an inode's attributes: names and values. Labels that the
// system gives to every file are free up to a size.
func chargedXattrBytes(x xattrs) int64 {
	names, err := x.listNames()
	if err != nil {
		return 0 // a file system without attributes
	}
	var sum int64
	for _, n := range names {
		size, err := x.get(n, nil)
		if err == nil {
			sum += xattrCharge(n, int64(size))
		}
	}
	return sum
}

// isACL reports whether the attribute is an access list, which files inherit from their
// directory.
func isACL(name string) bool { return strings.HasPrefix(name, "system.posix_acl_") }

// maxLabel is the size of a security label below which it is taken for the system's own.
const maxLabel = 256

// xattrCharge is the charge of one attribute with a value of that size.
func xattrCharge(name string, size int64) int64 {
	switch name {
	case "security.selinux", "security.SMACK64", "security.apparmor", "security.ima", "security.evm":
		if size < maxLabel {
			return 0
		}
	}
	if isACL(name) {
		return 0 // a directory gives it to what is made in it; Setxattr bounds it
	}
	return int64(len(name)) + size
}
