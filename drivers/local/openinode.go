//go:build unix

package local

// A file that is unlinked while it is open keeps its storage until it is closed, and so its
// charge. Other processes cannot see such a file, so each process charges those that it has open
// itself. A measurement by another process misses them. It raises the epoch in the page, and
// the process that closes such a file under another epoch marks the usage as stale.

import "golang.org/x/sys/unix"

// openInode is a file that this process has open, shared by its handles. Once the file has lost
// its last name its bytes stay charged until the last handle is closed: sizeWhenUnlinked by the
// process that unlinked it, if that had it open, and grownSince by each process that writes to
// it. Backend.inodesMu guards all of it.
type openInode struct {
	refs             int      // open files
	counter          *counter // in use once base or late was set
	sizeWhenUnlinked int64    // size when it lost its last name
	grownSince       int64    // what it grew by since then
	epoch            int64    // of the counter when base or late was first set, or last measured
}

// inodeKey identifies a file of the home.
type inodeKey struct {
	volume string
	ino    uint64
}

// acquireInode adds a handle to an inode.
func (b *Backend) acquireInode(k inodeKey) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	w := b.inodes[k]
	if w == nil {
		w = &openInode{}
		b.inodes[k] = w
	}
	w.refs++
}

// releaseInode drops a handle. The last one uncharges a file without a name.
func (b *Backend) releaseInode(k inodeKey) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	w := b.inodes[k]
	w.refs--
	if w.refs > 0 {
		return
	}
	delete(b.inodes, k)
	if w.counter == nil {
		return
	}
	if w.epoch == w.counter.page.load(offEpoch) {
		w.counter.page.addBytes(-w.sizeWhenUnlinked - w.grownSince)
	} else {
		// Another process has measured the volume since. It could not see this file, so
		// part of its charge is gone. Only another measurement can tell how much.
		w.counter.markStale()
	}
	w.counter.release()
}

// isInodeOpen reports whether this process has the file open.
func (c *counter) isInodeOpen(ino uint64) bool {
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	return c.b.inodes[inodeKey{c.id, ino}] != nil
}

// unchargeLostName corrects the charge after a file has lost a name. st is its state before.
// Call it under the file's lock.
func (c *counter) unchargeLostName(st *unix.Stat_t) {
	if st == nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		return
	}
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	w := c.b.inodes[inodeKey{c.id, uint64(st.Ino)}]
	if w == nil {
		c.page.addBytes(-st.Size)
		return
	}
	w.acquireCounter(c)
	w.sizeWhenUnlinked += st.Size
}

// chargeNamelessGrowth records that an open file without a name has grown by n bytes, which are
// charged. If another process unlinked it, and took its charge away, no more can be uncharged
// than was charged since.
func (c *counter) chargeNamelessGrowth(ino uint64, n int64) {
	c.b.inodesMu.Lock()
	defer c.b.inodesMu.Unlock()
	w := c.b.inodes[inodeKey{c.id, ino}]
	w.acquireCounter(c)
	w.grownSince += n
	if w.sizeWhenUnlinked == 0 && w.grownSince < 0 {
		c.page.addBytes(-w.grownSince)
		w.grownSince = 0
	}
}

// acquireCounter keeps the counter in use until the file is closed.
func (w *openInode) acquireCounter(c *counter) {
	if w.counter == nil {
		c.acquire()
		w.counter, w.epoch = c, c.page.load(offEpoch)
	}
}

// namelessBytes is the charge of the files of a volume that this process has open and that have
// no name.
func (b *Backend) namelessBytes(volume string) int64 {
	var sum int64
	b.forEachNameless(volume, func(w *openInode) { sum += w.sizeWhenUnlinked + w.grownSince })
	return sum
}

// renewEpoch records that a measurement has counted the files without a name.
func (b *Backend) renewEpoch(volume string, epoch int64) {
	b.forEachNameless(volume, func(w *openInode) { w.epoch = epoch })
}

// forEachNameless calls fn, under inodesMu, for the files of a volume that are open and without
// a name.
func (b *Backend) forEachNameless(volume string, fn func(*openInode)) {
	b.inodesMu.Lock()
	defer b.inodesMu.Unlock()
	for k, w := range b.inodes {
		if k.volume == volume && w.counter != nil {
			fn(w)
		}
	}
}
