//go:build unix

package local

// The page is the file locks/<id>, mapped by each process that changes the volume. Its words are
// int64 in native byte order, aligned, and changed by atomic operations only. A process that dies
// leaves them as they are: its mark in the catalog says that they may be wrong. The bytes from
// lockNames on do not exist; they are only locked.

import (
	"bytes"
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// The layout of a counter's file.
const (
	pageSize   = 4096
	pageMagic  = 0x32656c6f56 // "Vole2"
	offMagic   = 0            // of the page: int64, native byte order
	offUsed    = 8            // bytes used
	offQuota   = 16           // bytes allowed, 0: no quota
	offRemoved = 24           // 1: the volume is being removed
	offEpoch   = 32           // number of measurements
	offStale   = 40           // 1: used may be wrong
	offEntries = 48           // see tally
	offNames   = 56
	offXattrs  = 64
	offWanted  = 72  // when a process last found a lock taken: Unix time, ns
	offLastUse = 80  // when files were last changed: Unix time, ns; every use makes it larger
	offHolder  = 512 // the holder of all locks: text, NUL-padded
	holderLen  = 256
	stripes    = 64
	lockNames  = pageSize // byte that is locked for changes of names
	lockFiles  = lockNames + 1
	lockAllLen = 1 + stripes
)

// page is the mapped counter file of a volume. Its words are shared with other processes and
// accessed atomically.
type page struct {
	f   *os.File
	mem []byte
}

// openPage opens and maps the page of a volume, and makes it if it is missing.
func (b *Backend) openPage(id string) (*page, error) {
	f, err := beneath.OpenFile(b.locks, id, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() < pageSize {
		// Real bytes, not a hole: a store to a mapped hole kills the process when the disk
		// is full. Bytes that exist are kept: other processes may have them mapped.
		_, err = f.WriteAt(make([]byte, pageSize-st.Size()), st.Size())
	}
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &page{f, mem}, nil
}

// close unmaps and closes the page, which drops its locks.
func (p *page) close() error { return errors.Join(unix.Munmap(p.mem), p.f.Close()) }

// wordPointer returns the address of a word of the page.
func (p *page) wordPointer(off int) *int64 { return (*int64)(unsafe.Pointer(&p.mem[off])) }

// load returns a word of the page.
func (p *page) load(off int) int64 { return atomic.LoadInt64(p.wordPointer(off)) }

// store sets a word of the page.
func (p *page) store(off int, v int64) { atomic.StoreInt64(p.wordPointer(off), v) }

// updateWord atomically replaces a word by next of its value.
func (p *page) updateWord(off int, next func(last int64) int64) {
	for {
		last := p.load(off)
		if atomic.CompareAndSwapInt64(p.wordPointer(off), last, next(last)) {
			return
		}
	}
}

// reserveBytes charges n more bytes. ErrQuota: they exceed the quota, and nothing is charged.
func (p *page) reserveBytes(n int64) error {
	if n <= 0 {
		return nil
	}
	for {
		used, quota := p.load(offUsed), p.load(offQuota)
		if quota != 0 && (used > quota || n > quota-used) {
			return driver.Errorf(driver.ErrQuota, "%d more bytes do not fit: %d of the quota of %s are used", n, used, driver.Size(quota))
		}
		if atomic.CompareAndSwapInt64(p.wordPointer(offUsed), used, used+n) {
			return nil
		}
	}
}

// addBytes corrects the charge by n bytes, regardless of the quota.
func (p *page) addBytes(n int64) { atomic.AddInt64(p.wordPointer(offUsed), n) }

// lockHolder names the holder of all locks of the page, for messages.
func (p *page) lockHolder() string {
	text := make([]byte, holderLen)
	if _, err := p.f.ReadAt(text, offHolder); err != nil {
		return ""
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}

// setLockHolder records the holder of all locks of the page.
func (p *page) setLockHolder(who string) {
	text := make([]byte, holderLen)
	copy(text[:holderLen-1], who)
	_, _ = p.f.WriteAt(text, offHolder) // for messages only
}
