package ext4

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/internal/testing/ext4oracle"
	"golang.org/x/sys/unix"
)

// How many damaged images the tests go through, and from which seed on. For torture:
// go test -run Mutat -timeout 2h ./ext4 -ext4.mutations 10000
var (
	mutations    = flag.Int("ext4.mutations", 0, "damaged images to compare with e2fsck; 0: a hundred")
	mutationSeed = flag.Uint64("ext4.seed", 1, "first seed of the damage")
)

// mutated are the formats that are damaged.
var mutated = []string{
	"small", "nochecksums", "1k", "blockmap-1k", "inline_data-1k", "ea_inode", "bigalloc", "orphan_file", "uninit_bg", "inode128", "ext3-1k-inode128",
}

// recipeNamed returns a small image of a format.
func recipeNamed(t *testing.T, name string) ext4oracle.Recipe {
	t.Helper()
	for _, r := range ext4oracle.Matrix {
		if r.Name == name {
			r.Scale = ext4oracle.Small
			r.Size = min(r.Size, 64<<20)
			return r
		}
	}
	t.Fatalf("no recipe %s", name)
	return ext4oracle.Recipe{}
}

// What is damaged is found, as e2fsck does, and nothing else.
func TestMutatedAgreement(t *testing.T) {
	ext4oracle.RequireRoot(t)
	n := *mutations
	if n == 0 {
		n = 90
	}
	for k, name := range mutated {
		t.Run(name, func(t *testing.T) {
			image, _ := ext4oracle.Build(t, recipeNamed(t, name))
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			m := newMutator(*mutationSeed+uint64(k)<<32, findTargets(t, f))
			for range n / len(mutated) {
				d, err := m.nextMutation(f)
				if err == nil {
					err = d.writeMutation(f, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				compareVerdicts(t, image, f, d)
				if err := d.writeMutation(f, false); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Reading and writing damaged images ends soon, in little memory, and without a panic.
func TestMutatedUse(t *testing.T) {
	ext4oracle.RequireRoot(t)
	n := *mutations
	if n == 0 {
		n = 90
	}
	for k, name := range mutated {
		t.Run(name, func(t *testing.T) {
			image, _ := ext4oracle.Build(t, recipeNamed(t, name))
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			m := newMutator(*mutationSeed+uint64(k)<<32+1<<31, findTargets(t, f))
			for range n / len(mutated) {
				d, err := m.nextMutation(f)
				dev := newMemDevice(f, deviceSize(f))
				if err == nil {
					err = d.writeMutation(dev, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				useWithinLimits(t, d.String(), dev)
			}
		})
	}
}

// processorTime is how long f keeps a processor busy, which does not depend on what else
// the machine has to do. It sees only the goroutine that calls it.
func processorTime(t testing.TB, f func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	busy := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := busy()
	f()
	return busy() - before
}

// mostMemory is how much each use of a damaged image may allocate, in all.
const mostMemory = 256 << 20

// useWithinLimits reads, checks and writes an image, and fails the test when that takes too
// much. Errors are fine.
func useWithinLimits(t testing.TB, what string, dev *memDevice) {
	t.Helper()
	for _, step := range []struct {
		name string
		f    func(*memDevice)
	}{{"reading", readQuietly}, {"checking", checkQuietly}, {"writing", writeQuietly}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		took := processorTime(t, func() { step.f(dev) })
		runtime.ReadMemStats(&after)
		if took > mostTime {
			t.Errorf("%s: %s took %v", what, step.name, took)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > mostMemory {
			t.Errorf("%s: %s took %d bytes of memory", what, step.name, n)
		}
	}
}

// mayBeOverlooked reports whether a problem is one of which e2fsck -fn says nothing, though
// the kernel does.
func mayBeOverlooked(p Problem, d *mutation) bool {
	switch p.Code {
	case ProblemErrors, ProblemOrphans, ProblemJournal, ProblemResize:
		return true
	case ProblemInodeSize:
		// Of the blocks of a directory it counts only 32 bits.
		return strings.HasSuffix(p.Detail, "a directory is as long as its blocks")
	case ProblemXattr, ProblemInode:
		// It looks only at inodes that have names, and at no entry for which there is no room.
		return p.Inode < firstInode || strings.HasPrefix(p.Detail, "the entry at")
	case ProblemBitmapSum, ProblemBlockFree:
		// With blocks of 1 KiB e2fsck 1.47.0 does not see when the first bit of a byte
		// is missing amid others.
		return d.target.what == "block bitmap" && !d.sealed && d.target.n == 1024
	}
	return false
}

// compareVerdicts has e2fsck and Check look at a damaged image.
func compareVerdicts(t *testing.T, image string, f *os.File, d *mutation) {
	t.Helper()
	var list, silent []string
	var err error
	took := processorTime(t, func() {
		err = Check(context.Background(), f, CheckOptions{}, func(p Problem) error {
			if mayBeOverlooked(p, d) {
				silent = append(silent, p.String())
			} else if list = append(list, p.String()); len(list) > 20 {
				return io.EOF
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, io.EOF) {
		list = append(list, err.Error())
	}
	if took > mostTime {
		t.Errorf("%v: took %v", d, took)
	}
	clean, output := ext4oracle.FsckStatus(image)
	switch {
	case clean && len(list) > 0 && len(silent) == 0: // else it may follow from what it overlooks
		t.Errorf("%v: e2fsck finds nothing, and we\n%s\n%s", d, strings.Join(list, "\n"), output)
	case !clean && len(list) == 0 && len(silent) == 0:
		t.Errorf("%v: we find nothing, and e2fsck\n%s", d, output)
	}
}
