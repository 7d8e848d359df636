package ext4

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The fuzz targets start from one image of 8 MiB, which this package makes: with
// directories with and without an index, a fragmented file, attributes and links.
var fuzzBase = sync.OnceValues(func() (*memDevice, error) {
	dev := newMemDevice(nil, 0)
	_, err := Format(dev, 8<<20, FormatOptions{UUID: [16]byte{1}, HashSeed: [16]byte{2}, Time: time.Unix(1e9, 0)})
	if err != nil {
		return nil, err
	}
	dev.size = 8 << 20
	return dev, fillFuzzImage(dev, true)
})

// fuzzDirty is such an image whose log is to be replayed, without checksums in it, so
// that what is fuzzed is not refused at once.
var fuzzDirty = sync.OnceValues(func() (*memDevice, error) {
	base, err := fuzzBase()
	if err != nil {
		return nil, err
	}
	dev := newMemDevice(base, base.size)
	if err := fillFuzzImage(dev, false); err != nil {
		return nil, err
	}
	at, err := journalOffset(dev)
	b := make([]byte, jsbSize)
	if err == nil {
		err = readFull(dev, b, at)
	}
	be.PutUint32(b[jsbIncompat:], be.Uint32(b[jsbIncompat:])&^jCsumV3)
	if err == nil {
		_, err = dev.WriteAt(b, at)
	}
	return dev, err
})

// journalOffset returns where the journal of an image begins.
func journalOffset(dev *memDevice) (int64, error) {
	sb, _, err := loadSuperblock(dev, dev.size)
	if err != nil {
		return 0, err
	}
	// The copy of the inode's mapping in the superblock: a header, and one extent.
	e := extentNode(sb.raw[0x10c : 0x10c+blockAreaLen]).extentAt(0)
	return int64(e.start) * defaultBlock, nil
}

// fillFuzzImage writes something of everything; without end the FS is left as if the
// process were killed.
func fillFuzzImage(dev *memDevice, end bool) error {
	fs, err := Open(dev, OpenOptions{Size: dev.size, Batch: end})
	if err != nil {
		return err
	}
	top := "one"
	if !end {
		top = "two"
	}
	err = fs.Mkdir(top, 0o755)
	for k := range 40 {
		if err == nil {
			err = writeFuzzFile(fs, fmt.Sprintf("%s/%03d-%s", top, k, strings.Repeat("n", 160+k)), int64(k%3)*5000)
		}
		if !end && k == 5 {
			return err
		}
	}
	for k := range 10 {
		if err == nil {
			err = writeFuzzFile(fs, top+"/fragmented", int64(k)*20000)
		}
	}
	if err == nil {
		err = fs.Symlink(strings.Repeat("t", 300), "long")
	}
	if err == nil {
		err = fs.Symlink("one", "short")
	}
	if err == nil {
		err = fs.Setxattr("one", "user.big", make([]byte, 1000))
	}
	if err != nil {
		return err
	}
	return fs.Close()
}

func writeFuzzFile(fs *FS, name string, off int64) error {
	f, err := fs.OpenFile(name, OpenFlags{Write: true, Create: true})
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("content"), off); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fs.Setxattr(name, "user.name", []byte("value"))
}

// eachPatch calls f with each change that the fuzzer's data describes in seven bytes.
func eachPatch(data []byte, f func(what, at uint16, value uint16, seal bool)) {
	for k := 0; len(data) >= 7 && k < 64; k, data = k+1, data[7:] {
		f(le.Uint16(data), le.Uint16(data[2:]), le.Uint16(data[4:]), data[6]&1 != 0)
	}
}

// Whatever the metadata says, reading, checking and writing end, without a panic.
func FuzzOpen(f *testing.F) {
	base, err := fuzzBase()
	if err != nil {
		f.Fatal(err)
	}
	list := findTargets(f, base)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x60, 0, 0xff, 0xff, 1})
	f.Add([]byte{40, 0, 4, 0, 0xff, 0xff, 1, 41, 0, 0x28, 0, 0, 0, 1})
	f.Add([]byte{200, 0, 12, 0, 1, 0, 1, 210, 0, 0, 0, 7, 0, 1})
	// A group that counts 2^32-1 directories.
	f.Add([]byte{1, 0, gdDirs, 0, 0xff, 0xff, 1, 1, 0, gdDirsHi, 0, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		dev := newMemDevice(base, base.size)
		eachPatch(data, func(what, at, value uint16, seal bool) {
			p := list[int(what)%len(list)]
			b := make([]byte, p.n)
			if readFull(dev, b, p.at) != nil {
				return
			}
			le.PutUint16(b[int(at)%(p.n-1):], value)
			if seal && p.seal != nil {
				p.seal(b)
			}
			if _, err := dev.WriteAt(b, p.at); err != nil {
				t.Fatal(err)
			}
			if seal && p.seal != nil && p.also != nil {
				o := p.also(b)
				if _, err := dev.WriteAt(o.now, o.at); err != nil {
					t.Fatal(err)
				}
			}
		})
		useFuzzedImage(t, dev)
	})
}

