package ext4

import (
	"context"
	iofs "io/fs"
	"time"
)

// mostTime is how much of a processor's time each use of a damaged image of a few MiB may
// take.
const mostTime = 2 * time.Second

func checkQuietly(dev *memDevice) {
	n := 0
	_ = Check(context.Background(), dev, CheckOptions{Size: dev.size}, func(Problem) error {
		if n++; n > 10000 {
			return context.Canceled
		}
		return nil
	})
}

// reader reads all that an image holds, up to some limit.
type reader struct {
	fs   *FS
	left int // files that may still be read
}

func readQuietly(dev *memDevice) {
	fs, err := Open(dev, OpenOptions{Size: dev.size, ReadOnly: true})
	if err != nil {
		return
	}
	defer fs.Close()
	r := &reader{fs, 5000}
	r.readPath(".", 0)
}

func (r *reader) readPath(path string, depth int) {
	if r.left--; r.left < 0 || depth > 100 {
		return
	}
	info, err := r.fs.Lstat(path)
	if err != nil {
		return
	}
	names, _ := r.fs.Listxattr(path)
	for _, n := range names {
		_, _ = r.fs.Getxattr(path, n)
	}
	switch {
	case info.Mode.IsRegular():
		r.readFile(path)
	case info.Mode&iofs.ModeSymlink != 0:
		_, _ = r.fs.Readlink(path)
		_, _ = r.fs.Stat(path)
	case info.Mode.IsDir():
		r.readDir(path, depth)
	}
}

// readFile reads a file's data, not its holes, and at most 8 MiB of it.
func (r *reader) readFile(path string) {
	f, err := r.fs.OpenFile(path, OpenFlags{})
	if err != nil {
		return
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for off, k := int64(0), 0; k < 128; k++ {
		start, end, err := f.NextData(off)
		if err != nil {
			return
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
		if err != nil || n == 0 {
			return
		}
		off = start + int64(n)
	}
}

func (r *reader) readDir(path string, depth int) {
	d, err := r.fs.OpenDir(path, false)
	if err != nil {
		return
	}
	defer d.Close()
	for r.left > 0 {
		list, err := d.Read(100)
		if err != nil {
			return
		}
		for _, e := range list {
			sub := e.Name
			if path != "." {
				sub = path + "/" + sub
			}
			r.readPath(sub, depth+1)
		}
	}
}

// writeQuietly opens an image for writing and does a bit of everything.
func writeQuietly(dev *memDevice) {
	fs, err := Open(dev, OpenOptions{Size: dev.size, Batch: true})
	if err != nil {
		return
	}
	defer fs.Close()
	_ = fs.Mkdir("made", 0o755)
	for _, name := range []string{"made/file", "file"} {
		f, err := fs.OpenFile(name, OpenFlags{Write: true, Create: true, Mode: 0o644})
		if err != nil {
			continue
		}
		_, _ = f.WriteAt(make([]byte, 100000), 5000)
		_ = f.Truncate(50000)
		_ = f.Close()
	}
	_ = fs.Setxattr("file", "user.a", make([]byte, 500))
	_ = fs.Rename("file", "made/moved", false)
	_ = fs.Remove("made/file")
	_ = fs.Sync(context.Background())
	_ = fs.RemoveAll(context.Background(), "made")
	if d, err := fs.OpenDir(".", true); err == nil {
		list, _ := d.Read(20)
		_ = d.Close()
		for _, e := range list {
			_ = fs.RemoveAll(context.Background(), e.Name)
		}
	}
}
