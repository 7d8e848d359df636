//go:build linux

package ext4_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
)

const crashPage = 4096

// pages are the parts of a device that are not zeros. Once shared, none changes.
type pages map[int64]*[crashPage]byte

// crashEvent is a write, or a sync when data is nil.
type crashEvent struct {
	off  int64
	data []byte
}

// crashDevice is a device in memory over another state, which remembers what was done.
type crashDevice struct {
	size int64
	base pages // does not change

	mu     sync.Mutex
	own    pages
	record bool
	events []crashEvent
	fails  func(n int) error // of the n-th write or sync; nil: none
	calls  int
}

func newCrashDevice(size int64, base pages) *crashDevice {
	return &crashDevice{size: size, base: base, own: pages{}}
}

func (d *crashDevice) pageAt(k int64) *[crashPage]byte {
	if p := d.own[k]; p != nil {
		return p
	}
	return d.base[k]
}

func (d *crashDevice) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := int(min(max(d.size-off, 0), int64(len(p))))
	for done := 0; done < n; {
		at := off + int64(done)
		in := int(at % crashPage)
		c := min(crashPage-in, n-done)
		if g := d.pageAt(at / crashPage); g != nil {
			copy(p[done:done+c], g[in:])
		} else {
			clear(p[done : done+c])
		}
		done += c
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// failIfDue counts a call, and says whether it fails.
func (d *crashDevice) failIfDue() error {
	d.calls++
	if d.fails == nil {
		return nil
	}
	return d.fails(d.calls)
}

func (d *crashDevice) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write of %d at %d behind the end at %d", len(p), off, d.size)
	}
	if err := d.failIfDue(); err != nil {
		return 0, err
	}
	if d.record {
		d.events = append(d.events, crashEvent{off, append([]byte{}, p...)})
	}
	d.applyWrite(p, off)
	return len(p), nil
}

func (d *crashDevice) applyWrite(p []byte, off int64) {
	for len(p) > 0 {
		k, in := off/crashPage, off%crashPage
		c := min(crashPage-in, int64(len(p)))
		g := d.own[k]
		if g == nil {
			g = new([crashPage]byte)
			if b := d.base[k]; b != nil {
				*g = *b
			}
			d.own[k] = g
		}
		copy(g[in:], p[:c])
		p, off = p[c:], off+c
	}
}

func (d *crashDevice) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failIfDue(); err != nil {
		return err
	}
	if d.record {
		d.events = append(d.events, crashEvent{})
	}
	return nil
}

// eventCount is how many events there were.
func (d *crashDevice) eventCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.events)
}

// currentPages returns all pages as they are now.
func (d *crashDevice) currentPages() pages {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.own) > 0 || d.base == nil {
		all := make(pages, len(d.base)+len(d.own))
		maps.Copy(all, d.base)
		maps.Copy(all, d.own)
		d.base, d.own = all, pages{}
	}
	return d.base
}

// tearEvent writes a random part of an event, by sectors.
func (d *crashDevice) tearEvent(r *rand.Rand, e crashEvent) {
	const sector = 512
	part := r.IntN(4)
	for at := 0; at < len(e.data); at += sector {
		if part == 0 || part == 1 && r.IntN(2) == 0 || part == 2 && r.IntN(8) > 0 {
			d.applyWrite(e.data[at:min(at+sector, len(e.data))], e.off+int64(at))
		}
	}
}

// saveImage writes a device to a sparse file.
func (d *crashDevice) saveImage(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for k, p := range d.currentPages() {
		if *p != [crashPage]byte{} {
			if _, err := f.WriteAt(p[:], k*crashPage); err != nil {
				return err
			}
		}
	}
	return f.Truncate(d.size)
}
