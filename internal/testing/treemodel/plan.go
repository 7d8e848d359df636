package treemodel

import (
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// Plan is what a call must do.
type Plan struct {
	// Faults are the errors of which the call must return one; none: it succeeds. A nil among
	// them: it may also succeed, without a change. An exact model expects the first.
	Faults []error
	// Growth is by how many bytes the volume grows.
	Growth int64
	// Carried is how many bytes the call brings: a quota with less room may be reported before
	// any other fault.
	Carried int64

	apply func() // makes the change in the model; nil: there is none
}

// Apply makes the change of a call that succeeded.
func (p Plan) Apply() {
	if p.apply != nil {
		p.apply()
	}
}

// Expect returns the errors of which a call must return one, also that of the quota. ok is
// false for a call that must not be made, because its outcome is not known.
func (m *Model) Expect(p Plan) (faults []error, ok bool) {
	unsure := p.Faults
	if m.opts.Exact {
		unsure = unsure[:min(1, len(unsure))]
	}
	if slices.Contains(unsure, ErrUnsure) {
		return nil, false
	}
	if len(p.Faults) == 0 && !m.fitsQuota(p.Growth) {
		return []error{vole.ErrQuota}, true
	}
	return p.Faults, true
}

func failWith(faults ...error) Plan { return Plan{Faults: faults} }

// failOr returns a plan that fails with err, or makes a change if err is nil.
func failOr(err error, apply func()) Plan {
	if err != nil {
		return failWith(err)
	}
	return Plan{apply: apply}
}

func (m *Model) planWriteFile(p string, data []byte, mode fs.FileMode, exclusive bool) Plan {
	plan := Plan{Carried: int64(len(data))}
	at, err := m.resolve(p, false, true)
	switch {
	case err != nil:
		plan.Faults = []error{err}
	case exclusive && at.n.IsDir():
		plan.Faults = []error{vole.ErrExists, vole.ErrIsDir}
	case exclusive && at.n != nil:
		plan.Faults = []error{vole.ErrExists}
	case at.n.IsDir():
		plan.Faults = []error{vole.ErrIsDir}
	case mode == 0 && at.n != nil && !at.n.isRegular() && !m.opts.Exact:
		plan.Faults = []error{ErrUnsure}
	}
	if plan.Faults != nil {
		return plan
	}
	if mode == 0 {
		mode = 0o644
		if at.n.isRegular() {
			mode = at.n.Mode
		}
	}
	plan.Growth = int64(len(data)) - sizeFreed(at.n)
	plan.apply = func() {
		n := m.newInode(mode)
		n.Data = data
		m.bindName(m.makeParents(at, 0o755), at.name, n)
	}
	return plan
}

// planCreate makes an inode at a path that must not exist; target is that of a symbolic link.
func (m *Model) planCreate(p string, mode fs.FileMode, target string) Plan {
	at, err := m.resolve(p, false, false)
	if err == nil && at.n != nil {
		err = vole.ErrExists
	}
	return failOr(err, func() {
		n := m.newInode(mode)
		n.Target = target
		m.bindName(at.parentDir(), at.name, n)
	})
}

func (m *Model) planMkdirAll(p string, mode fs.FileMode) Plan {
	at, err := m.resolve(p, false, true)
	if err == nil && at.n.isSymlink() {
		if !m.opts.Exact {
			return failWith(ErrUnsure)
		}
		at, err = m.resolveExisting(p, true)
	}
	if err == nil && at.n != nil && !at.n.IsDir() {
		err = vole.ErrNotDir
	}
	return failOr(err, func() {
		if at.n == nil {
			m.bindName(m.makeParents(at, mode), at.name, m.newInode(fs.ModeDir|mode))
		}
	})
}

func (m *Model) planRemove(p string) Plan {
	at, err := m.resolveExisting(p, false)
	if err == nil && len(at.n.Names) > 0 {
		err = vole.ErrNotEmpty
	}
	return failOr(err, at.dropName)
}

// dropName removes the name that a path was resolved to, with all beneath it.
func (r resolved) dropName() {
	r.n.unlink()
	delete(r.parentDir().Names, r.name)
}

func (m *Model) planRemoveAll(p string) Plan {
	switch at, err := m.resolveExisting(p, false); err {
	case nil:
		return Plan{apply: at.dropName}
	case vole.ErrNotExist:
		return Plan{}
	case vole.ErrNotDir:
		return failWith(err, nil)
	default:
		return failWith(err)
	}
}

// resolveBoth resolves both ends of a rename or copy. That a directory would go into itself may
// be reported before the rest of the second path is looked at.
func (m *Model) resolveBoth(from, to string, parents bool) (a, b resolved, faults []error) {
	a, err := m.resolveExisting(from, false)
	b, err2 := m.resolve(to, false, parents)
	if err != nil {
		faults = append(faults, err)
	}
	if err2 != nil {
		faults = append(faults, err2)
	}
	if err == nil && err2 != nil && a.n.IsDir() && strings.HasPrefix(to, from+"/") {
		faults = append(faults, vole.ErrInvalid)
	}
	return a, b, faults
}

func (m *Model) planRename(from, to string, noReplace bool) Plan {
	a, b, faults := m.resolveBoth(from, to, false)
	if faults != nil {
		return failWith(faults...)
	}
	if a.n.IsDir() && slices.Contains(b.dirs, a.n) {
		faults = append(faults, vole.ErrInvalid)
	}
	if noReplace && b.n != nil {
		faults = append(faults, vole.ErrExists)
	}
	if a.n == b.n {
		return failWith(faults...)
	}
	faults = append(faults, replaceFaults(a.n, b.n)...)
	if b.n.IsDir() && slices.Contains(a.dirs, b.n) {
		faults = append(faults, vole.ErrNotEmpty) // whatever a is
	}
	if faults != nil {
		return failWith(faults...)
	}
	return Plan{apply: func() {
		m.bindName(b.parentDir(), b.name, a.n)
		a.n.Nlink--
		delete(a.parentDir().Names, a.name)
	}}
}

// replaceFaults is why a may not take the place of b, by rename(2).
func replaceFaults(a, b *Inode) []error {
	switch {
	case b == nil:
		return nil
	case a.IsDir() && !b.IsDir():
		return []error{vole.ErrNotDir}
	case !a.IsDir() && b.IsDir():
		return []error{vole.ErrIsDir}
	case len(b.Names) > 0:
		return []error{vole.ErrNotEmpty}
	}
	return nil
}

func (m *Model) planCopy(from, to string, noReplace bool) Plan {
	a, b, faults := m.resolveBoth(from, to, true)
	if faults != nil {
		return failWith(faults...)
	}
	faults, isSame := m.copyFaults(a, b, from, noReplace)
	if faults != nil || isSame {
		return failWith(faults...)
	}
	copies := map[*Inode]*Inode{}
	n := a.n.cloneTree(copies)
	growth := -sizeFreed(b.n)
	for original := range copies {
		growth += int64(len(original.Data))
	}
	return Plan{Growth: growth, apply: func() {
		for _, c := range copies {
			m.charged = append(m.charged, c)
		}
		m.bindName(m.makeParents(b, 0o755), b.name, n)
	}}
}

// copyFaults is why a cannot be copied to b. isSame: both are one file, and nothing is to be
// done.
func (m *Model) copyFaults(a, b resolved, from string, noReplace bool) (faults []error, isSame bool) {
	into := a.n.IsDir() && (a.n == b.n || slices.Contains(b.dirs, a.n))
	switch {
	case into && b.n != nil:
		return []error{vole.ErrExists, vole.ErrInvalid}, false
	case into:
		return []error{vole.ErrInvalid}, false
	case b.n == nil:
		return nil, false
	case noReplace && a.n == b.n && !m.opts.Exact:
		return []error{ErrUnsure}, false
	case noReplace && b.n.IsDir() && !a.n.IsDir():
		return []error{vole.ErrExists, vole.ErrIsDir}, false
	case noReplace || a.n.IsDir():
		return []error{vole.ErrExists}, false
	case a.n.isSymlink() && m.leadsTo(from, b.n):
		if m.opts.Exact {
			return nil, true
		}
		return []error{ErrUnsure}, false // the same file, or a link onto another one
	case b.n.IsDir():
		return []error{vole.ErrIsDir}, false
	case !m.opts.Exact && (a.n.isSymlink() || b.n.isSymlink()):
		return []error{ErrUnsure}, false // one may lead to the other
	}
	return nil, a.n == b.n
}

func (m *Model) leadsTo(link string, n *Inode) bool {
	target, err := m.Find(link, true)
	return err == nil && target == n
}

// cloneTree copies a tree; names of one file stay names of one file. The copies, by original, are
// charged once they are in the model.
func (n *Inode) cloneTree(copies map[*Inode]*Inode) *Inode {
	if c, again := copies[n]; again {
		return c
	}
	c := &Inode{Mode: n.Mode, Data: n.Data, Target: n.Target, Xattrs: maps.Clone(n.Xattrs)}
	copies[n] = c
	if n.IsDir() {
		c.Names = map[string]*Inode{}
		for name, child := range n.Names {
			c.Names[name] = child.cloneTree(copies)
			c.Names[name].Nlink++
		}
	}
	return c
}

func (m *Model) planLink(target, p string) Plan {
	a, err := m.resolveExisting(target, false)
	b, err2 := m.resolve(p, false, false)
	faults := slices.DeleteFunc([]error{err, err2}, func(err error) bool { return err == nil })
	if b.n != nil {
		faults = append(faults, vole.ErrExists)
	}
	if a.n.IsDir() {
		faults = append(faults, vole.ErrPermission)
	}
	if len(faults) > 0 {
		return failWith(faults...)
	}
	return Plan{apply: func() { m.bindName(b.parentDir(), b.name, a.n) }}
}

func (m *Model) planChmod(p string, mode fs.FileMode) Plan {
	n, err := m.Find(p, true)
	return failOr(err, func() { n.Mode = n.Mode.Type() | mode })
}

// findWithXattrs returns the inode at p, which must be of a kind that has attributes everywhere.
func (m *Model) findWithXattrs(p string) (*Inode, error) {
	n, err := m.Find(p, false)
	if err == nil && !n.isRegular() && !n.IsDir() {
		err = ErrUnsure
	}
	return n, err
}

func (m *Model) planSetXattr(p, name, value string) Plan {
	n, err := m.findWithXattrs(p)
	return failOr(err, func() { n.Xattrs[name] = value })
}

func (m *Model) planRemoveXattr(p, name string) Plan {
	n, err := m.findWithXattrs(p)
	if err == nil {
		if _, ok := n.Xattrs[name]; !ok {
			err = vole.ErrNoXattr
		}
	}
	return failOr(err, func() { delete(n.Xattrs, name) })
}

func (m *Model) planTruncate(p string, size int) Plan {
	n, err := m.findRegular(p)
	if !m.opts.Exact {
		// Whether a link at the end of the path is followed is left open.
		n, err = m.Find(p, false)
		switch {
		case err != nil:
		case n.IsDir():
			err = vole.ErrIsDir
		case !n.isRegular():
			err = ErrUnsure
		}
	}
	if err != nil {
		return failWith(err)
	}
	return n.planResize(size)
}

// planOpen plans the opening of p; the inode is stored in *opened by Apply.
func (m *Model) planOpen(p string, opts vole.OpenOptions, opened **Inode) Plan {
	at, err := m.resolve(p, !opts.Exclusive, false)
	switch {
	case err != nil:
	case at.n == nil && !opts.Create:
		err = vole.ErrNotExist
	case at.n == nil:
	case opts.Exclusive && at.n.IsDir():
		return failWith(vole.ErrExists, vole.ErrIsDir)
	case opts.Exclusive:
		err = vole.ErrExists
	case at.n.IsDir():
		err = vole.ErrIsDir
	case !at.n.isRegular():
		err = vole.ErrUnsupported
	}
	return failOr(err, func() {
		if at.n == nil {
			at.n = m.newInode(0o644)
			m.bindName(at.parentDir(), at.name, at.n)
		}
		if opts.Truncate {
			at.n.Data = nil
		}
		at.n.Opens++
		*opened = at.n
	})
}
