package ext4

import (
	"errors"
	"runtime"
	"testing"
)

// cornerMemory is how much memory one image of 8 MiB may have allocated while it is
// opened, described and checked.
const cornerMemory = 64 << 20

// Every number of the superblock, of a group and of an inode has its largest values
// once, with a checksum that is right. Opening, describing and checking such an
// image ends with an error or a finding, allocates little and does not panic.
func TestCornerValues(t *testing.T) {
	base, err := fuzzBase()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range findTargets(t, base) {
		if p.seal == nil || p.n > superSize || seen[p.what] {
			continue
		}
		seen[p.what] = true
		for at := 0; at+4 <= min(p.n, 512); at += 4 {
			for _, value := range []uint32{1<<31 - 1, 1 << 31, 1<<32 - 1} {
				dev := newMemDevice(base, base.size)
				b := make([]byte, p.n)
				if err := readFull(dev, b, p.at); err != nil {
					t.Fatal(err)
				}
				le.PutUint32(b[at:], value)
				p.seal(b)
				if _, err := dev.WriteAt(b, p.at); err != nil {
					t.Fatal(err)
				}
				useCornerImage(t, dev, p.what, at, value)
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("only %v were tried", seen)
	}
}

func useCornerImage(t *testing.T, dev *memDevice, what string, at int, value uint32) {
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%s, %#x at %d: panic: %v", what, value, at, r)
		}
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = Describe(dev, dev.size)
	if fs, err := Open(dev, OpenOptions{Size: dev.size, ReadOnly: true}); err == nil {
		_, err := fs.Lstat("one")
		_ = errors.Join(err, fs.Close())
		_ = fs.Usage()
	}
	checkQuietly(dev)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > cornerMemory {
		t.Errorf("%s, %#x at %d: %d MiB allocated", what, value, at, n>>20)
	}
}
