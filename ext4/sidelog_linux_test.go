//go:build linux

package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// window is a part of a device: of one device, so that it is known in which order
// an image and the log beside it are written.
type window struct {
	d        *crashDevice
	off, len int64
}

func (w window) ReadAt(p []byte, off int64) (int, error)  { return w.d.ReadAt(p, w.off+off) }
func (w window) WriteAt(p []byte, off int64) (int, error) { return w.d.WriteAt(p, w.off+off) }
func (w window) Sync() error                              { return w.d.Sync() }

// Truncate empties the window; what counts is its first sector.
func (w window) Truncate(int64) error {
	_, err := w.d.WriteAt(make([]byte, 512), w.off)
	return err
}

const (
	sideImage = 4 << 20
	sideRoom  = 8 << 20
)

func openSide(d *crashDevice, readOnly bool) (*ext4.FS, error) {
	return ext4.Open(window{d, 0, sideImage}, ext4.OpenOptions{Size: sideImage, ReadOnly: readOnly,
		SideLog: func() (ext4.SideLog, error) { return window{d, sideImage, sideRoom}, nil }})
}

// An image that is too small for a log of its own survives crashes with one beside it.
func TestSideLogCrash(t *testing.T) {
	base := newCrashDevice(sideImage+sideRoom, nil)
	if _, err := ext4.Format(window{base, 0, sideImage}, sideImage, ext4.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	d := newCrashDevice(base.size, base.state())
	d.record = true
	fs, err := openSide(d, false)
	if err != nil {
		t.Fatal(err)
	}
	trees, at := []ext4oracle.Tree{treeOf(t, fs)}, []int{0}
	for i := range 60 {
		if err := sideOp(t, fs, i); err != nil {
			t.Fatalf("operation %d: %v", i, err)
		}
		trees, at = append(trees, treeOf(t, fs)), append(at, d.position())
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		end := r.IntN(len(d.events) + 1)
		crashed, synced := newCrashDevice(d.size, base.state()), 0
		for k, e := range d.events[:end] {
			if e.data == nil {
				synced = k + 1
			}
		}
		for k, e := range d.events[:end] {
			if k < synced {
				crashed.write(e.data, e.off)
			} else {
				crashed.torn(r, e)
			}
		}
		testSideState(t, fmt.Sprintf("state %d, at %d", i, end), crashed, trees, at, synced)
		if t.Failed() {
			return
		}
	}
}

// sideOp is one of a row of operations.
func sideOp(t *testing.T, fs *ext4.FS, i int) error {
	name := fmt.Sprintf("d%d/f%d", i%3, i%7)
	switch i % 6 {
	case 3:
		return fs.RemoveAll(t.Context(), fmt.Sprintf("d%d", i%2))
	case 4:
		return fs.MkdirAll(name+"x/y", 0o755)
	case 5:
		err := fs.Symlink(strings.Repeat("t", 20+i), fmt.Sprintf("l%d", i))
		return err
	}
	_, err := fs.WriteFile(t.Context(), name, strings.NewReader(strings.Repeat(fmt.Sprint(i), i*400)), ext4.WriteOptions{})
	return err
}

// testSideState recovers a crashed image, first in memory, and compares it with what
// it held when operations returned; synced is the last event before a sync.
func testSideState(t *testing.T, what string, d *crashDevice, trees []ext4oracle.Tree, at []int, synced int) {
	t.Helper()
	var got [2]ext4oracle.Tree
	for k, readOnly := range []bool{true, false} {
		fs, err := openSide(d, readOnly)
		if err != nil {
			t.Fatalf("%s: open: %v", what, err)
		}
		got[k] = treeOf(t, fs)
		if err := fs.Close(); err != nil {
			t.Fatalf("%s: close: %v", what, err)
		}
	}
	same(t, what+": in memory and on the device", got[0], got[1], ext4oracle.SameImage)
	if err := checkClean(window{d, 0, sideImage}, sideImage); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	for k, tree := range trees {
		last := k+1 == len(trees) || at[k+1] > synced // not surely past it
		if last && len(ext4oracle.Diff(tree, got[1], ext4oracle.SameContent)) == 0 {
			return
		}
	}
	t.Errorf("%s: the tree is none that was there", what)
}
