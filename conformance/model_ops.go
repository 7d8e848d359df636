package conformance

import (
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// Each operation of the model returns the errors that the call may end in; none means
// that it succeeds, and then the model has changed. A nil among them means that it
// may succeed without a change.

func fail(errs ...error) []error { return errs }

func (m *model) writeFile(p string, data []byte, mode fs.FileMode, exclusive bool) []error {
	at, err := m.resolve(p, false, true)
	switch {
	case err != nil:
		return fail(err)
	case exclusive && at.n.isDir():
		return fail(vole.ErrExists, vole.ErrIsDir)
	case exclusive && at.n != nil:
		return fail(vole.ErrExists)
	case at.n.isDir():
		return fail(vole.ErrIsDir)
	}
	if mode == 0 {
		mode = 0o644
		if at.n.isFile() {
			mode = at.n.mode
		} else if at.n != nil {
			return fail(errUnsure)
		}
	}
	if err := m.fits(int64(len(data)) - freed(at.n)); err != nil {
		return fail(err)
	}
	n := m.make(mode)
	n.data = slices.Clone(data)
	m.put(m.makeParents(at), at.name, n)
	return nil
}

func (m *model) mkdir(p string, mode fs.FileMode) []error {
	at, err := m.resolve(p, false, false)
	if err == nil && at.n != nil {
		err = vole.ErrExists
	}
	if err != nil {
		return fail(err)
	}
	m.put(at.dir(), at.name, m.make(fs.ModeDir|mode))
	return nil
}

func (m *model) mkdirAll(p string) []error {
	at, err := m.resolve(p, false, true)
	switch {
	case err != nil:
		return fail(err)
	case at.n.isLink():
		return fail(errUnsure)
	case at.n.isDir():
		return nil
	case at.n != nil:
		return fail(vole.ErrNotDir)
	}
	m.put(m.makeParents(at), at.name, m.make(fs.ModeDir|0o755))
	return nil
}

func (m *model) mkfifo(p string) []error {
	at, err := m.resolve(p, false, false)
	if err == nil && at.n != nil {
		err = vole.ErrExists
	}
	if err != nil {
		return fail(err)
	}
	m.put(at.dir(), at.name, m.make(fs.ModeNamedPipe|0o600))
	return nil
}

func (m *model) remove(p string) []error {
	at, err := m.resolve(p, false, false)
	switch {
	case err != nil:
		return fail(err)
	case at.n == nil:
		return fail(vole.ErrNotExist)
	case len(at.n.names) > 0:
		return fail(vole.ErrNotEmpty)
	}
	m.unlink(at.n)
	delete(at.dir().names, at.name)
	return nil
}

func (m *model) removeAll(p string) []error {
	at, err := m.resolve(p, false, false)
	switch {
	case err == vole.ErrNotExist || err == nil && at.n == nil:
		return nil
	case err == vole.ErrNotDir:
		return fail(nil, err)
	case err != nil:
		return fail(err)
	}
	m.unlink(at.n)
	delete(at.dir().names, at.name)
	return nil
}

func (m *model) rename(from, to string, noReplace bool) []error {
	a, err := m.resolve(from, false, false)
	if err == nil && a.n == nil {
		err = vole.ErrNotExist
	}
	b, err2 := m.resolve(to, false, false)
	if errs := bothFaults(a, from, to, err, err2); errs != nil {
		return errs
	}
	var errs []error
	if noReplace && b.n != nil {
		errs = append(errs, vole.ErrExists)
	}
	if a.n == b.n {
		return errs
	}
	if a.n.isDir() && slices.Contains(b.dirs, a.n) {
		errs = append(errs, vole.ErrInvalid)
	}
	if b.n.isDir() && slices.Contains(a.dirs, b.n) {
		errs = append(errs, vole.ErrNotEmpty) // whatever sort of thing it is that lies in there
	}
	if errs = append(errs, replaceErrors(a.n, b.n)...); errs != nil {
		return errs
	}
	m.put(b.dir(), b.name, a.n)
	a.n.nlink--
	delete(a.dir().names, a.name)
	return nil
}

// replaceErrors is why a may not take the place of b, by rename(2).
func replaceErrors(a, b *modelInode) []error {
	switch {
	case b == nil:
		return nil
	case a.isDir() && !b.isDir():
		return fail(vole.ErrNotDir)
	case !a.isDir() && b.isDir():
		return fail(vole.ErrIsDir)
	case len(b.names) > 0:
		return fail(vole.ErrNotEmpty)
	}
	return nil
}

func (m *model) copy(from, to string, noReplace bool) []error {
	a, err := m.resolve(from, false, false)
	if err == nil && a.n == nil {
		err = vole.ErrNotExist
	}
	b, err2 := m.resolve(to, false, true)
	if errs := bothFaults(a, from, to, err, err2); errs != nil {
		return errs
	}
	if errs := m.copyErrors(a, b, to, noReplace); errs != nil {
		return errs
	}
	if a.n == b.n {
		return nil
	}
	seen := map[*modelInode]*modelInode{}
	n := m.clone(a.n, seen)
	size := int64(0)
	for old := range seen {
		size += int64(len(old.data))
	}
	if err := m.fits(size - freed(b.n)); err != nil {
		return fail(err)
	}
	for _, c := range seen {
		m.all = append(m.all, c)
	}
	m.put(m.makeParents(b), b.name, n)
	return nil
}

// bothFaults is what finding either end of a move ended in. That a directory would go
// into itself may be seen before the rest of the way is looked at.
func bothFaults(a resolved, from, to string, err, err2 error) (errs []error) {
	for _, err := range []error{err, err2} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err == nil && err2 != nil && a.n.isDir() && strings.HasPrefix(to, from+"/") {
		errs = append(errs, vole.ErrInvalid)
	}
	return errs
}

func (m *model) copyErrors(a, b resolved, to string, noReplace bool) []error {
	into := a.n.isDir() && (a.n == b.n || slices.Contains(b.dirs, a.n))
	switch {
	case into && b.n != nil:
		return fail(vole.ErrInvalid, vole.ErrExists)
	case into:
		return fail(vole.ErrInvalid)
	case b.n != nil && (noReplace || a.n.isDir()):
		if a.n == b.n {
			return fail(errUnsure)
		}
		if b.n.isDir() && !a.n.isDir() {
			return fail(vole.ErrExists, vole.ErrIsDir)
		}
		return fail(vole.ErrExists)
	case b.n.isDir():
		return fail(vole.ErrIsDir)
	}
	if a.n.isLink() && b.n != nil || b.n.isLink() {
		return fail(errUnsure) // one may lead to the other
	}
	return nil
}

// clone copies a tree, which counts once it is put into all; names of one file stay names of one file.
func (m *model) clone(n *modelInode, seen map[*modelInode]*modelInode) *modelInode {
	if c, again := seen[n]; again {
		return c
	}
	c := &modelInode{mode: n.mode, data: slices.Clone(n.data), target: n.target, xattrs: maps.Clone(n.xattrs)}
	seen[n] = c
	if n.isDir() {
		c.names = map[string]*modelInode{}
		for name, child := range n.names {
			cc := m.clone(child, seen)
			cc.nlink++
			c.names[name] = cc
		}
	}
	return c
}

func (m *model) link(target, p string) []error {
	a, err := m.resolve(target, false, false)
	if err == nil && a.n == nil {
		err = vole.ErrNotExist
	}
	if err == nil && a.n.isDir() {
		err = vole.ErrPermission
	}
	b, err2 := m.resolve(p, false, false)
	if err2 == nil && b.n != nil {
		err2 = vole.ErrExists
	}
	if errs := bothFaults(a, target, p, err, err2); errs != nil {
		return errs
	}
	m.put(b.dir(), b.name, a.n)
	return nil
}

func (m *model) symlink(target, p string) []error {
	at, err := m.resolve(p, false, false)
	if err == nil && at.n != nil {
		err = vole.ErrExists
	}
	if err != nil {
		return fail(err)
	}
	n := m.make(fs.ModeSymlink | 0o777)
	n.target = target
	m.put(at.dir(), at.name, n)
	return nil
}

// lookupInode returns the node at p, by following links or not.
func (m *model) lookupInode(p string, follow bool) (*modelInode, []error) {
	at, err := m.resolve(p, follow, false)
	if err == nil && at.n == nil {
		err = vole.ErrNotExist
	}
	if err != nil {
		return nil, fail(err)
	}
	return at.n, nil
}

func (m *model) chmod(p string, mode fs.FileMode) []error {
	n, errs := m.lookupInode(p, true)
	if errs == nil {
		n.mode = n.mode.Type() | mode
	}
	return errs
}

func (m *model) setxattr(p, k, v string) []error {
	n, errs := m.lookupInode(p, false)
	if errs == nil && !n.isFile() && !n.isDir() {
		errs = fail(errUnsure)
	}
	if errs == nil {
		n.xattrs[k] = v
	}
	return errs
}

func (m *model) removexattr(p, k string) []error {
	n, errs := m.lookupInode(p, false)
	switch {
	case errs != nil:
		return errs
	case !n.isFile() && !n.isDir():
		return fail(errUnsure)
	}
	if _, is := n.xattrs[k]; !is {
		return fail(vole.ErrNoXattr)
	}
	delete(n.xattrs, k)
	return nil
}

func (m *model) truncate(p string, size int) []error {
	n, errs := m.lookupInode(p, false)
	switch {
	case errs != nil:
		return errs
	case n.isDir():
		return fail(vole.ErrIsDir)
	case !n.isFile():
		return fail(errUnsure)
	}
	return m.resize(n, size)
}

// open returns the file that opening p gives.
func (m *model) open(p string, opts vole.OpenOptions) (*modelInode, []error) {
	at, err := m.resolve(p, !opts.Exclusive, false)
	switch {
	case err != nil:
		return nil, fail(err)
	case at.n == nil && !opts.Create:
		return nil, fail(vole.ErrNotExist)
	case at.n == nil:
		at.n = m.make(0o644)
		m.put(at.dir(), at.name, at.n)
	case opts.Exclusive && at.n.isDir():
		return nil, fail(vole.ErrExists, vole.ErrIsDir)
	case opts.Exclusive:
		return nil, fail(vole.ErrExists)
	case at.n.isDir():
		return nil, fail(vole.ErrIsDir)
	case !at.n.isFile():
		return nil, fail(vole.ErrUnsupported)
	}
	if opts.Truncate {
		at.n.data = nil
	}
	at.n.opens++
	return at.n, nil
}

// The operations by handle.

func (m *model) resize(n *modelInode, size int) []error {
	if err := m.fits(int64(size - len(n.data))); err != nil {
		return fail(err)
	}
	if extra := size - len(n.data); extra > 0 {
		n.data = append(n.data, make([]byte, extra)...)
	}
	n.data = n.data[:size:size]
	return nil
}

func (m *model) writeAt(n *modelInode, data []byte, off int) []error {
	if len(data) == 0 {
		return nil
	}
	if errs := m.resize(n, max(len(n.data), off+len(data))); errs != nil {
		return errs
	}
	copy(n.data[off:], data)
	return nil
}

func (m *model) punch(n *modelInode, off, length int) []error {
	if off < len(n.data) {
		clear(n.data[off:min(off+length, len(n.data))])
	}
	return nil
}
