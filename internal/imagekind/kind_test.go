package imagekind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
)

func TestIdentify(t *testing.T) {
	put := func(at int, s string) []byte {
		b := make([]byte, 1<<17)
		copy(b[at:], s)
		return b
	}
	boot := put(510, "\x55\xaa")
	copy(boot[mbrTable:], "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00")
	both := put(512, "EFI PART")
	copy(both, boot[:512])
	for _, c := range []struct {
		in    []byte
		name  string
		class Class
	}{
		{nil, "empty", Empty},
		{put(0, ""), "zeros", Empty},
		{put(0, "QFI\xfb"), "qcow2", VirtualDisk},
		{put(0x40, "\x7f\x10\xda\xbe"), "VDI", VirtualDisk},
		{put(0, "\xfd7zXZ\x00"), "xz", Compressed},
		{put(257, "ustar\x0000"), "tar", Archive},
		{put(32769, "CD001"), "ISO", FileSystem},
		{put(0x10040, "_BHRfS_M"), "Btrfs", FileSystem},
		{put(1080, "\x53\xef"), "ext4", Ext4},
		{boot, "MBR", Partitioned},
		{both, "GPT", Partitioned},
		{put(510, "\x55\xaa"), "", Unknown}, // a boot sector without a table
		{[]byte("text\n"), "", Unknown},
	} {
		k, err := Identify(bytes.NewReader(c.in))
		if err != nil || k.Class != c.class || !strings.Contains(k.Name, c.name) {
			t.Errorf("%q: %v, %v", c.name, k, err)
		}
	}
}

// gptDisk is a disk with two partitions.
func gptDisk(sector int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 40*sector+128*128)
	h, table := b[sector:], b[2*sector:][:128*128]
	for i, p := range [][2]uint64{{2048, 4095}, {4096, 8191}} {
		e := table[256*i:]
		e[0] = 1
		le.PutUint64(e[32:], p[0])
		le.PutUint64(e[40:], p[1])
	}
	copy(h, "EFI PART")
	le.PutUint32(h[12:], gptHeaderLeast)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderLeast]))
	return b
}

// mbrDisk is a disk with a primary partition and an extended one with two logical ones.
func mbrDisk() []byte {
	b := make([]byte, 64<<10)
	entry := func(at, slot int, kind byte, first, size uint32) {
		e := b[at*512+mbrTable+16*slot:]
		e[4] = kind
		binary.LittleEndian.PutUint32(e[8:], first)
		binary.LittleEndian.PutUint32(e[12:], size)
		copy(b[at*512+510:], "\x55\xaa")
	}
	entry(0, 1, 0x83, 10, 20)
	entry(0, 2, 0x0f, 40, 80)
	entry(40, 0, 0x83, 1, 9)
	entry(40, 1, 0x05, 20, 30)
	entry(60, 0, 0x83, 2, 8)
	return b
}

func TestPartitions(t *testing.T) {
	for _, c := range []struct {
		disk []byte
		want []Partition
	}{
		{gptDisk(512), []Partition{{1, 1 << 20, 1 << 20}, {3, 2 << 20, 2 << 20}}},
		{gptDisk(4096), []Partition{{1, 8 << 20, 8 << 20}, {3, 16 << 20, 16 << 20}}},
		{mbrDisk(), []Partition{{2, 5120, 10240}, {5, 41 * 512, 9 * 512}, {6, 62 * 512, 8 * 512}}},
	} {
		got, err := Partitions(bytes.NewReader(c.disk))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v, %v; want %v", got, err, c.want)
		}
	}
	bad := gptDisk(512)
	bad[2*512+33]++
	if _, err := Partitions(bytes.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Error(err)
	}
	if _, err := Partitions(bytes.NewReader(make([]byte, 4096))); !errors.Is(err, ErrNoTable) {
		t.Error(err)
	}
}

func FuzzPartitions(f *testing.F) {
	f.Add(gptDisk(512))
	f.Add(gptDisk(4096))
	f.Add(mbrDisk())
	f.Fuzz(func(t *testing.T, disk []byte) {
		_, _ = Identify(bytes.NewReader(disk))
		list, err := Partitions(bytes.NewReader(disk))
		if err != nil {
			return
		}
		if len(list) > maxEntries+maxLogical*4 {
			t.Fatalf("%d partitions", len(list))
		}
		for _, p := range list {
			if p.Offset < 0 || p.Size <= 0 {
				t.Fatalf("%v", p)
			}
		}
	})
}
