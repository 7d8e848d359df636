package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/transfer"
)

// fillOptions are the flags of create that say what is done about what cannot be kept.
type fillOptions struct{ strict, truncated bool }

// createFilled makes a volume that holds what is in a directory or a tar stream.
func (a *app) createFilled(ctx context.Context, name string, spec vole.Spec, existOK bool, from string, opts fillOptions) error {
	if from == "" {
		return usageErrorf("create: --from: the path is empty; write . for the current directory")
	}
	s, err := a.openOrMakeStore(ctx, vole.Options{})
	if err != nil {
		return err
	}
	if existOK {
		v, err := s.Get(ctx, name)
		if err == nil {
			if err := spec.Fits(v.Info()); err != nil {
				return errors.Join(&vole.Error{Op: fillOp, Volume: v.Name(), Err: err}, a.printVolume(v, nil))
			}
			return a.printVolume(v, nil)
		}
		if !errors.Is(err, vole.ErrNotFound) {
			return err
		}
	}
	fl := &filling{app: a, store: s, from: from, opts: opts, bar: a.newProgress()}
	v, err := fl.fillVolume(ctx, name, spec)
	fl.bar.finishBar(err == nil, fl.stats)
	switch {
	case err != nil && fl.began:
		return withStreamHint(err) // whatever exists already, it is not the volume
	case err != nil:
		return withHint(err, vole.ErrExists, "--exist-ok accepts an existing volume")
	}
	if n := fl.stats.Lost + fl.stats.Skipped; n > 0 {
		a.warnf("not everything was kept (warnings: %d); --strict makes nothing then", n)
	}
	_, err = v.Refresh(ctx) // what it holds now
	return a.printVolume(v, err)
}

// filling is the making of a volume that is not empty. The volume is a draft until all is copied:
// when anything fails, none is left. A disk without a size is made as large as its content seems to
// need, grows while it is filled (transfer.OpenGrowing), and is made again, larger, if that failed.
type filling struct {
	*app
	store    *vole.Store
	from     string
	opts     fillOptions
	bar      *progress
	stats    transfer.Stats
	began    bool // the volume was made, and its filling has begun
	readOnce bool // what it is filled from cannot be read twice

	fit  bool      // the volume is a disk that is to be as large as it must
	size vole.Size // of that, so far
}

// Least sizes of a disk volume that is made as large as its content needs.
const (
	leastDisk  = 16 * vole.MiB  // with a log; what is not used takes nothing
	streamDisk = 128 * vole.MiB // when nobody knows: a whole group of inodes
)

// fitTries is how often a disk is made again, larger, when its content turned out to need more
// than it seemed.
const fitTries = 3

// fillVolume makes the volume and fills it. A disk that is to fit its content is tried again, twice
// as large, when it turns out to be full.
func (f *filling) fillVolume(ctx context.Context, name string, spec vole.Spec) (*vole.Volume, error) {
	f.fit = spec.Kind == vole.KindDisk && spec.Capacity == 0
	for try := 1; ; try++ {
		v, err := f.tryFill(ctx, name, spec)
		if !f.fit || f.readOnce || try == fitTries || !errors.Is(err, vole.ErrNoSpace) {
			return v, err
		}
		f.size *= 2
	}
}

// tryFill makes the volume, or fails and leaves none.
func (f *filling) tryFill(ctx context.Context, name string, spec vole.Spec) (*vole.Volume, error) {
	f.stats = transfer.Stats{}
	o, in, err := f.openContent(ctx)
	if err != nil {
		return nil, err
	}
	least, n := streamDisk, transfer.Need{}
	if o != nil {
		least = leastDisk
		if n, err = f.neededSize(ctx, o); err != nil {
			return nil, err
		}
		if !f.fit { // to walk the tree twice is for the bar alone
			defer f.bar.findTotalBeside(ctx, func(ctx context.Context) (int64, error) {
				n, err := transfer.NeedOf(ctx, o.tree, o.path)
				return n.Data, err
			})()
		}
	}
	if f.fit {
		f.size = max(f.size, least, vole.Size(n.Bytes))
		spec.Capacity = f.size
	}
	return f.store.Build(ctx, name, spec, func(v *vole.Volume) error {
		f.began = true
		return f.wrapSourceError(name, f.copyContent(ctx, v, o, in, n))
	})
}

// neededSize finds out what a tree takes, where the volume's size depends on it.
func (f *filling) neededSize(ctx context.Context, o *copySource) (n transfer.Need, err error) {
	if f.fit {
		n, err = transfer.NeedOf(ctx, o.tree, o.path)
		f.bar.setTotal(n.Data)
	}
	return n, err
}

// fillOp is the operation in errors of the copy, before which named puts another one.
const fillOp = "create"

// wrapSourceError makes an error name the source that the volume is filled from.
func (f *filling) wrapSourceError(volume string, err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), fillOp+": ")
	return &vole.Error{Op: fillOp, Volume: volume, Err: driver.Errorf(err, "--from %s: %s", f.from, text)}
}

// openContent opens the source: a directory of the host, or a tar stream.
func (f *filling) openContent(ctx context.Context) (*copySource, io.Reader, error) {
	if f.from == "-" {
		f.readOnce = true
		return nil, f.openInput(ctx, f.bar.measureSource(f.stdin)), nil
	}
	st, err := os.Stat(f.from)
	if err != nil {
		err = transfer.HostError(fillOp, f.from, err)
		if volume, _, ok := strings.Cut(f.from, ":"); ok && !strings.Contains(volume, "/") {
			err = withHint(err, vole.ErrNotExist, "--from takes files of the host; 'vole clone' copies a volume, and 'vole cp' files of one into another")
		}
		return nil, nil, err
	}
	if st.IsDir() {
		o, err := f.openHostSource(fillOp, location{arg: "--from " + f.from, path: filepath.Clean(f.from) + "/."}, true)
		return o, nil, err
	}
	file, err := openForReading(ctx, f.from)
	if err != nil {
		return nil, nil, transfer.HostError(fillOp, f.from, err)
	}
	f.closeAtEnd(file)
	in := f.bar.measureSource(file)
	if f.readOnce = !st.Mode().IsRegular(); f.readOnce {
		in = f.openInput(ctx, in)
	}
	return nil, in, nil
}

// copyContent copies into the new volume.
func (f *filling) copyContent(ctx context.Context, v *vole.Volume, o *copySource, in io.Reader, n transfer.Need) (err error) {
	t, closer, err := f.openNewVolume(ctx, v, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	opts := transfer.Options{Op: fillOp, Owner: os.Geteuid() == 0, Root: true, Warn: f.bar.warnf, Progress: f.bar,
		Strict: f.opts.strict, AllowTruncated: f.opts.truncated}
	if in != nil {
		f.stats, err = transfer.FromTar(ctx, t, ".", in, opts)
	} else {
		f.stats, err = transfer.Copy(ctx, t, ".", o.tree, o.path, opts)
	}
	if f.fit {
		f.size = v.Info().Capacity
	}
	return err
}

// openNewVolume opens the new volume, with room for n.
func (f *filling) openNewVolume(ctx context.Context, v *vole.Volume, n transfer.Need) (transfer.Tree, io.Closer, error) {
	if !f.fit {
		fsys, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		return transfer.Volume(fsys), fsys, err
	}
	g, err := transfer.OpenGrowing(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	if err := g.Reserve(ctx, n); err != nil {
		f.size = v.Info().Capacity
		return nil, nil, errors.Join(err, g.Close())
	}
	return g, g, nil
}
