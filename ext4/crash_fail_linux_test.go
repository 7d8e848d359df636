//go:build linux

package ext4_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
	"github.com/volehq/vole/internal/testing/ext4workload"
)

var failRuns = flag.Int("fail.runs", 60, "devices that fail that TestDeviceFails tries")

// A device that fails, once or from then on, makes calls fail, and nothing else: what
// is on it is what some prefix of the calls made.
func TestDeviceFails(t *testing.T) {
	base := newCrashRun(t, 24*mega, false, *crashSeed)
	base.applyRandomOps(120, ext4workload.Options{Bytes: 60_000, Files: 60})
	base.m.CloseAll()
	if err := base.fs.FS.Close(); err != nil {
		t.Fatal(err)
	}
	state := base.dev.currentPages()
	for k := range *failRuns {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			f := &failRun{crashRun: &crashRun{t: t, size: base.size, batch: k%3 == 0, m: ext4workload.NewModel(4096),
				rand: rand.New(rand.NewPCG(*crashSeed, uint64(k)))}}
			f.dev = newCrashDevice(f.size, state)
			f.failAtEvent(k)
		})
	}
}

// failRun does operations on a device that fails.
type failRun struct {
	*crashRun
	failed error
	at     int
}

func (f *failRun) failAtEvent(k int) {
	f.openFS()
	if err := f.adoptDeviceState(); err != nil {
		f.t.Fatal(err)
	}
	number := []error{syscall.EIO, syscall.ENOSPC}[k%2]
	f.at = f.dev.calls + 1 + f.rand.IntN(400)
	f.dev.fails = func(n int) error {
		if n == f.at || n > f.at && k%4 < 2 {
			return number
		}
		return nil
	}
	gen := ext4workload.NewGen(f.rand.Uint64(), f.m, ext4workload.Options{Bytes: 300_000, Files: 60, Crash: true, Checked: true})
	durable := 0
	f.trees = []ext4oracle.Tree{f.m.Tree()}
	for range 150 {
		o := gen.Next()
		before := f.dev.calls
		err := f.fs.Apply(context.Background(), o)
		f.ops = append(f.ops, fmt.Sprintf("%s: %v", o, err))
		if f.dev.calls >= f.at && f.failed == nil {
			f.failed = errors.New("from here on")
			f.ops = append(f.ops, "  the device fails")
			if err == nil && !f.batch && !o.IsFileOp() && o.Kind != ext4workload.Copy {
				f.t.Logf("%s: no error", o)
			}
		}
		if f.failed == nil && ext4workload.Expected(o, err, false) {
			continue
		}
		if want := f.m.Apply(o); f.failed == nil && !sameKind(want, err) {
			f.t.Fatalf("%s: %v, and the model says %v", o, err, want)
		}
		f.trees = append(f.trees, f.m.Tree())
		if err == nil && !f.batch && !o.IsFileOp() && f.dev.calls > before && f.failed == nil {
			durable = len(f.trees) - 1
		}
		if f.failed != nil {
			break
		}
	}
	f.checkAfterFailure(durable)
}

// adoptDeviceState makes the model hold what the device does.
func (f *failRun) adoptDeviceState() error {
	err := f.fs.FS.RemoveAll(context.Background(), "lost+found")
	for p := range readTreeOf(f.t, f.fs.FS) {
		if p != "." && !strings.Contains(p, "/") && p != "lost+found" {
			err = errors.Join(err, f.fs.FS.RemoveAll(context.Background(), p))
		}
	}
	root := f.fs.FS
	return errors.Join(err, root.Chmod(".", 0o755), root.Chown(".", 0, 0), root.Sync(context.Background()))
}

// checkAfterFailure opens what is on the device, whatever the file system that failed thinks.
func (f *failRun) checkAfterFailure(durable int) {
	f.t.Helper()
	next := f.fs.FS.Mkdir("after the failure", 0o755)
	if next == nil {
		// It goes on: then all that it says it has done is there.
		_ = f.fs.FS.Remove("after the failure")
	}
	if err := f.fs.FS.Close(); err == nil && next != nil && f.failed != nil {
		f.t.Logf("close after %v: no error", next)
	}
	for name, fails := range map[string]func(int) error{"closed": nil} {
		d := newCrashDevice(f.size, f.dev.currentPages())
		d.fails = fails
		got, err := f.reopenAfterCrash(d)
		if err != nil {
			f.t.Fatalf("%s: %v; after %s", name, err, strings.Join(f.ops, "\n"))
		}
		for k := durable; k < len(f.trees); k++ {
			if len(ext4oracle.Diff(f.trees[k], got, failDiff)) == 0 {
				return
			}
		}
		f.t.Fatalf("the tree is none of those since %d of %d: %s\nafter %s", durable, len(f.trees)-1,
			strings.Join(ext4oracle.Diff(f.trees[len(f.trees)-2], got, failDiff), "\n"), strings.Join(f.ops, "\n"))
	}
}

var failDiff = func() ext4oracle.DiffOptions { o := ext4oracle.SameContent; o.DirNlink = true; return o }()

// A device that fails while it is opened fails the opening, and nothing is lost.
func TestDeviceFailsAtOpen(t *testing.T) {
	r := newCrashRun(t, 24*mega, true, *crashSeed)
	r.startRecording()
	r.applyRandomOps(90, ext4workload.Options{Bytes: 60_000, Files: 60})
	r.syncFS()
	state := r.dev.currentPages()
	for n := 1; ; n++ {
		d := newCrashDevice(r.size, state)
		d.fails = func(k int) error {
			if k == n {
				return syscall.EIO
			}
			return nil
		}
		fs, err := ext4.Open(d, ext4.OpenOptions{Size: r.size})
		if err == nil {
			err = fs.Close()
		}
		failed := d.calls >= n
		d.fails = nil
		got, rerr := r.reopenAfterCrash(d)
		if rerr != nil {
			t.Fatalf("failure %d: %v, then %v", n, err, rerr)
		}
		if diff := ext4oracle.Diff(r.m.Tree(), got, ext4oracle.SameContent); len(diff) > 0 {
			t.Fatalf("failure %d: %v, then %s", n, err, strings.Join(diff, "\n"))
		}
		if !failed {
			return
		}
		if err == nil {
			t.Errorf("failure %d was not told", n)
		}
	}
}
