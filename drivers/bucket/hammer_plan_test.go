package bucket_test

import (
	"io/fs"
	"slices"

	"github.com/volehq/vole"
)

// plan is what a call must do.
type plan struct {
	err   error // what it must fail with; nil: it succeeds
	grows int64 // by how many bytes the volume grows
	// bytes is how many a call brings with it: a quota that has less room may be told
	// before any other fault.
	bytes int64
	apply func() // makes the change in the model
}

func fault(err error) plan { return plan{err: err} }

// oneOf returns the fault that is told first.
func oneOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *hamModel) writeFile(p string, data []byte, mode fs.FileMode, exclusive bool) plan {
	at, err := m.walk(p, false, true)
	switch {
	case err != nil:
	case exclusive && at.n != nil:
		err = vole.ErrExists
	case at.n.isDir():
		err = vole.ErrIsDir
	}
	if err != nil {
		return plan{err: err, bytes: int64(len(data))}
	}
	if mode == 0 {
		mode = 0o644
		if at.n.isFile() {
			mode = at.n.mode
		}
	}
	return plan{grows: int64(len(data)) - freed(at.n), bytes: int64(len(data)), apply: func() {
		n := m.make(mode)
		n.data = data
		m.put(m.parents(at, 0o755), at.name, n)
	}}
}

// add makes a new inode where nothing is.
func (m *hamModel) add(p string, mode fs.FileMode, target string) plan {
	at, err := m.walk(p, false, false)
	if err == nil && at.n != nil {
		err = vole.ErrExists
	}
	return plan{err: err, apply: func() {
		n := m.make(mode)
		n.target = target
		m.put(at.dir(), at.name, n)
	}}
}

func (m *hamModel) mkdirAll(p string, mode fs.FileMode) plan {
	at, err := m.walk(p, false, true)
	if err == nil && at.n.isLink() {
		at, err = m.there(p, true)
	}
	if err == nil && at.n != nil && !at.n.isDir() {
		err = vole.ErrNotDir
	}
	return plan{err: err, apply: func() {
		if at.n == nil {
			m.put(m.parents(at, mode), at.name, m.make(fs.ModeDir|mode))
		}
	}}
}

func (m *hamModel) remove(p string) plan {
	at, err := m.there(p, false)
	if err == nil && len(at.n.names) > 0 {
		err = vole.ErrNotEmpty
	}
	return plan{err: err, apply: func() {
		m.unlink(at.n)
		delete(at.dir().names, at.name)
	}}
}

func (m *hamModel) removeAll(p string) plan {
	at, err := m.walk(p, false, false)
	if err == vole.ErrNotExist {
		err = nil
	}
	return plan{err: err, apply: func() {
		if at.n != nil {
			m.unlink(at.n)
			delete(at.dir().names, at.name)
		}
	}}
}

func (m *hamModel) rename(from, to string, noReplace bool) plan {
	a, err := m.there(from, false)
	b, err2 := m.walk(to, false, false)
	if err = oneOf(err, err2); err != nil {
		return fault(err)
	}
	switch {
	case a.n.isDir() && slices.Contains(b.dirs, a.n):
		return fault(vole.ErrInvalid)
	case b.n == nil:
	case noReplace:
		return fault(vole.ErrExists)
	case a.n == b.n:
		return plan{apply: func() {}}
	case a.n.isDir() && !b.n.isDir():
		return fault(vole.ErrNotDir)
	case !a.n.isDir() && b.n.isDir():
		return fault(vole.ErrIsDir)
	case len(b.n.names) > 0:
		return fault(vole.ErrNotEmpty)
	}
	return plan{apply: func() {
		m.put(b.dir(), b.name, a.n)
		a.n.nlink--
		delete(a.dir().names, a.name)
	}}
}

