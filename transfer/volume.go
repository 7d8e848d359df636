package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
)

// Volume is the files of a volume as a Tree. Who opened fsys closes it. To be copied
// into it is best in batch mode: at the end of a copy all is made durable at once.
func Volume(fsys *vole.FS) Tree { return volume{fsys} }

// volume implements Tree.
type volume struct{ f *vole.FS }

func (v volume) newSource() source              { return newVolumeSource(v.f) }
func (v volume) newTarget(opts *Options) target { return &volumeTarget{f: v.f, opts: opts} }

// volumeSource reads the files of a volume.
type volumeSource struct {
	f *vole.FS
	// entered are the directories of a disk volume that were listed, by inode. In a damaged
	// image one may have several names, or be within itself: a copy would not end.
	entered map[uint64]string
	// within are the directories of another volume that the walk is in, outermost first. One
	// that is within itself is damage; one that is met twice may have been moved during the copy.
	within []enteredDir
}

// enteredDir is a directory that the walk is in.
type enteredDir struct {
	path string
	ino  uint64
}

func newVolumeSource(f *vole.FS) *volumeSource {
	return &volumeSource{f: f, entered: map[uint64]string{}}
}

// checkEntered notes that a directory is about to be listed. ErrCorrupt: it leads back to itself.
func (s *volumeSource) checkEntered(p string, ino uint64) error {
	if s.f.Volume().Info().Kind == vole.KindDisk {
		if first, ok := s.entered[ino]; ok {
			return driver.Errorf(vole.ErrCorrupt, "%s and %s are the same directory; 'vole disk check' tells more", s.displayPath(first), s.displayPath(p))
		}
		s.entered[ino] = p
		return nil
	}
	for n := len(s.within); n > 0 && !isBeneathDir(s.within[n-1].path, p); n = len(s.within) {
		s.within = s.within[:n-1]
	}
	for _, above := range s.within {
		if above.ino == ino && ino != 0 { // 0: not known
			return driver.Errorf(vole.ErrCorrupt, "%s and %s are the same directory; a check of the namespace tells more", s.displayPath(above.path), s.displayPath(p))
		}
	}
	s.within = append(s.within, enteredDir{p, ino})
	return nil
}

// isBeneathDir reports whether p is below the directory dir. Both are as path.Join makes them.
func isBeneathDir(dir, p string) bool {
	return dir == "." && p != "." || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (s *volumeSource) displayPath(p string) string { return displayVolumePath(s.f, p) }

func displayVolumePath(f *vole.FS, p string) string {
	return f.Volume().Name() + ":" + path.Clean("/"+p)
}

// lstat describes p without opening it. A backend that knows that there are no attributes saves
// asking for them.
func (s *volumeSource) lstat(ctx context.Context, p string) (item, error) {
	e, err := s.f.Lstat(ctx, p)
	if err != nil {
		return item{}, err
	}
	it := itemOfEntry(e)
	if e.Mode&fs.ModeSymlink != 0 {
		it.target, err = s.f.Readlink(ctx, p)
		return it, err
	}
	if e.NoXattrs {
		return it, nil
	}
	return it, readVolumeXattrs(ctx, s.f, p, &it)
}

// openEntry opens a regular file and describes the open file, which is the one that is read
// even if the name is replaced in between.
func (s *volumeSource) openEntry(ctx context.Context, p string) (*volumeContent, item, error) {
	h, e, err := s.f.OpenEntry(ctx, p)
	if err != nil {
		return nil, item{}, err
	}
	it := itemOfEntry(e)
	if !e.NoXattrs {
		if err := readVolumeXattrs(ctx, s.f, p, &it); err != nil {
			return nil, it, errors.Join(err, h.Close())
		}
	}
	return &volumeContent{ctx: ctx, h: h, size: e.Size}, it, nil
}

func itemOfEntry(e vole.Entry) item {
	return item{
		mode: e.Mode, size: e.Size, uid: int(e.UID), gid: int(e.GID), mtime: e.Mtime, rdev: e.Rdev,
		id: fileID{0, e.Inode}, nlink: e.Nlink,
		sparse: e.Mode.IsRegular() && e.Size-e.Allocated >= holeMin,
	}
}

// maxXattrs bounds the bytes of attributes of one file that are held in memory. Backends
// keep 1 MiB at most.
const maxXattrs = 4 << 20

// readVolumeXattrs reads the attributes that are copied.
func readVolumeXattrs(ctx context.Context, fsys *vole.FS, p string, it *item) error {
	names, err := fsys.Listxattr(ctx, p)
	if errors.Is(err, vole.ErrUnsupported) {
		return nil
	}
	if err != nil || len(names) == 0 {
		return err
	}
	total := 0
	for _, n := range names {
		if !isCopiedAttribute(n) {
			continue
		}
		v, err := fsys.Getxattr(ctx, p, n)
		if errors.Is(err, vole.ErrNoXattr) {
			continue // removed since they were listed
		}
		if err != nil {
			return err
		}
		if total += len(n) + len(v); total > maxXattrs {
			return driver.Errorf(vole.ErrUnsupported, "%s: more than %d MiB of extended attributes cannot be copied", displayVolumePath(fsys, p), maxXattrs>>20)
		}
		it.setAttribute(n, v)
	}
	return nil
}

func (s *volumeSource) listNames(ctx context.Context, p string, it *item) ([]string, error) {
	names, _, err := s.listNamesAndTypes(ctx, p, it)
	return names, err
}

// listNamesAndTypes is listNames with the type of each entry.
func (s *volumeSource) listNamesAndTypes(ctx context.Context, p string, it *item) (names []string, types []fs.FileMode, err error) {
	if err := s.checkEntered(p, it.id.ino); err != nil {
		return nil, nil, err
	}
	d, err := s.f.OpenDir(ctx, p, vole.DirOptions{Sorted: true, NamesOnly: true})
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	total := 0
	for {
		list, err := d.Read(ctx, dirBatch)
		if errors.Is(err, io.EOF) {
			return names, types, nil
		}
		if err != nil {
			return nil, nil, err
		}
		for _, e := range list {
			// Backends check names too. A name that is joined to a path of the host is not
			// left to one of them.
			if err := driver.ValidateEntryName(e.Name); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", s.displayPath(p), err)
			}
			names, types = append(names, e.Name), append(types, e.Mode.Type())
			total += len(e.Name)
		}
		if len(names) > maxNames || total > maxNameBytes {
			return nil, nil, driver.Errorf(vole.ErrUnsupported, "%s: more than %d entries in one directory cannot be copied", s.displayPath(p), maxNames)
		}
	}
}

