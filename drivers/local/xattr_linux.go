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
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		if err := f.refuseDevice(p); err != nil {
			return err
		}
		err := c.withNamesLock(ctx, func() error {
			more := tally{xattrs: charge}
			if size, err := unix.Lgetxattr(p.procPath(), attr, nil); err == nil {
				more.xattrs -= xattrCharge(attr, int64(size))
			}
			return c.page.withCharge(more, func() error { return f.b.host.mutate(op, p.name, func() error { return change(p) }) })
		})
		if err != nil {
			return err
		}
		return f.syncResolved(p)
	})
}

// checkXattrNamespace refuses names outside the namespaces of xattr(7).
func checkXattrNamespace(attr string) error {
	ns, rest, ok := strings.Cut(attr, ".")
	if !ok || rest == "" || !slices.Contains([]string{"user", "trusted", "security", "system"}, ns) {
		return driver.Errorf(driver.ErrUnsupported, "attribute %q: names begin with \"user.\"", attr)
	}
	return nil
}

// readResolved runs an operation that reads the named file.
func (f *volumeFS) readResolved(ctx context.Context, name string, read func(resolved) error) error {
	if err := f.life.Enter(ctx); err != nil {
		return err
	}
	defer f.life.Leave()
	p, err := f.resolve(name)
	if err != nil {
		return f.explainError(err)
	}
	defer p.release()
	return f.explainError(read(p))
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
	return err == nil && (n == 0 || string(buf[:n]) == "security.selinux\x00")
}

// readValue reads the value of one attribute.
func (x xattrs) readValue(name string) ([]byte, error) {
	return readGrowing(func(buf []byte) (int, error) { return x.get(name, buf) })
}

// listNames lists the names of the attributes, sorted.
func (x xattrs) listNames() ([]string, error) {
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
	if errors.Is(err, unix.ENOTSUP) {
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
