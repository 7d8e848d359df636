package main

import (
	"context"
	"io/fs"
	"path"
	"strings"

	"github.com/volehq/vole"
)

// A disk volume that is to be as large as what it holds begins with an estimate, and
// grows before what comes next would no longer fit. Of a tar stream nobody knows the
// end, but each entry says how large it is before it comes.

const (
	fsBlock    = 4096           // bytes of a block of a file system in an image
	leastDisk  = 16 * vole.MiB  // with a log; what is not used takes nothing
	streamDisk = 128 * vole.MiB // to begin with, when nobody knows: a whole group of inodes
	spareRoom  = 64 * vole.KiB  // that stays free: for the log's and the directories' own needs
	spareIno   = 16             // inodes that stay free
)

// need is how much a copy takes of a file system.
type need struct {
	bytes  int64 // of its blocks
	inodes int64
	data   int64 // that are copied
}

func (n *need) add(m need) {
	n.bytes += m.bytes
	n.inodes += m.inodes
	n.data += m.data
}

// needOfItem is how much one file, directory or link takes, on the safe side.
func needOfItem(name string, it *item) need {
	n := need{inodes: 1, bytes: int64(16+len(name)) * 2} // its name, in directories that are not full
	switch {
	case it.mode.IsRegular():
		n.data = it.size
		if it.sparse && it.stored > 0 {
			n.data = min(it.size, it.stored)
		}
		n.bytes += (n.data+fsBlock-1)/fsBlock*fsBlock + n.data>>8 // and where they are
	case it.mode.IsDir(), len(it.target) >= 60: // shorter ones lie in the inode
		n.bytes += fsBlock
	}
	for k, v := range it.xattrs {
		if len(k)+len(v) > 40 {
			n.bytes += fsBlock
			break
		}
	}
	return n
}

// needOf is how much what is at p of src, and beneath it, takes.
func needOf(ctx context.Context, src source, p string, it *item) (need, error) {
	seen := map[fileID]bool{}
	var walk func(p string, it *item) (need, error)
	walk = func(p string, it *item) (need, error) {
		if it.nlink > 1 && !it.mode.IsDir() {
			if seen[it.id] {
				return need{}, nil
			}
			seen[it.id] = true
		}
		sum := needOfItem(path.Base(p), it)
		if !it.mode.IsDir() {
			return sum, ctx.Err()
		}
		names, err := src.names(ctx, p)
		for _, name := range names {
			child, lerr := src.lstat(ctx, path.Join(p, name))
			if lerr != nil {
				continue // the copy will say why
			}
			n, err := walk(path.Join(p, name), &child)
			if err != nil {
				return sum, err
			}
			sum.add(n)
		}
		return sum, err
	}
	return walk(p, it)
}

// roomyTarget is a disk volume that grows as it is written to.
type roomyTarget struct {
	*volumeTarget
	free, inodes int64 // that are left at least, but for what is spared
}

// provide makes sure that n fits.
func (t *roomyTarget) provide(ctx context.Context, n need) error {
	for {
		if t.free >= n.bytes && t.inodes >= n.inodes {
			t.free -= n.bytes
			t.inodes -= n.inodes
			return nil
		}
		st, err := t.f.Statfs(ctx)
		if err != nil {
			return err
		}
		t.free, t.inodes = st.Free-int64(spareRoom), st.Files-spareIno
		if t.free >= n.bytes && t.inodes >= n.inodes {
			continue
		}
		if err := t.grow(ctx, st, n); err != nil {
			return err
		}
	}
}

// grow makes the volume larger: by what is missing, but by an eighth at least, so that
// it does not happen at every turn.
func (t *roomyTarget) grow(ctx context.Context, st vole.Statfs, n need) error {
	v := t.f.Volume()
	have := v.Info().Capacity
	more := max(have/8, vole.Size(n.bytes-t.free)*17/16+vole.MiB)
	// Inodes come with the space: at best one for each block.
	more = max(more, vole.Size(n.inodes-t.inodes)*fsBlock)
	// Growing wants the image for itself.
	if err := t.close(ctx); err != nil {
		return err
	}
	if err := v.Update(ctx, vole.Update{Capacity: have + more}); err != nil {
		return err
	}
	f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
	if err == nil {
		t.f = f
	}
	return err
}

func (t *roomyTarget) file(ctx context.Context, p string, it *item, c content) error {
	if err := t.provide(ctx, needOfItem(path.Base(p), it)); err != nil {
		return err
	}
	return t.volumeTarget.file(ctx, p, it, c)
}

// small makes sure that something fits that takes no more than a few blocks.
func (t *roomyTarget) small(ctx context.Context) error {
	return t.provide(ctx, need{bytes: 4 * fsBlock, inodes: 1})
}

func (t *roomyTarget) mkdir(ctx context.Context, p string, perm fs.FileMode) error {
	if err := t.small(ctx); err != nil {
		return err
	}
	return t.volumeTarget.mkdir(ctx, p, perm)
}

func (t *roomyTarget) mkdirAll(ctx context.Context, p string) error {
	depth := int64(strings.Count(p, "/") + 1)
	if err := t.provide(ctx, need{bytes: depth * 2 * fsBlock, inodes: depth}); err != nil {
		return err
	}
	return t.volumeTarget.mkdirAll(ctx, p)
}

func (t *roomyTarget) symlink(ctx context.Context, to, p string) error {
	if err := t.small(ctx); err != nil {
		return err
	}
	return t.volumeTarget.symlink(ctx, to, p)
}

func (t *roomyTarget) link(ctx context.Context, old, p string) error {
	if err := t.small(ctx); err != nil {
		return err
	}
	return t.volumeTarget.link(ctx, old, p)
}

func (t *roomyTarget) mknod(ctx context.Context, p string, mode fs.FileMode, rdev uint64) error {
	if err := t.small(ctx); err != nil {
		return err
	}
	return t.volumeTarget.mknod(ctx, p, mode, rdev)
}
