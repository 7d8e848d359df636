package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"
)

// tarStream writes the files of a volume as a tar stream in PAX format.
type tarStream struct {
	w     io.Writer
	tw    *tar.Writer
	src   *volumeSource
	opts  metaOptions
	bar   *progress
	stats copyStats
	seen  map[fileID]string // entry that has the content of a file of several names
}

func newTarStream(w io.Writer, src *volumeSource, opts metaOptions, bar *progress) *tarStream {
	return &tarStream{w: w, tw: tar.NewWriter(w), src: src, opts: opts, bar: bar, seen: map[fileID]string{}}
}

func (t *tarStream) close() error { return t.tw.Close() }

// tree writes what is at p, and beneath it, under the given name.
func (t *tarStream) tree(ctx context.Context, p, name string, it *item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.one(ctx, p, name, it); err != nil || !it.mode.IsDir() {
		return err
	}
	names, err := t.src.names(ctx, p)
	if err != nil {
		return err
	}
	for _, n := range names {
		child, err := t.src.lstat(ctx, path.Join(p, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return err
		}
		if err := t.tree(ctx, path.Join(p, n), name+"/"+n, &child); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarStream) one(ctx context.Context, p, name string, it *item) error {
	hdr := tarHeader(name, it)
	switch it.mode.Type() {
	case fs.ModeSocket:
		t.stats.Skipped++
		t.opts.warn("%s: sockets are not copied", t.src.display(p))
		return nil
	case fs.ModeDir:
		t.stats.Directories++
		return t.tw.WriteHeader(hdr)
	}
	if it.nlink > 1 {
		if first, ok := t.seen[it.id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			t.stats.Links++
			return t.tw.WriteHeader(hdr)
		}
		t.seen[it.id] = name
	}
	switch {
	case it.mode.IsRegular():
		t.stats.Files++
		t.bar.file(name)
		return t.file(ctx, p, hdr, it)
	case it.mode&fs.ModeSymlink != 0:
		t.stats.Links++
	default:
		t.stats.Others++
	}
	return t.tw.WriteHeader(hdr)
}

// file writes a regular file, as a sparse one if it has holes.
func (t *tarStream) file(ctx context.Context, p string, hdr *tar.Header, it *item) error {
	c, err := t.src.open(ctx, p)
	if err != nil {
		return err
	}
	defer c.Close()
	if it.sparse {
		return t.sparse(ctx, p, hdr, c.(*volumeContent))
	}
	if err := t.tw.WriteHeader(hdr); err != nil {
		return err
	}
	return t.body(t.tw, c, p, hdr.Size)
}

// body copies exactly n bytes, which the header has announced.
func (t *tarStream) body(w io.Writer, r io.Reader, p string, n int64) error {
	m, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(r, n), make([]byte, copyBuf))
	t.stats.Bytes += m
	t.bar.add(int(m))
	if err == nil && m < n {
		err = fmt.Errorf("cp: %s: became shorter while it was read", t.src.display(p))
	}
	return err
}

// tarHeader describes an item under a name.
func tarHeader(name string, it *item) *tar.Header {
	hdr := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(unixMode(it.mode)), Uid: it.uid, Gid: it.gid,
		ModTime: it.mtime.Round(0), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	switch it.mode.Type() {
	case 0:
		hdr.Size = it.size
	case fs.ModeDir:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
	case fs.ModeSymlink:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, it.target
	case fs.ModeNamedPipe:
		hdr.Typeflag = tar.TypeFifo
	default:
		hdr.Typeflag = tar.TypeBlock
		if it.mode&fs.ModeCharDevice != 0 {
			hdr.Typeflag = tar.TypeChar
		}
		hdr.Devmajor, hdr.Devminor = int64(devMajor(it.rdev)), int64(devMinor(it.rdev))
	}
	if hdr.ModTime.Before(time.Unix(0, 0)) {
		// ustar has no sign; PAX has, but many readers stumble over it.
		hdr.ModTime = time.Unix(0, 0)
	}
	for k, v := range it.xattrs {
		hdr.PAXRecords[xattrRecord+k] = string(v)
	}
	return hdr
}
