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
	w     *bufio.Writer // content is read right into its buffer
	head  []byte        // the header under way, as bytes
	hdr   tar.Header    // and before: one for all entries, which spares an allocation for each
	src   *volumeSource
	opts  *Options
	stats Stats
	held  heldNames
	seen  map[fileID]string // entry that has the content of a file of several names
}

// ToTar writes the file or directory at p of fsys, with everything beneath it, to w as a
// tar stream in PAX format, sparse files as GNU tar does. Its first entry gets the given
// name, and the others theirs beneath it; "" is the last element of p. The name "." is
// for the entries of a directory: they are "./", "./a", and so on.
//
// When it fails, w has got no more than the beginning of a stream, without the end that
// readers look for.
func ToTar(ctx context.Context, w io.Writer, fsys *vole.FS, p, name string, opts Options) (Stats, error) {
	src := newVolumeSource(fsys)
	it, err := src.lstat(ctx, p)
	if err != nil {
		return Stats{}, err
	}
	if name == "" {
		name = path.Base(path.Clean("./" + p))
	}
	t := &tarStream{w: bufio.NewWriterSize(w, copyBuf), src: src, opts: &opts, seen: map[fileID]string{}}
	if err := t.writeTree(ctx, p, name, &it); err != nil {
		return t.stats, err
	}
	if _, err := t.w.Write(tarZeros[:]); err != nil { // two blocks of zeros end an archive
		return t.stats, err
	}
	return t.stats, t.w.Flush()
}

// writeTree writes the tree at p under the given name.
func (t *tarStream) writeTree(ctx context.Context, p, name string, it *item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.writeEntry(ctx, p, name, it, nil); err != nil || !it.mode.IsDir() {
		return err
	}
	names, types, err := t.src.listNamesAndTypes(ctx, p, it)
	if err == nil {
		err = t.held.acquire(names)
	}
	if err != nil {
		return err
	}
	defer t.held.release(names)
	for i, n := range names {
		at := n
		if p != "." {
			at = p + "/" + n
		}
		if err := t.writeChild(ctx, at, name+"/"+n, types[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeChild writes the tree at p, which was of the given type when its directory was listed.
// What was removed since is left out. Regular files are opened at once and described by
// their handles; nothing else is ever opened to learn its type.
func (t *tarStream) writeChild(ctx context.Context, p, name string, listed fs.FileMode) error {
	if listed.IsRegular() {
		c, it, err := t.src.openEntry(ctx, p)
		switch {
		case err == nil:
			return errors.Join(t.writeEntry(ctx, p, name, &it, c), c.Close())
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, vole.ErrLoop) && !errors.Is(err, vole.ErrIsDir) && !errors.Is(err, vole.ErrUnsupported):
			return err
		}
		// By now it is something else.
	}
	it, err := t.src.lstat(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.writeTree(ctx, p, name, &it)
}

// writeEntry writes the entry p itself. Of a regular file c is the content; nil: not open yet.
func (t *tarStream) writeEntry(ctx context.Context, p, name string, it *item, content *volumeContent) error {
	hdr := &t.hdr
	*hdr = headerOfItem(name, it)
	switch it.mode.Type() {
	case fs.ModeSocket:
		t.stats.Skipped++
		t.opts.warnf("%s: sockets are not copied", t.src.displayPath(p))
		return nil
	case fs.ModeDir:
		t.stats.Directories++
		return t.writeHeader(p, hdr)
	}
	if it.nlink > 1 {
		if first, ok := t.seen[it.id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			t.stats.Links++
			return t.writeHeader(p, hdr)
		}
		t.seen[it.id] = name
	}
	switch {
	case it.mode.IsRegular():
		t.stats.Files++
		t.opts.reportFile(name)
		return t.writeFile(ctx, p, hdr, it, content)
	case it.mode&fs.ModeSymlink != 0:
		t.stats.Links++
	default:
		t.stats.Others++
	}
	return t.writeHeader(p, hdr)
}

// writeFile writes a regular file, as a sparse one if it has holes.
func (t *tarStream) writeFile(ctx context.Context, p string, hdr *tar.Header, it *item, c *volumeContent) (err error) {
	if c == nil {
		if c, err = t.src.openContent(ctx, p, it.size); err != nil {
			return err
		}
		defer c.Close()
	}
	if it.sparse {
		return t.writeSparseFile(ctx, p, hdr, c)
	}
	if err := t.writeHeader(p, hdr); err != nil {
		return err
	}
	if err := t.writeBody(c, p, hdr.Size); err != nil {
		return err
	}
	_, err = t.w.Write(blockPadding(hdr.Size))
	return err
}

// writeHeader writes the header of the entry p.
func (t *tarStream) writeHeader(p string, hdr *tar.Header) (err error) {
	if t.head, err = appendTarHeader(t.head[:0], hdr); err != nil {
		return fmt.Errorf("%s: %s: %w", t.opts.opName(), t.src.displayPath(p), err)
	}
	_, err = t.w.Write(t.head)
	return err
}

// leastRead is how much room for content is made before it is read, in bytes.
const leastRead = 64 << 10

// writeBody copies exactly n bytes, which the header has announced.
func (t *tarStream) writeBody(r io.Reader, p string, n int64) error {
	for n > 0 {
		if int64(t.w.Available()) < min(n, leastRead) {
			if err := t.w.Flush(); err != nil {
				return err
			}
		}
		buf := t.w.AvailableBuffer()
		m, err := r.Read(buf[:min(int64(cap(buf)), n)])
		t.stats.Bytes += int64(m)
		t.opts.reportRead(m)
		if _, werr := t.w.Write(buf[:m]); werr != nil {
			return werr
		}
		if n -= int64(m); n == 0 {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %s: became shorter while it was read", t.opts.opName(), t.src.displayPath(p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// headerOfItem describes an item under a name.
func headerOfItem(name string, it *item) tar.Header {
	hdr := tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(filemode.Perm(it.mode)), Uid: it.uid, Gid: it.gid,
		ModTime: it.mtime,
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
		hdr.Devmajor, hdr.Devminor = int64(deviceMajor(it.rdev)), int64(deviceMinor(it.rdev))
	}
	if len(it.xattrs)+len(it.system) > 0 {
		hdr.PAXRecords = attrRecords(it)
	}
	return hdr
}

// attrRecords are the extended records of an item's attributes.
func attrRecords(it *item) map[string]string {
	records := map[string]string{}
	for k, v := range it.xattrs {
		records[xattrRecord+recordEscape.Replace(k)] = string(v)
	}
	if v, ok := it.system[capabilityAttr]; ok {
		records[xattrRecord+capabilityAttr] = string(v)
	}
	for record, attr := range aclRecords {
		if text := formatACL(it.system[attr]); text != "" {
			records[record] = text
		}
	}
	return records
}
