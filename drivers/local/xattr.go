//go:build unix

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// procPath is a path for system calls that take no directory descriptor: the kernel's link to
// the directory, then the name, which an l-call does not follow.
func (p resolved) procPath() string { return fmt.Sprintf("/proc/self/fd/%d/%s", p.parentFD(), p.name) }

// errNoXattrs returns ErrUnsupported where there are no attributes, else nil.
func errNoXattrs() error {
	if hasXattrs {
		return nil
	}
	return driver.Errorf(driver.ErrUnsupported, "extended attributes are available on Linux")
}

// Getxattr implements driver.FS.
func (f *volumeFS) Getxattr(ctx context.Context, name, attr string) (value []byte, err error) {
	err = f.readResolved(ctx, name, func(p resolved) error { value, err = linkXattrs(p).readValue(attr); return err })
	return value, err
}

// Listxattr implements driver.FS.
func (f *volumeFS) Listxattr(ctx context.Context, name string) (names []string, err error) {
	err = f.readResolved(ctx, name, func(p resolved) error { names, err = linkXattrs(p).listNames(); return err })
	return names, err
}

// Setxattr implements driver.FS.
func (f *volumeFS) Setxattr(ctx context.Context, name, attr string, value []byte) error {
	if err := checkXattrNamespace(attr); err != nil {
		return err
	}
	if isACL(attr) && len(value) >= maxLabel {
		return driver.Errorf(driver.ErrUnsupported, "attribute %q: an access list has at most %d bytes here", attr, maxLabel-1)
	}
	return f.changeXattr(ctx, "setxattr", name, attr, xattrCharge(attr, int64(len(value))), func(p resolved) error {
		return unix.Lsetxattr(p.procPath(), attr, value, 0)
	})
}

// Removexattr implements driver.FS.
func (f *volumeFS) Removexattr(ctx context.Context, name, attr string) error {
	return f.changeXattr(ctx, "removexattr", name, attr, 0, func(p resolved) error { return unix.Lremovexattr(p.procPath(), attr) })
}

// changeXattr runs a change of an attribute, whose charge is charge afterwards.
func (f *volumeFS) changeXattr(ctx context.Context, op, name, attr string, charge int64, change func(resolved) error) error {
	if err := errNoXattrs(); err != nil {
		return err
	}
	more := func(p resolved) tally {
		if size, err := unix.Lgetxattr(p.procPath(), attr, nil); err == nil {
			return tally{xattrs: charge - xattrCharge(attr, int64(size))}
		}
		return tally{xattrs: charge}
	}
	return f.changeAttribute(ctx, op, name, more, change)
}

// checkXattrNamespace refuses names outside the namespaces of xattr(7).
func checkXattrNamespace(attr string) error {
	ns, rest, ok := strings.Cut(attr, ".")
	if !ok || rest == "" || !slices.Contains([]string{"user", "trusted", "security", "system"}, ns) {
		return driver.Errorf(driver.ErrUnsupported, "attribute %q: names begin with \"user.\"", attr)
	}
	return nil
}

// xattrs reads the extended attributes of one file. list and get are the system calls.
type xattrs struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
}

// linkXattrs reads the attributes of the named file, without following a link.
func linkXattrs(p resolved) xattrs {
	return xattrs{
		func(buf []byte) (int, error) { return unix.Llistxattr(p.procPath(), buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(p.procPath(), name, buf) },
	}
}

// openXattrs reads the attributes of an open file or directory.
func openXattrs(f *os.File) xattrs {
	return xattrs{
		func(buf []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, buf) },
	}
}

// holdsNoXattrs reports whether an open file has no attribute that a copy would keep. The
// label of SELinux, which all files of a host may have, is the host's own affair.
func holdsNoXattrs(fd int) bool {
	var buf [64]byte
	n, err := unix.Flistxattr(fd, buf[:])
	return hasXattrs && err == nil && (n == 0 || string(buf[:n]) == "security.selinux\x00")
}

// readValue reads the value of one attribute.
func (x xattrs) readValue(name string) ([]byte, error) {
	if err := errNoXattrs(); err != nil {
		return nil, err
	}
	return readGrowing(func(buf []byte) (int, error) { return x.get(name, buf) })
}

// listNames lists the names of the attributes, sorted.
func (x xattrs) listNames() ([]string, error) {
	if err := errNoXattrs(); err != nil {
		return nil, err
	}
	data, err := readGrowing(x.list)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for n := range bytes.SplitSeq(data, []byte{0}) {
		if len(n) > 0 {
			names = append(names, string(n))
		}
	}
	slices.Sort(names)
	return names, nil
}

// readGrowing reads a value whose length the kernel knows, and which may change between two
// calls.
func readGrowing(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || len(buf) > driver.MaxXattrLen {
			return nil, err
		}
		buf = make([]byte, 8*len(buf))
	}
}

// copyXattrs copies the attributes that may be copied. Attributes of the system that this
// process may not set are left out.
func copyXattrs(from xattrs, to resolved) error {
	names, err := from.listNames()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		value, err := from.readValue(n)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err == nil {
			err = unix.Lsetxattr(to.procPath(), n, value, 0)
		}
		if err != nil && (strings.HasPrefix(n, "user.") || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP)) {
			return err
		}
	}
	return nil
}

// chargedXattrBytes is the charge of an inode's attributes: names and values. Labels that the
// system gives to every file are free up to a size.
func chargedXattrBytes(x xattrs) int64 {
	names, err := x.listNames()
	if err != nil {
		return 0 // a file system, or a system, without attributes
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
