//go:build unix

package ext4

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var formatHuge = flag.Bool("format.huge", false, "judge the largest images, too, which takes e2fsck minutes")

func TestFormatSizes(t *testing.T) {
	for _, size := range []int64{
		4 * fmtMiB, 4*fmtMiB + 4096, 5 * fmtMiB, 8*fmtMiB - 4096, 8 * fmtMiB, 16 * fmtMiB, 64 * fmtMiB, 67 * fmtMiB,
		127 * fmtMiB, 128*fmtMiB - 4096, 128 * fmtMiB, 128*fmtMiB + 1, 128*fmtMiB + 5*4096, 129 * fmtMiB, 131 * fmtMiB,
		2*fmtGroup + 4096, 2*fmtGroup + 513*4096, 2*fmtGroup + 514*4096, 3*fmtGroup + 4*4096, 3*fmtGroup + 5*4096,
		fmtGiB, 1025 * fmtMiB, 16*fmtGroup - 4096, 16*fmtGroup + 4096, 49*fmtGroup + 16*4096, 49*fmtGroup + 600*4096,
		16 * fmtGiB, 20 * fmtGiB, 64*fmtGroup + 1, 65 * fmtGroup, 1 * fmtTiB,
	} {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			t.Parallel()
			if size >= fmtTiB && testing.Short() {
				t.Skip("e2fsck needs a second")
			}
			judgeFormat(t, formatImage(t, size, FormatOptions{}), size)
		})
	}
}

// The largest images, and the steps of their rates of inodes and of the journal. Few
// file systems have so large files: those that have not are skipped.
func TestFormatHuge(t *testing.T) {
	sizes := []int64{4 * fmtTiB}
	if *formatHuge {
		sizes = append(sizes, 16*fmtTiB-4096, 16*fmtTiB, 17*fmtTiB+3*fmtGroup+4096, 64*fmtTiB)
		t.Run("repair", func(t *testing.T) { testRepairFromBackup(t, fmtTiB) })
	}
	for _, size := range sizes {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			runFsck(t, formatImage(t, size, FormatOptions{}))
		})
	}
}

