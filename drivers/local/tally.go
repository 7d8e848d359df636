//go:build unix

package local

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// tally is the charge of a volume besides the bytes of its files, or a change of it
// (driver.MetadataBounds bounds it). Attributes are counted apart, so that removing a name does
// not look for them where a volume has none.
type tally struct {
	entries int64
	names   int64 // bytes of names and link targets
	xattrs  int64 // bytes of attributes
}

// plus returns the sum of two charges.
func (t tally) plus(o tally) tally {
	return tally{t.entries + o.entries, t.names + o.names, t.xattrs + o.xattrs}
}

// minus returns the difference of two charges.
func (t tally) minus(o tally) tally {
	return tally{t.entries - o.entries, t.names - o.names, t.xattrs - o.xattrs}
}

// metadata returns the charge as driver bounds it: attributes count as bytes of metadata.
func (t tally) metadata() driver.Metadata {
	return driver.Metadata{Entries: t.entries, Bytes: t.names + t.xattrs}
}

// entryTally is the charge of a name.
func entryTally(name string) tally { return tally{entries: 1, names: int64(len(name))} }

// readTally reads the charge from the page.
func (p *page) readTally() tally {
	return tally{p.load(offEntries), p.load(offNames), p.load(offXattrs)}
}

// setTally writes the charge to the page.
func (p *page) setTally(t tally) {
	p.store(offEntries, t.entries)
	p.store(offNames, t.names)
	p.store(offXattrs, t.xattrs)
}

// addTally corrects the charge, regardless of bounds.
func (p *page) addTally(t tally) {
	atomic.AddInt64(p.wordPointer(offEntries), t.entries)
	atomic.AddInt64(p.wordPointer(offNames), t.names)
	atomic.AddInt64(p.wordPointer(offXattrs), t.xattrs)
}

// admitTally returns ErrQuota if the volume may not hold more in addition.
func (p *page) admitTally(more tally) error {
	return driver.MetadataBounds(driver.Size(p.load(offQuota))).Admit(p.readTally().metadata(), more.metadata())
}

// withCharge charges more, runs the change, and uncharges it if the change fails. Call it within
// withNamesLock, as every increase of the charge: so the check stays valid.
func (p *page) withCharge(more tally, change func() error) error {
	if err := p.admitTally(more); err != nil {
		return err
	}
	p.addTally(more)
	err := change()
	if err != nil {
		p.addTally(tally{}.minus(more))
	}
	return err
}

// inodeTally is the charge of the named inode without its name: the target of a link, and
// attributes if the volume has any. Call it before the name is removed.
func (c *counter) inodeTally(p resolved, st *unix.Stat_t) tally {
	t := symlinkTally(st)
	if c.page.load(offXattrs) > 0 {
		t.xattrs = chargedXattrBytes(linkXattrs(p))
	}
	return t
}

// symlinkTally is the charge of a link target; none for other files.
func symlinkTally(st *unix.Stat_t) tally {
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return tally{}
	}
	return tally{names: st.Size}
}

// freedTally is the charge that removing the name frees: of an inode with other names only that
// of the name.
func (c *counter) freedTally(p resolved, st *unix.Stat_t) tally {
	t := entryTally(p.name)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink <= 1 {
		t = t.plus(c.inodeTally(p, st))
	}
	return t
}

// unchargeDirectory runs the removal of an empty directory, and uncharges it.
func (c *counter) unchargeDirectory(p resolved, st *unix.Stat_t, remove func() error) error {
	lost := c.freedTally(p, st)
	err := remove()
	if err == nil {
		c.page.addTally(tally{}.minus(lost))
	}
	return err
}

// nameOfOpenFile returns the name under which an open file was just made, "" if the system
// cannot say.
func nameOfOpenFile(f *os.File) string {
	to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}
