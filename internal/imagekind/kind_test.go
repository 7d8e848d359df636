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
	protective := bytes.Clone(boot)
	protective[mbrTable+4] = mbrProtective
	lost := withCopy(gptDisk(512), 512)
	clear(lost[:1024])
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
		{put(257, "ustar\x0000"), "tar", Tar},
		{put(0, "PK\x03\x04"), "zip", Archive},
		{put(0, "\x1f\x9d\x90"), "compress", Compressed},
		{put(0, "\x7fELF"), "program", NoFiles},
		{put(32769, "CD001"), "ISO", FileSystem},
		{put(0x10040, "_BHRfS_M"), "Btrfs", FileSystem},
		{put(1080, "\x53\xef"), "ext4", Ext4},
		{boot, "MBR", Partitioned},
		{both, "GPT", Partitioned},
		{put(510, "\x55\xaa"), "", Unknown}, // a boot sector without a table
		{[]byte("text\n"), "", Unknown},
		{put(1<<17-512, "conectix"), "VHD", VirtualDisk},
		{put(1<<17-511, "conectix"), "VHD", VirtualDisk},
		{put(1<<17-512, "koly"), "DMG", VirtualDisk},
		{protective, "GPT", Partitioned},
		{lost, "GPT", Partitioned}, // nothing of it at the beginning
	} {
		k, err := Identify(bytes.NewReader(c.in), int64(len(c.in)))
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
		got, err := Partitions(bytes.NewReader(c.disk), int64(len(c.disk)))
		if err != nil || got.Copy || !slices.Equal(got.Partitions, c.want) {
			t.Errorf("%v, %v; want %v", got, err, c.want)
		}
	}
	bad := gptDisk(512)
	bad[2*512+33]++
	if _, err := Partitions(bytes.NewReader(bad), int64(len(bad))); !errors.As(err, new(*TableError)) || !strings.Contains(err.Error(), "checksum") {
		t.Error(err)
	}
	if _, err := Partitions(bytes.NewReader(make([]byte, 4096)), 4096); !errors.Is(err, ErrNoTable) {
		t.Error(err)
	}
}

// withCopy puts the second copy of its table behind a disk.
func withCopy(b []byte, sector int) []byte {
	le := binary.LittleEndian
	first, table := b[sector:][:sector], b[2*sector:][:128*128]
	copied := bytes.Clone(first)
	le.PutUint64(copied[72:], uint64(len(b)/sector))
	last := uint64((len(b) + len(table)) / sector)
	b = append(b, table...)
	for _, h := range []struct {
		header []byte
		other  uint64
	}{{copied, 1}, {b[sector:], last}} {
		le.PutUint64(h.header[32:], h.other)
		clear(h.header[16:20])
		le.PutUint32(h.header[16:], crc32.ChecksumIEEE(h.header[:gptHeaderLeast]))
	}
	return append(b, copied...)
}

// What is damaged at the beginning of a disk is read at its end.
func TestPartitionsCopy(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		whole := withCopy(gptDisk(sector), sector)
		want, err := Partitions(bytes.NewReader(whole), int64(len(whole)))
		if err != nil || want.Copy {
			t.Fatal(want, err)
		}
		for name, damage := range map[string]func(b []byte) []byte{
			"magic":              func(b []byte) []byte { b[sector]++; return b },
			"header":             func(b []byte) []byte { b[sector+60]++; return b },
			"entries":            func(b []byte) []byte { b[2*sector+33]++; return b },
			"all":                func(b []byte) []byte { clear(b[:3*sector]); return b },
			"entries, made long": func(b []byte) []byte { b[2*sector+33]++; return append(b, make([]byte, 9999)...) },
			"header, fixed VHD":  func(b []byte) []byte { b[sector+60]++; return append(b, make([]byte, 512)...) },
		} {
			b := damage(bytes.Clone(whole))
			got, err := Partitions(bytes.NewReader(b), int64(len(b)))
			if err != nil || !got.Copy || !slices.Equal(got.Partitions, want.Partitions) {
				t.Errorf("%s, sectors of %d: %v, %v", name, sector, got, err)
			}
			if got, err := Partitions(bytes.NewReader(b), 0); err == nil {
				t.Errorf("%s, of a stream: %v", name, got)
			}
		}
	}
}

func FuzzPartitions(f *testing.F) {
	f.Add(gptDisk(512))
	f.Add(gptDisk(4096))
	f.Add(mbrDisk())
	f.Add(withCopy(gptDisk(512), 512))
	f.Fuzz(func(t *testing.T, disk []byte) {
		_, _ = Identify(bytes.NewReader(disk), int64(len(disk)))
		table, err := Partitions(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			return
		}
		list := table.Partitions
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
