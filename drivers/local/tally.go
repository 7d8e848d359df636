package local

import (
	"os"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// tally is what a volume is charged for beside the bytes of its files, or what a change
// adds to that (driver.MetadataBounds bounds it). Attributes are counted apart, so that
// removing a name does not look for them where a volume has none.
type tally struct {
	entries int64
	names   int64 // bytes of names and link targets
	xattrs  int64 // bytes of attributes
}

func (t tally) plus(o tally) tally {
	return tally{t.entries + o.entries, t.names + o.names, t.xattrs + o.xattrs}
}

func (t tally) minus(o tally) tally {
	return tally{t.entries - o.entries, t.names - o.names, t.xattrs - o.xattrs}
}

func (t tally) metadata() driver.Metadata {
	return driver.Metadata{Entries: t.entries, Bytes: t.names + t.xattrs}
}

// entryTally is what a name is charged.
func entryTally(name string) tally { return tally{entries: 1, names: int64(len(name))} }

// tally reads the charge.
func (p *page) tally() tally {
	return tally{p.load(offEntries), p.load(offNames), p.load(offXattrs)}
}

func (p *page) setTally(t tally) {
	p.store(offEntries, t.entries)
	p.store(offNames, t.names)
	p.store(offXattrs, t.xattrs)
}

// addTally corrects the charge, without regard to bounds.
func (p *page) addTally(t tally) {
	atomic.AddInt64(p.word(offEntries), t.entries)
	atomic.AddInt64(p.word(offNames), t.names)
	atomic.AddInt64(p.word(offXattrs), t.xattrs)
}

// wouldHold returns ErrQuota if the volume may not hold that much more.
func (p *page) wouldHold(more tally) error {
	return driver.MetadataBounds(driver.Size(p.load(offQuota))).Admit(p.tally().metadata(), more.metadata())
}

// charging runs a change that adds to the charge. Call it within changeNames, which every
// change of the charge upwards is made under: so what is looked at stays.
func (p *page) charging(more tally, change func() error) error {
	if err := p.wouldHold(more); err != nil {
		return err
	}
	p.addTally(more)
	err := change()
	if err != nil {
		p.addTally(tally{}.minus(more))
	}
	return err
}

// inodeTally is what the inode at a place is charged that is not its name: the target of
// a link, and attributes where the volume has any. Take it before the name is gone.
func (c *counter) inodeTally(p place, st *unix.Stat_t) tally {
	t := linkTally(st)
	if c.page.load(offXattrs) > 0 {
		t.xattrs = xattrBytes(linkXattrs(p))
	}
	return t
}

func linkTally(st *unix.Stat_t) tally {
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return tally{}
	}
	return tally{names: st.Size}
}

// lostTally is what is given back when a name at a place goes: of an inode with other
// names only the name.
func (c *counter) lostTally(p place, name string, st *unix.Stat_t) tally {
	t := entryTally(name)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink <= 1 {
		t = t.plus(c.inodeTally(p, st))
	}
	return t
}

// losingDirectory runs the removal of an empty directory.
func (c *counter) losingDirectory(p place, st *unix.Stat_t, remove func() error) error {
	lost := c.lostTally(p, p.base, st)
	err := remove()
	if err == nil {
		c.page.addTally(tally{}.minus(lost))
	}
	return err
}

// baseOf is the name under which an open file was just made, "" if the system cannot say.
func baseOf(f *os.File) string { return baseOfDescriptor(int(f.Fd())) }