// What is held of the names of one directory: a server may list names without end.
const (
	maxNames     = 8 << 20
	maxNameBytes = 256 << 20
)

// heldNames counts the names of the directories that a walk is in: at each of two thousand
// levels there may be one as large as the bounds above allow.
type heldNames struct{ entries, bytes int }

func (h *heldNames) acquire(names []string) error {
	for _, n := range names {
		h.bytes += len(n)
	}
	if h.entries += len(names); h.entries > 2*maxNames || h.bytes > 2*maxNameBytes {
		return driver.Errorf(vole.ErrUnsupported, "directories within one another with more than %d entries in all cannot be copied", 2*maxNames)
	}
	return nil
}

func (h *heldNames) release(names []string) {
	for _, n := range names {
		h.bytes -= len(n)
	}
	h.entries -= len(names)
}

// dirBatch is how many entries of a directory are asked for at once.
const dirBatch = 512

func (s *volumeSource) openFile(ctx context.Context, p string, size int64) (sparse.Content, error) {
	c, err := s.openContent(ctx, p, size)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s *volumeSource) openContent(ctx context.Context, p string, size int64) (*volumeContent, error) {
	h, err := s.f.Open(ctx, p, vole.OpenOptions{NoFollow: true})
	if err != nil {
		return nil, err
	}
	return &volumeContent{ctx: ctx, h: h, size: size}, nil
}

// volumeContent reads a file of a volume.
type volumeContent struct {
	ctx context.Context // of the copy this belongs to: io.Reader has no place for one
	h   *vole.File
	off int64
	end int64 // where a read met the end of the file; 0: none did
	// size is that of the file when it was described. What it has grown by since is not
	// copied: a hostile server would let it grow without end.
	size int64
}

func (c *volumeContent) Read(p []byte) (int, error) {
	if c.end > 0 && c.off == c.end || c.off >= c.size {
		return 0, io.EOF // behind a server to ask again is a request
	}
	p = p[:min(int64(len(p)), c.size-c.off)]
	n, err := c.h.ReadAt(c.ctx, p, c.off)
	c.off += int64(n)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if n > 0 {
		c.end, err = c.off, nil
	}
	if serr := c.checkShrunk(); serr != nil {
		return n, serr
	}
	return n, err
}

// checkShrunk returns an error when a file ended before the size that it was said to have, and
// still is: then it is not the file that has become shorter, but a part of it is missing.
func (c *volumeContent) checkShrunk() error {
	if c.off >= c.size {
		return nil
	}
	e, err := c.h.Stat(c.ctx)
	if err == nil && e.Size > c.off {
		err = driver.Errorf(vole.ErrCorrupt, "the file has %d bytes, and only %d could be read", e.Size, c.off)
	}
	return err
}

func (c *volumeContent) Close() error { return c.h.Close() }

func (c *volumeContent) NextData(ctx context.Context) (off, n int64, err error) {
	start, end, err := c.h.NextData(ctx, c.off)
	if err == nil && (start >= c.size || end <= start) {
		err = io.EOF
	}
	c.off = start
	return start, min(end, c.size) - start, err
}
