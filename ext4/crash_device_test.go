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

func (d *crashDevice) page(k int64) *[crashPage]byte {
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
		if g := d.page(at / crashPage); g != nil {
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

// fail counts a call, and says whether it fails.
func (d *crashDevice) fail() error {
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
	if err := d.fail(); err != nil {
		return 0, err
	}
	if d.record {
		d.events = append(d.events, crashEvent{off, append([]byte{}, p...)})
	}
	d.write(p, off)
	return len(p), nil
}

func (d *crashDevice) write(p []byte, off int64) {
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
	if err := d.fail(); err != nil {
		return err
	}
	if d.record {
		d.events = append(d.events, crashEvent{})
	}
	return nil
}

// position is how many events there were.
func (d *crashDevice) position() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.events)
}

// state returns all pages as they are now.
func (d *crashDevice) state() pages {
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

// torn writes a random part of an event, by sectors.
func (d *crashDevice) torn(r *rand.Rand, e crashEvent) {
	const sector = 512
	part := r.IntN(4)
	for at := 0; at < len(e.data); at += sector {
		if part == 0 || part == 1 && r.IntN(2) == 0 || part == 2 && r.IntN(8) > 0 {
			d.write(e.data[at:min(at+sector, len(e.data))], e.off+int64(at))
		}
	}
}

// save writes a device to a sparse file.
func (d *crashDevice) save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for k, p := range d.state() {
		if *p != [crashPage]byte{} {
			if _, err := f.WriteAt(p[:], k*crashPage); err != nil {
				return err
			}
		}
	}
	return f.Truncate(d.size)
}
