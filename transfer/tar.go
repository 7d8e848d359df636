package transfer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/filemode"
)

// tarStream writes the files of a volume as a tar stream in PAX format.
type tarStream struct {
	w     *bufio.Writer
	tw    *tar.Writer // writes to w
	buf   []byte      // of the content under way
	src   *volumeSource
	opts  *Options
	stats Stats
	held  heldNames
	seen  map[fileID]string // entry that has the content of a file of several names
}

// ToTar writes the file or directory at p of fsys, and what is beneath it, to w as a
// tar stream in PAX format, sparse files as GNU tar does. Its first entry gets the given
// name, and the others theirs beneath it; "" is the last element of p. The name "." is
// for what is in a directory: the entries are "./", "./a", and so on.
//
// When it fails, w has got the beginning of a stream, without the end that readers look for.
func ToTar(ctx context.Context, w io.Writer, fsys *vole.FS, p, name string, opts Options) (Stats, error) {
	src := newVolumeSource(fsys)
	it, err := src.lstat(ctx, p)
	if err != nil {
		return Stats{}, err
	}
	if name == "" {
		name = path.Base(path.Clean("./" + p))
	}
	out := bufio.NewWriterSize(w, copyBuf)
	t := &tarStream{w: out, tw: tar.NewWriter(out), buf: make([]byte, copyBuf), src: src, opts: &opts, seen: map[fileID]string{}}
	if err := t.tree(ctx, p, name, &it); err != nil {
		return t.stats, errors.Join(err, out.Flush())
	}
	return t.stats, errors.Join(t.tw.Close(), out.Flush())
}

// tree writes what is at p, and beneath it, under the given name.
func (t *tarStream) tree(ctx context.Context, p, name string, it *item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.one(ctx, p, name, it); err != nil || !it.mode.IsDir() {
		return err
	}
	names, err := t.src.names(ctx, p, it)
	if err == nil {
		err = t.held.add(names)
	}
	if err != nil {
		return err
	}
	defer t.held.release(names)
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
		t.opts.warnf("%s: sockets are not copied", t.src.display(p))
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
		t.opts.file(name)
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
	c, err := t.src.open(ctx, p, it.size)
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
	m, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(tarReader{r, t}, n), t.buf)
	if err == nil && m < n {
		err = fmt.Errorf("%s: %s: became shorter while it was read", t.opts.op(), t.src.display(p))
	}
	return err
}

// tarReader counts what is read.
type tarReader struct {
	r io.Reader
	t *tarStream
}

func (r tarReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.t.stats.Bytes += int64(n)
	r.t.opts.read(n)
	return n, err
}

// tarHeader describes an item under a name.
func tarHeader(name string, it *item) *tar.Header {
	hdr := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(filemode.Perm(it.mode)), Uid: it.uid, Gid: it.gid,
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
	for k, v := range it.xattrs {
		hdr.PAXRecords[xattrRecord+recordEscape.Replace(k)] = string(v)
	}
	if v, ok := it.system[capabilityAttr]; ok {
		hdr.PAXRecords[xattrRecord+capabilityAttr] = string(v)
	}
	for record, attr := range aclRecords {
		if text := formatACL(it.system[attr]); text != "" {
			hdr.PAXRecords[record] = text
		}
	}
	return hdr
}
