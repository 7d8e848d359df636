package local

import "golang.org/x/sys/unix"

// inode is a file that this process has open. Once it has lost its last name, its
// bytes stay charged until it is closed: base by the process that took the name away,
// if that had it open, and late by whichever writes to it then.
type inode struct {
	refs  int      // open files
	count *counter // in use once base or late was set
	base  int64    // size when it lost its last name
	late  int64    // what it grew by since then
	epoch int64    // of the counter when base or late was first set, or last measured
}

type inodeKey struct {
	volume string
	ino    uint64
}

// openInode notes that this process has a file open.
func (b *Backend) openInode(k inodeKey) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	w := b.inodes[k]
	if w == nil {
		w = &inode{}
		b.inodes[k] = w
	}
	w.refs++
}

// closeInode undoes openInode, giving back what a file without a name is charged.
func (b *Backend) closeInode(k inodeKey) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	w := b.inodes[k]
	w.refs--
	if w.refs > 0 {
		return
	}
	delete(b.inodes, k)
	if w.count == nil {
		return
	}
	if w.epoch == w.count.page.load(offEpoch) {
		w.count.page.add(-w.base - w.late)
	} else {
		// Another process has measured since, and could not see this file, so some of
		// it is charged no more. Only another measurement can tell.
		w.count.page.store(offStale, 1)
	}
	w.count.release()
}

// isOpen reports whether this process has a file of the volume open.
func (c *counter) isOpen(ino uint64) bool {
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	return c.b.inodes[inodeKey{c.id, ino}] != nil
}

// lostName corrects the charge after a name of a file was taken away, st being what
// the file was before. Call it under the file's lock.
func (c *counter) lostName(st *unix.Stat_t) {
	if st == nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		return
	}
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	w := c.b.inodes[inodeKey{c.id, uint64(st.Ino)}]
	if w == nil {
		c.page.add(-st.Size)
		return
	}
	w.use(c)
	w.base += st.Size
}

// grewNameless notes that an open file without a name has grown by n bytes, which are
// charged. Where another process took the name away, and with it the charge, no more
// can be given back than was charged since.
func (c *counter) grewNameless(ino uint64, n int64) {
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	w := c.b.inodes[inodeKey{c.id, ino}]
	w.use(c)
	w.late += n
	if w.base == 0 && w.late < 0 {
		c.page.add(-w.late)
		w.late = 0
	}
}

// use keeps the counter in use until the file is closed.
func (w *inode) use(c *counter) {
	if w.count == nil {
		c.retain()
		w.count, w.epoch = c, c.page.load(offEpoch)
	}
}

// namelessBytes is what files are charged that this process has open without a name.
func (b *Backend) namelessBytes(volume string) int64 {
	var sum int64
	b.eachNameless(volume, func(w *inode) { sum += w.base + w.late })
	return sum
}

// renewEpoch notes that a measurement has taken the files without a name into account.
func (b *Backend) renewEpoch(volume string, epoch int64) {
	b.eachNameless(volume, func(w *inode) { w.epoch = epoch })
}

func (b *Backend) eachNameless(volume string, fn func(*inode)) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	for k, w := range b.inodes {
		if k.volume == volume && w.count != nil {
			fn(w)
		}
	}
}
