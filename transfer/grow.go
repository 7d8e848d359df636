package transfer

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/ext4"
)

// A disk volume that should be as large as its files begins with an estimate, and grows
// before the next entry would no longer fit. The size of a tar stream is not known, but each
// entry says how large it is before its content.

const (
	fsBlock   = 4096          // bytes of a block of a file system in an image
	spareRoom = 64 * vole.KiB // that stays free: for the log's and the directories' own needs
	spareIno  = 16            // inodes that stay free
)

// Need is how much a copy takes of the file system of a disk volume, on the safe side.
type Need struct {
	Bytes  int64 // of its blocks
	Inodes int64
	Data   int64 // bytes that are copied
}

func (n *Need) addNeed(m Need) {
	n.Bytes += m.Bytes
	n.Inodes += m.Inodes
	n.Data += m.Data
}

// needOfItem is how much one file, directory or link takes, on the safe side.
func needOfItem(name string, it *item) Need {
	need := Need{Inodes: 1, Bytes: int64(16+len(name)) * 2} // its name, in directories that are not full
	switch {
	case it.mode.IsRegular():
		need.Data = min(it.size, 2*ext4.MaxSize) // an archive may claim any: so much is refused
		if it.sparse && it.stored > 0 {
			need.Data = min(need.Data, it.stored)
		}
		need.Bytes += (need.Data+fsBlock-1)/fsBlock*fsBlock + need.Data>>8 // and where they are
	case it.mode.IsDir(), max(len(it.target), int(min(it.size, fsBlock))) >= 60: // shorter targets lie in the inode
		need.Bytes += fsBlock
	}
	attrs := 0
	for _, m := range []map[string][]byte{it.xattrs, it.system} {
		for k, v := range m {
			attrs += len(k) + len(v)
		}
	}
	if attrs > 40 { // fewer lie in the inode
		need.Bytes += fsBlock
	}
	return need
}

// NeedOf is how much the tree at p of src takes. Attributes of files of the host are not
// counted: most have none, and asking for them means opening each file.
func NeedOf(ctx context.Context, src Tree, p string) (Need, error) {
	s := src.newSource()
	defer closeSource(s)
	lstat := s.lstat
	if h, ok := s.(*hostSource); ok {
		lstat = func(_ context.Context, p string) (item, error) { return h.describeEntry(p) }
	}
	it, err := lstat(ctx, p)
	if err != nil {
		return Need{}, err
	}
	seen := map[fileID]bool{}
	held := heldNames{}
	var walk func(p string, it *item) (Need, error)
	walk = func(p string, it *item) (Need, error) {
		if it.nlink > 1 && !it.mode.IsDir() {
			if seen[it.id] {
				return Need{}, nil
			}
			seen[it.id] = true
		}
		sum := needOfItem(path.Base(p), it)
		if !it.mode.IsDir() {
			return sum, ctx.Err()
		}
		names, err := s.listNames(ctx, p, it)
		if err == nil {
			err = held.acquire(names)
		}
		if err != nil {
			return sum, err
		}
		defer held.release(names)
		for _, name := range names {
			child, lerr := lstat(ctx, path.Join(p, name))
			if errors.Is(lerr, vole.ErrCorrupt) {
				return sum, lerr
			}
			if lerr != nil {
				continue // the copy will say why
			}
			n, err := walk(path.Join(p, name), &child)
			if err != nil {
				return sum, err
			}
			sum.addNeed(n)
		}
		return sum, nil
	}
	return walk(p, &it)
}

// Growing is the files of a disk volume, as a Tree, that grows as it is written to.
type Growing struct {
	f            *vole.FS
	free, inodes int64 // lower bounds of what is left, without spareRoom and spareIno
}

// OpenGrowing opens the files of a disk volume, which must not be open elsewhere: growing
// needs the image for itself. The caller closes it.
func OpenGrowing(ctx context.Context, v *vole.Volume) (*Growing, error) {
	f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
	if err != nil {
		return nil, err
	}
	return &Growing{f: f}, nil
}

// Close closes the files.
func (g *Growing) Close() error { return g.f.Close() }

func (g *Growing) newSource() source { return newVolumeSource(g.f) }
func (g *Growing) newTarget(opts *Options) target {
	return &growingTarget{&volumeTarget{f: g.f, opts: opts}, g}
}

// Reserve makes sure that n fits, and counts it as used for what is written next.
func (g *Growing) Reserve(ctx context.Context, n Need) error {
	for !g.fits(n) {
		st, err := g.f.Statfs(ctx)
		if err != nil {
			return err
		}
		g.free, g.inodes = st.Free-int64(spareRoom), st.Files-spareIno
		if g.fits(n) {
			break
		}
		if err := g.growImage(ctx, st, n); err != nil {
			return err
		}
	}
	g.free -= n.Bytes
	g.inodes -= n.Inodes
	return nil
}

// fits reports whether what is known to be left is enough for n.
func (g *Growing) fits(n Need) bool { return g.free >= n.Bytes && g.inodes >= n.Inodes }

// growImage makes the volume larger: by the missing bytes, but by an eighth at least, so that
// it happens rarely.
func (g *Growing) growImage(ctx context.Context, st vole.Statfs, n Need) error {
	v := g.f.Volume()
	have := v.Info().Capacity
	more := max(have/8, vole.Size(n.Bytes-g.free)*17/16+vole.MiB)
	// Inodes come with the space: at best one for each block.
	more = max(more, vole.Size(n.Inodes-g.inodes)*fsBlock)
	// Growing needs the image for itself.
	if err := errors.Join(g.f.Sync(ctx), g.f.Close()); err != nil {
		return err
	}
	if err := v.Update(ctx, vole.Update{Capacity: have + more}); err != nil {
		return err
	}
	f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
	if err == nil {
		g.f = f
	}
	return err
}

// growingTarget is a Growing in one copy.
type growingTarget struct {
	*volumeTarget
	g *Growing
}

// smallNeed is how much anything takes at most that is no regular file.
var smallNeed = Need{Bytes: 4 * fsBlock, Inodes: 1}

// parentsNeed is how much the missing parents of p, and p itself, take at most as directories.
func parentsNeed(p string) Need {
	depth := int64(strings.Count(p, "/") + 1)
	return Need{Bytes: depth * 2 * fsBlock, Inodes: depth}
}

// reserveRoom makes sure that n fits into the target, if that grows with the copy.
func (c *copier) reserveRoom(ctx context.Context, n Need) error {
	t, ok := c.to.(*growingTarget)
	if !ok {
		return nil
	}
	err := t.g.Reserve(ctx, n)
	t.f = t.g.f // growing opened it again
	return err
}
