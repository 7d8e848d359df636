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

// deviceWindow is a part of a device: of one device, so that it is known in which order
// an image and the log beside it are written.
type deviceWindow struct {
	d        *crashDevice
	off, len int64
}

func (w deviceWindow) ReadAt(p []byte, off int64) (int, error)  { return w.d.ReadAt(p, w.off+off) }
func (w deviceWindow) WriteAt(p []byte, off int64) (int, error) { return w.d.WriteAt(p, w.off+off) }
func (w deviceWindow) Sync() error                              { return w.d.Sync() }

// Truncate empties the window; what counts is its first sector.
func (w deviceWindow) Truncate(int64) error {
	_, err := w.d.WriteAt(make([]byte, 512), w.off)
	return err
}

const (
	sideImage = 4 << 20
	sideRoom  = 8 << 20
)

func openWithSideLog(d *crashDevice, readOnly bool) (*ext4.FS, error) {
	return ext4.Open(deviceWindow{d, 0, sideImage}, ext4.OpenOptions{Size: sideImage, ReadOnly: readOnly,
		SideLog: func() (ext4.SideLog, error) { return deviceWindow{d, sideImage, sideRoom}, nil }})
}

// An image that is too small for a log of its own survives crashes with one beside it.
func TestSideLogCrash(t *testing.T) {
	base := newCrashDevice(sideImage+sideRoom, nil)
	if _, err := ext4.Format(deviceWindow{base, 0, sideImage}, sideImage, ext4.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	d := newCrashDevice(base.size, base.currentPages())
	d.record = true
	fs, err := openWithSideLog(d, false)
	if err != nil {
		t.Fatal(err)
	}
	trees, at := []ext4oracle.Tree{readTreeOf(t, fs)}, []int{0}
	for i := range 60 {
		if err := applySideOp(t, fs, i); err != nil {
			t.Fatalf("operation %d: %v", i, err)
		}
		trees, at = append(trees, readTreeOf(t, fs)), append(at, d.eventCount())
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		end := r.IntN(len(d.events) + 1)
		crashed, synced := newCrashDevice(d.size, base.currentPages()), 0
		for k, e := range d.events[:end] {
			if e.data == nil {
				synced = k + 1
			}
		}
		for k, e := range d.events[:end] {
			if k < synced {
				crashed.applyWrite(e.data, e.off)
			} else {
				crashed.tearEvent(r, e)
			}
		}
		testSideState(t, fmt.Sprintf("state %d, at %d", i, end), crashed, trees, at, synced)
		if t.Failed() {
			return
		}
	}
}

// applySideOp is one of a row of operations.
func applySideOp(t *testing.T, fs *ext4.FS, i int) error {
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
		fs, err := openWithSideLog(d, readOnly)
		if err != nil {
			t.Fatalf("%s: open: %v", what, err)
		}
		got[k] = readTreeOf(t, fs)
		if err := fs.Close(); err != nil {
			t.Fatalf("%s: close: %v", what, err)
		}
	}
	expectSameTree(t, what+": in memory and on the device", got[0], got[1], ext4oracle.SameImage)
	if err := checkWithoutProblems(deviceWindow{d, 0, sideImage}, sideImage); err != nil {
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