func (m *hamModel) copy(from, to string, noReplace bool) plan {
	a, err := m.there(from, false)
	b, err2 := m.walk(to, false, true)
	if err = oneOf(err, err2); err != nil {
		return fault(err)
	}
	switch {
	case a.n.isDir() && b.n != nil:
		return fault(vole.ErrExists)
	case a.n.isDir() && slices.Contains(b.dirs, a.n):
		return fault(vole.ErrInvalid)
	case a.n.isDir() || b.n == nil:
	case noReplace:
		return fault(vole.ErrExists)
	case a.n == b.n || a.n.isLink() && m.leadsTo(from, b.n):
		return plan{apply: func() {}}
	case b.n.isDir():
		return fault(vole.ErrIsDir)
	}
	seen := map[*hamNode]*hamNode{}
	n := a.n.clone(seen)
	size := -freed(b.n)
	for old := range seen {
		size += int64(len(old.data))
	}
	return plan{grows: size, apply: func() {
		for _, c := range seen {
			m.all = append(m.all, c)
		}
		m.put(m.parents(b, 0o755), b.name, n)
	}}
}

func (m *hamModel) leadsTo(link string, n *hamNode) bool {
	at, err := m.there(link, true)
	return err == nil && at.n == n
}

func (m *hamModel) link(target, p string) plan {
	a, err := m.there(target, false)
	b, err2 := m.walk(p, false, false)
	err = oneOf(err, err2)
	if err == nil && b.n != nil {
		err = vole.ErrExists
	}
	if err == nil && a.n.isDir() {
		err = vole.ErrPermission
	}
	return plan{err: err, apply: func() { m.put(b.dir(), b.name, a.n) }}
}

func (m *hamModel) chmod(p string, mode fs.FileMode) plan {
	at, err := m.there(p, true)
	return plan{err: err, apply: func() { at.n.mode = at.n.mode.Type() | mode }}
}

// xattr sets an attribute, or removes it.
func (m *hamModel) xattr(p, k, v string, set bool) plan {
	at, err := m.there(p, false)
	if err == nil && !at.n.isFile() && !at.n.isDir() {
		err = errUnsure
	}
	if err == nil && !set {
		if _, is := at.n.xattrs[k]; !is {
			err = vole.ErrNoXattr
		}
	}
	return plan{err: err, apply: func() {
		if delete(at.n.xattrs, k); set {
			at.n.xattrs[k] = v
		}
	}}
}

// file returns the file that p leads to.
func (m *hamModel) file(p string) (*hamNode, error) {
	at, err := m.there(p, true)
	switch {
	case err != nil:
		return nil, err
	case at.n.isDir():
		return nil, vole.ErrIsDir
	case !at.n.isFile():
		return nil, vole.ErrUnsupported
	}
	return at.n, nil
}

func (m *hamModel) truncate(p string, size int) plan {
	n, err := m.file(p)
	if err != nil {
		return fault(err)
	}
	return m.resize(n, size)
}

// open returns the plan of opening p; got is set by apply.
func (m *hamModel) open(p string, opts vole.OpenOptions, got **hamNode) plan {
	at, err := m.walk(p, !opts.Exclusive, false)
	switch {
	case err != nil:
	case at.n == nil && !opts.Create:
		err = vole.ErrNotExist
	case at.n == nil:
	case opts.Exclusive:
		err = vole.ErrExists
	case at.n.isDir():
		err = vole.ErrIsDir
	case !at.n.isFile():
		err = vole.ErrUnsupported
	}
	return plan{err: err, apply: func() {
		if at.n == nil {
			at.n = m.make(0o644)
			m.put(at.dir(), at.name, at.n)
		}
		if opts.Truncate {
			at.n.data = nil
		}
		at.n.opens++
		*got = at.n
	}}
}

func (m *hamModel) resize(n *hamNode, size int) plan {
	return plan{grows: int64(size - len(n.data)), apply: func() { n.resize(size) }}
}

// resize never writes into bytes that a copy may share.
func (n *hamNode) resize(size int) {
	data := make([]byte, size)
	copy(data, n.data)
	n.data = data
}

func (m *hamModel) writeAt(n *hamNode, data []byte, off int) plan {
	if len(data) == 0 {
		return plan{apply: func() {}}
	}
	end := max(len(n.data), off+len(data))
	return plan{grows: int64(end - len(n.data)), apply: func() {
		n.resize(end)
		copy(n.data[off:], data)
	}}
}

func (m *hamModel) punch(n *hamNode, off, length int) plan {
	return plan{apply: func() {
		if off < len(n.data) {
			n.resize(len(n.data))
			clear(n.data[off:min(off+length, len(n.data))])
		}
	}}
}