// The largest image needs no large file to be judged: each block of descriptors has two
// copies, and 26 groups one of the superblock, in single writes; the primary superblock
// comes last, before the only Sync.
func TestFormatLargestWrites(t *testing.T) {
	w := &writeTally{at: map[int64]int{}, blocks: map[int64]uint32{}, supers: map[int64][]byte{}}
	if _, err := Format(w, MaxSize, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	groups := MaxSize / fmtGroup
	if w.syncs != 1 || w.last != 0 || len(w.at) > int(groups)/(defaultBlock/descSize)*3+32 {
		t.Errorf("%d writes, the last at %d, %d syncs", len(w.at), w.last, w.syncs)
	}
	for first := int64(0); first < groups; first += (defaultBlock / descSize) {
		var sums []uint32
		for _, g := range []int64{first, first + 1, first + (defaultBlock / descSize) - 1} {
			off := g * fmtGroup
			if g == 0 || isSparseSuperGroup(uint32(g)) {
				off += defaultBlock // behind the superblock
			}
			sum, ok := w.blocks[off]
			if sums = append(sums, sum); !ok || sum != sums[0] {
				t.Fatalf("the descriptors at group %d are not those of group %d", g, first)
			}
		}
	}
	if len(w.supers) != 26 {
		t.Fatalf("%d copies of the superblock, want 26", len(w.supers))
	}
	for off, sb := range w.supers {
		g := uint32(off / fmtGroup)
		if !isSparseSuperGroup(g) || le.Uint32(sb[sbChecksum:]) != superblockChecksum(sb) || le.Uint16(sb[sbGroupNumber:]) != uint16(g) {
			t.Errorf("the superblock of group %d says it is of %d", g, le.Uint16(sb[sbGroupNumber:]))
		}
	}
}

// What is written to small images lies in few places, since a sparse file has to map each.
func TestFormatFewWrites(t *testing.T) {
	for size, most := range map[int64]int{fmtGiB: 5, 20 * fmtGiB: 12} {
		w := &writeTally{at: map[int64]int{}}
		if _, err := Format(w, size, FormatOptions{}); err != nil || len(w.at) > most {
			t.Errorf("%d writes for %d bytes, want %d: %v", len(w.at), size, most, err)
		}
	}
}

// TestFormatRandom has e2fsck judge random sizes and options.
func TestFormatRandom(t *testing.T) {
	n := 300
	if testing.Short() {
		n = 25
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		size := randomSizeStep(r)
		var opts FormatOptions
		if r.IntN(4) == 0 {
			opts.BytesPerInode = []int64{1024, 1025, 5000, 65536, 1 << 20, 1 << 26}[r.IntN(6)]
		}
		if size > 256*fmtMiB && r.IntN(4) == 0 {
			opts.Journal = []int64{-1, 4 * fmtMiB, 100*fmtMiB + 77, 128 * fmtMiB}[r.IntN(4)]
		}
		t.Run(fmt.Sprintf("%d,%d,%d", size, opts.BytesPerInode, opts.Journal), func(t *testing.T) {
			t.Parallel()
			runFsck(t, formatImage(t, size, opts))
		})
	}
}

func TestFormatSameBytes(t *testing.T) {
	opts := FormatOptions{
		UUID: [16]byte{1, 2, 3}, HashSeed: [16]byte{4}, Time: time.Unix(1700000000, 5), Label: "same", UID: 7,
	}
	for _, size := range []int64{5 * fmtMiB, 700 * fmtMiB, 20 * fmtGiB} {
		var sums [2]string
		for i := range sums {
			w := &writeTally{at: map[int64]int{}, all: sha256.New()}
			if _, err := Format(w, size, opts); err != nil {
				t.Fatal(err)
			}
			sums[i] = fmt.Sprintf("%x", w.all.Sum(nil))
		}
		if sums[0] != sums[1] {
			t.Errorf("two images of %d bytes differ", size)
		}
	}
	a, b := dumpe2fsFields(t, formatImage(t, 4*fmtMiB, FormatOptions{})), dumpe2fsFields(t, formatImage(t, 4*fmtMiB, FormatOptions{}))
	for _, key := range []string{"Filesystem UUID", "Directory Hash Seed"} {
		if a[key] == b[key] || len(a[key]) != 36 {
			t.Errorf("%s: %q and then %q", key, a[key], b[key])
		}
	}
	if u := a["Filesystem UUID"]; u[14] != '4' || !strings.Contains("89ab", u[19:20]) {
		t.Errorf("the UUID %s is no random one", u)
	}
}

func TestFormatOptions(t *testing.T) {
	image := formatImage(t, 300*fmtMiB, FormatOptions{
		Label:         "sixteen bytes ok",
		UUID:          [16]byte{0xde, 0xad, 0xbe, 0xef, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
		HashSeed:      [16]byte{0x11, 0x22},
		UID:           70000,
		GID:           100001,
		Mode:          0o1777,
		Time:          time.Date(1999, 3, 4, 5, 6, 7, 890000001, time.UTC),
		Journal:       5 * fmtMiB,
		BytesPerInode: 4096,
		Reserved:      3 * fmtMiB,
	})
	runFsck(t, image)
	d := dumpe2fsFields(t, image)
	for key, want := range map[string]string{
		"Filesystem volume name": "sixteen bytes ok",
		"Filesystem UUID":        "deadbeef-0001-0203-0405-060708090a0b",
		"Directory Hash Seed":    "11220000-0000-0000-0000-000000000000",
		"Total journal blocks":   "1280",
		"Reserved block count":   "768",
		"Inodes per group":       "32768",
	} {
		if d[key] != want {
			t.Errorf("%s: %q, want %q", key, d[key], want)
		}
	}
	root := runDebugfs(t, image, "stat <2>")
	for _, want := range []string{"Mode:  01777", "User: 70000", "Group: 100001", "05:06:07 1999", "Links: 3"} {
		if !strings.Contains(root, want) {
			t.Errorf("the root directory has no %q:\n%s", want, root)
		}
	}
	lost := runDebugfs(t, image, "stat lost+found")
	for _, want := range []string{"Inode: 11 ", "Mode:  0700", "User:     0", "Size: 16384", "Links: 2"} {
		if !strings.Contains(lost, want) {
			t.Errorf("lost+found has no %q:\n%s", want, lost)
		}
	}
}

// The times beyond 32 bits of seconds are those of later epochs.
func TestFormatTimes(t *testing.T) {
	for _, at := range []time.Time{
		time.Date(1901, 12, 14, 1, 2, 3, 0, time.UTC), time.Date(2039, 1, 2, 3, 4, 5, 0, time.UTC),
		time.Date(2105, 3, 4, 5, 6, 7, 8, time.UTC), time.Date(2446, 5, 9, 8, 7, 6, 5, time.UTC),
	} {
		got := runDebugfs(t, formatImage(t, 4*fmtMiB, FormatOptions{Time: at}), "stat <2>")
		if n := strings.Count(got, at.Format("Jan _2 15:04:05 2006")); n != 4 {
			t.Errorf("%v is %d times in\n%s", at, n, got)
		}
	}
}

func TestFormatErrors(t *testing.T) {
	for _, c := range []struct {
		size int64
		opts FormatOptions
		want string
	}{
		{0, FormatOptions{}, "4 MiB"},
		{-1, FormatOptions{}, "4 MiB"},
		{MinSize - 1, FormatOptions{}, "64 TiB"},
		{MaxSize + 1, FormatOptions{}, "64 TiB"},
		{fmtGiB, FormatOptions{Label: "seventeen bytes !"}, "label"},
		{fmtGiB, FormatOptions{Label: "a\x00b"}, "label"},
		{fmtGiB, FormatOptions{Mode: 0o10000}, "mode"},
		{fmtGiB, FormatOptions{Time: time.Date(2446, 6, 1, 0, 0, 0, 0, time.UTC)}, "years"},
		{fmtGiB, FormatOptions{Time: time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC)}, "years"},
		{fmtGiB, FormatOptions{Journal: 4*fmtMiB - 1}, "journal"},
		{fmtGiB, FormatOptions{Journal: 128*fmtMiB + 1}, "journal"},
		{4 * fmtMiB, FormatOptions{Journal: 4 * fmtMiB}, "too small"},
		{100 * fmtMiB, FormatOptions{Journal: 128 * fmtMiB}, "too small"},
		{fmtGiB, FormatOptions{BytesPerInode: 1023}, "inode"},
		{fmtGiB, FormatOptions{BytesPerInode: -5}, "inode"},
		{fmtGiB, FormatOptions{Reserved: -1}, "root"},
		{fmtGiB, FormatOptions{Reserved: fmtGiB/2 + 1}, "root"},
	} {
		w := &writeTally{at: map[int64]int{}}
		_, err := Format(w, c.size, c.opts)
		if !errors.Is(err, errInvalid) || !strings.Contains(err.Error(), c.want) || len(w.at) > 0 {
			t.Errorf("Format(%d, %+v): %v after %d writes, want an error with %q", c.size, c.opts, err, len(w.at), c.want)
		}
	}
}

// Little storage is used. mkfs.ext4 uses 1 MiB, 4, 33, 132 and 1000 for these.
func TestFormatStorage(t *testing.T) {
	for size, limit := range map[int64]int64{
		4 * fmtMiB: 48 << 10, 128 * fmtMiB: 52 << 10, fmtGiB: 112 << 10, 20 * fmtGiB: 288 << 10, fmtTiB: 2300 << 10,
	} {
		st, err := os.Stat(formatImage(t, size, FormatOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		// What the tests' file system may need for its own mapping is let pass.
		if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > limit+64<<10 {
			t.Errorf("%d bytes of storage for an image of %d, want %d", used, size, limit)
		}
	}
}

func BenchmarkFormat(b *testing.B) {
	for _, size := range []int64{4 * fmtMiB, 128 * fmtMiB, fmtGiB, 20 * fmtGiB, fmtTiB} {
		b.Run(strconv.FormatInt(size, 10), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				f := newSparseFile(b, size)
				b.StartTimer()
				if _, err := Format(f, size, FormatOptions{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				f.Close()
				os.Remove(f.Name())
				b.StartTimer()
			}
		})
	}
}