// useFuzzedImage uses an image, with more patience than the tests have: fuzzing runs on many
// processors at once.
func useFuzzedImage(t *testing.T, dev *memDevice) {
	t.Helper()
	start := time.Now()
	readQuietly(dev)
	checkQuietly(dev)
	writeQuietly(dev)
	if took := time.Since(start); took > 10*mostTime {
		t.Errorf("took %v", took)
	}
}

// Whatever the log says, replaying it ends, and so does what comes after.
func FuzzJournal(f *testing.F) {
	base, err := fuzzDirty()
	if err != nil {
		f.Fatal(err)
	}
	start, err := journalOffset(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x1c, 0, 0, 9, 0})
	f.Add([]byte{1, 0, 12, 0, 0, 0, 0, 1, 0, 6, 0, 0, 5, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		dev := newMemDevice(base, base.size)
		eachPatch(data, func(what, at, value uint16, _ bool) {
			var b [2]byte
			le.PutUint16(b[:], value)
			if _, err := dev.WriteAt(b[:], start+int64(what%1024)*defaultBlock+int64(at%(defaultBlock-1))); err != nil {
				t.Fatal(err)
			}
		})
		useFuzzedImage(t, dev)
	})
}

// openFuzzFS opens the base image read-only, for the targets that fuzz one structure.
func openFuzzFS(t testing.TB) *FS {
	base, err := fuzzBase()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Open(newMemDevice(base, base.size), OpenOptions{Size: base.size, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// inodeOfPath returns an inode of the base image.
func inodeOfPath(t testing.TB, fs *FS, name string) *inode {
	i, err := fs.resolvePath(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// FuzzGrowLog reads what may lie in the log of a growth that a crash ended.
func FuzzGrowLog(f *testing.F) {
	base, err := fuzzBase()
	if err != nil {
		f.Fatal(err)
	}
	const end = 12 << 20 // behind the file system are 4 MiB, and the log in their last half MiB
	mark := growMark(end/defaultBlock | leastGrowLog<<markLogShift | markClean)
	start, _ := mark.logRange()
	block := make([]byte, 1024)
	if err := readFull(base, block, superOffset); err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(1), uint64(mark), append(make([]byte, 8), block...))
	f.Add(uint32(2), uint64(mark)|markNoLog, []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 7})
	f.Add(uint32(1<<20), uint64(1<<46|markBehind|markLogMask<<markLogShift), []byte{})
	f.Fuzz(func(t *testing.T, n uint32, mark uint64, body []byte) {
		dev := newMemDevice(base, base.size)
		dev.size = end
		sb, _, err := loadSuperblock(dev, end)
		if err != nil {
			t.Fatal(err)
		}
		le.PutUint64(sb.raw[sbGrowMark:], mark)
		fs := &FS{sb: sb, sideLogInImage: true}
		all := make([]byte, int64(n%64)*(8+sb.blockSize))
		copy(all, body)
		head := make([]byte, sideHead)
		copy(head, sideMagic)
		le.PutUint32(head[8:], n)
		le.PutUint32(head[12:], crc32c(fs.sideLogSeed(head), all))
		le.PutUint32(sb.raw[sbChecksum:], superblockChecksum(sb.raw))
		for _, w := range []struct {
			b  []byte
			at int64
		}{{sb.raw, superOffset}, {head, int64(start) * defaultBlock}, {all, int64(start)*defaultBlock + sideBody}} {
			if _, err := dev.WriteAt(w.b, w.at); err != nil {
				t.Fatal(err)
			}
		}
		useFuzzedImage(t, dev)
	})
}

// What a block of a directory says is read, and changed, within its bounds.
func FuzzDirBlock(f *testing.F) {
	fs := openFuzzFS(f)
	dir := inodeOfPath(f, fs, "one")
	for l := range fs.dirBlockCount(dir) {
		if e, err := fs.lookupExtent(dir, l); err == nil {
			b := make([]byte, defaultBlock)
			if err := fs.readBlockUncached(e.start+uint64(l-e.logical), b); err != nil {
				f.Fatal(err)
			}
			f.Add(b[:500])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := make([]byte, defaultBlock)
		copy(b, data)
		node := slices.Clone(b)
		setDirBlockChecksum(fs.sb.csumSeed, dir.num, dir.generation(), b)
		if fs.checkDirBlock(dir, b) == nil {
			list, err := fs.hashEntries(dir, b, hashHalfMD4)
			if err != nil {
				t.Errorf("a block that was checked: %v", err)
			}
			for _, e := range list {
				if _, _, ok, err := fs.findEntryInBlock(dir, b, string(e.name)); !ok || err != nil {
					t.Errorf("%q is not found: %v", e.name, err)
				}
			}
			if r, ok, err := fs.findEntryRoom(dir, b, "new"); ok && err == nil {
				fs.placeEntry(dir, b, r, 12, ftRegular, "new")
				if err := fs.checkDirBlock(dir, b); err != nil {
					t.Errorf("after adding a name: %v", err)
				}
			}
		}
		for _, l := range []uint32{0, 1} {
			_ = fs.checkIndexBlock(dir, l, node)
			d := &dirCheck{c: newChecker(context.Background(), fs, func(Problem) error { return nil }), dir: dir, names: map[uint64]struct{}{}}
			d.startIndexCheck(2)
			d.checkBlock(l, 100, slices.Clone(node))
			d.index.checkHashRanges()
		}
	})
}

// What an inode and a block say of a file's extents is read within bounds.
func FuzzExtents(f *testing.F) {
	fs := openFuzzFS(f)
	file := inodeOfPath(f, fs, "one/fragmented")
	f.Add(slices.Clone(file.blockArea()), []byte{})
	f.Add([]byte("\x0a\xf3\x01\x00\x04\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\xd0\x07"), []byte("\x0a\xf3\x01\x00\x54\x01\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00\x00\x05\x00\x00"))
	f.Fuzz(func(t *testing.T, area, node []byte) {
		i := &inode{file.num, slices.Clone(file.raw)}
		copy(i.blockArea(), area)
		b := make([]byte, defaultBlock)
		copy(b, node)
		if end := extentHeaderLen + extentEntryLen*extentNode(b).maxEntries(); end+4 <= len(b) {
			le.PutUint32(b[end:], ownedBlockChecksum(fs.sb.csumSeed, i.num, i.generation(), b[:end]))
		}
		fs.cache.replaceBlock(2000, &block{data: b})
		next := uint64(0)
		err := fs.eachExtent(i, 0, func(e extent) (bool, error) {
			if uint64(e.logical) < next || e.n == 0 || e.start+uint64(e.n) > fs.sb.blocks {
				t.Errorf("extent %+v after block %d", e, next)
			}
			next = e.endBlock()
			if got, err := fs.lookupExtent(i, e.logical); err != nil || got != e {
				t.Errorf("looked up %+v, found %+v: %v", e, got, err)
			}
			return true, nil
		})
		_ = err
		c := newChecker(context.Background(), fs, func(Problem) error { return nil })
		c.checkContent(i, c.markInodeUsed(i.num), 0)
		le.PutUint32(i.raw[inFlags:], 0)
		_, _ = fs.lookupExtent(i, 12)
		_, _ = fs.lookupExtent(i, 1<<20)
		c.checkContent(i, c.markInodeUsed(i.num), 0)
	})
}

// What rows of attributes say is read within their bounds.
func FuzzXattr(f *testing.F) {
	fs := openFuzzFS(f)
	dir := inodeOfPath(f, fs, "one")
	f.Add(slices.Clone(dir.xattrBodyArea()[4:]))
	if b, err := fs.readXattrBlock(dir); err == nil && b != nil {
		f.Add(slices.Clone(b[xattrHeaderLen:]))
	}
	f.Add([]byte("\x04\x01\x20\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00name\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00text"))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), defaultBlock-xattrHeaderLen)]
		for _, from := range []int{0, xattrHeaderLen} {
			base := append(make([]byte, from), data...)
			list, err := fs.parseXattrEntries(data, base, from)
			for _, x := range list {
				_ = x.fullXattrName()
				_, _, _ = splitXattrName(x.fullXattrName())
				_, _ = fs.readXattrValue(x)
				_, _ = aclDiskToSyscall(x.value)
			}
			c := newChecker(context.Background(), fs, func(Problem) error { return nil })
			c.checkXattrEntries(dir, append(make([]byte, 4), base...), 4+from, 4, from == 0)
			_ = err
		}
	})
}
