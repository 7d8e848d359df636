package bucket

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/volehq/vole/driver"
	"golang.org/x/sync/errgroup"
)

// WriteFile implements driver.FS. Bytes are put while the source is read; the file
// appears with the commit.
func (f *fileSystem) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if err := f.enterWrite(ctx); err != nil {
		return 0, err
	}
	if err := opts.RefuseMeta(); err != nil {
		return 0, err
	}
	if opts.Size > maxFileSize {
		return 0, errTooLarge
	}
	if opts.Size > 0 && f.hint.Load() > 0 {
		if err := f.fits(ctx, path, opts.Size); err != nil {
			return 0, err
		}
	}
	if err := f.b.ns.tooLarge(opts); err != nil {
		return 0, err
	}
	if opts.Size < 0 {
		return 0, negative(opts.Size)
	}
	up := newUpload(ctx, f, opts.Size)
	size, err := up.all(r, opts)
	parts, perr := up.wait()
	if err == nil {
		err = perr
	}
	if err == nil && size > maxFileSize {
		err = errTooLarge
	}
	if err == nil {
		err = f.change(ctx, []string{path}, func(c *change) error { return c.replace(path, size, parts, opts) })
	}
	if err != nil {
		f.b.abandonBlobs(ctx, parts)
		return 0, err
	}
	return size, nil
}

// fits refuses what is known beforehand not to fit. Only the commit knows exactly.
func (f *fileSystem) fits(ctx context.Context, path string, size int64) error {
	v, err := f.b.get(ctx, driver.ByID(idText(f.vol)))
	if err != nil {
		return err
	}
	f.hint.Store(v.quota)
	if v.quota == 0 || size <= v.quota-v.used {
		return nil
	}
	old := int64(0)
	p, err := f.look(ctx, path, how{parents: true})
	if err != nil {
		return err
	}
	if p.node != nil && p.node.isFile() && p.node.nlink == 1 {
		old = p.node.size
	}
	if size > v.quota-v.used+old {
		return driver.Errorf(driver.ErrQuota, "%d bytes do not fit: the quota is %v, and %v are free", size, driver.Size(v.quota), driver.Size(max(0, v.quota-v.used)))
	}
	return nil
}

// replace puts a new file in the place of what is at path.
func (c *change) replace(path string, size int64, parts []part, opts driver.WriteOptions) error {
	p, err := c.w.resolve(path, how{parents: true})
	if err != nil {
		return err
	}
	n := inode{mode: typeFile | 0o644, nlink: 1, size: size}
	if p.node != nil {
		if opts.Exclusive {
			return driver.ErrExists
		}
		if p.node.isDir() {
			return driver.ErrIsDir
		}
		if p.node.isFile() {
			n.mode = p.node.mode
		}
	}
	if opts.Mode != 0 {
		n.mode = typeFile | permOf(opts.Mode)
	}
	for _, x := range parts {
		n.alloc += x.len
	}
	c.delta += size
	c.put(&p, &n)
	c.chunks(n.ino, parts)
	return nil
}

// put makes n under the name of p, in place of what is there, with missing parents.
func (c *change) put(p *place, n *inode) {
	dir := c.parents(p, 0o755)
	if p.node == nil {
		c.add(dir, p.name, n)
		return
	}
	n.ino = c.newIno()
	n.atime, n.mtime, n.ctime = c.now, c.now, c.now
	c.insert(n)
	c.later(`UPDATE dirents SET ino = $4 WHERE vol = $1 AND parent = $2 AND name = $3`, c.vol, dir.ino, []byte(p.name), n.ino)
	c.touch(dir.ino, 0)
	c.unlink(p.node)
}

// upload makes blobs of a stream.
type upload struct {
	f     *fileSystem
	ctx   context.Context // of the one call that the upload is for
	group *errgroup.Group
	parts []part
	hint  int64 // how many bytes there are, if known; 0: unknown
	total int64
}

func newUpload(ctx context.Context, f *fileSystem, hint int64) *upload {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.b.ns.atOnce)
	return &upload{f: f, ctx: ctx, group: g, hint: hint}
}

// wait returns the blobs once all are put.
func (u *upload) wait() ([]part, error) {
	err := u.group.Wait()
	list := u.parts
	for _, p := range list {
		if p.blob.id == nil && err == nil {
			err = errors.New("a blob was not put") // cannot be: its error is the group's
		}
	}
	return list, err
}

// all reads a source and returns the size of the file that it makes.
func (u *upload) all(r io.Reader, opts driver.WriteOptions) (int64, error) {
	if opts.NextData == nil {
		return u.stream(r, 0, -1)
	}
	for {
		off, n, err := opts.NextData(u.ctx)
		if errors.Is(err, io.EOF) {
			return opts.Size, nil
		}
		if err != nil {
			return 0, err
		}
		got, err := u.stream(r, off, n)
		if err != nil {
			return 0, err
		}
		if got < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
}

// stream puts n bytes of r, or all when n is negative, at pos.
func (u *upload) stream(r io.Reader, pos, n int64) (int64, error) {
	got := int64(0)
	for n < 0 || got < n {
		if err := u.ctx.Err(); err != nil {
			return got, u.cause(err)
		}
		want := int64(chunkSize)
		if n >= 0 {
			want = min(want, n-got)
		} else if left := u.hint - got; left > 0 {
			want = min(want-1, left) + 1 // one more shows the end
		} else if got == 0 {
			want = firstRead
		}
		x, err := u.fill(r, want)
		if k := int64(len(x.data)); k > 0 {
			u.put(pos+got, x)
			got += k
			u.total += k
		} else {
			x.recycle()
			x.release()
		}
		if errors.Is(err, io.EOF) {
			return got, nil // where it is too little, the caller sees that
		}
		if err != nil {
			return got, err
		}
		if err := u.boundless(); err != nil {
			return got, err
		}
	}
	return got, nil
}

// boundless cuts off a source that has more than the whole volume may hold.
func (u *upload) boundless() error {
	if q := u.f.hint.Load(); q == 0 || u.total <= q {
		return nil
	}
	v, err := u.f.b.get(u.ctx, driver.ByID(idText(u.f.vol))) // it may have been raised
	if err != nil {
		return u.cause(err)
	}
	u.f.hint.Store(v.quota)
	if v.quota > 0 && u.total > v.quota {
		return driver.Errorf(driver.ErrQuota, "the volume may hold %v; the source has more than that", driver.Size(v.quota))
	}
	return nil
}

// firstRead is how much is read of a source of unknown size before it counts as large.
const firstRead = 256 << 10

// cause is why the uploads ended, where that is what ended the context.
func (u *upload) cause(err error) error {
	if c := context.Cause(u.ctx); c != nil {
		return c
	}
	return err
}

func (u *upload) put(pos int64, x *chunkBuffer) {
	p := part{pos, int64(len(x.data)), &newBlob{}, 0}
	u.parts = append(u.parts, p)
	u.group.Go(func() error {
		defer x.release()
		b, err := u.f.b.put(u.ctx, x.data)
		if err != nil {
			return err // the store may still look at the data
		}
		if b.data != nil {
			b.data = slices.Clone(b.data) // it lives in the row
		}
		*p.blob = *b
		x.recycle()
		return nil
	})
}
