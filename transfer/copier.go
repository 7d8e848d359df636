package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sync/errgroup"
)

// copier writes items to a target by the rules of cp: directories merge, everything
// else is replaced, and neither takes the place of the other.
type copier struct {
	to           target
	opts         *Options
	stats        Stats
	writtenAt    map[fileID]string // first path of each file with several names
	heldNames    heldNames
	pendingDirs  []pendingDir      // made so far, metadata still to be set
	pendingIndex map[string]int    // of a directory in pendingDirs: an archive may have it twice; nil: of no archive
	knownIDs     map[string]string // ids of users and groups that access lists name

	mu sync.Mutex // guards stats, and is held while opts is called back
}

func newCopier(dst Tree, opts *Options) *copier {
	opts.lost = &losses{}
	c := &copier{opts: opts, writtenAt: map[fileID]string{}}
	if warn := opts.Warn; warn != nil && opts.Parallel > 1 {
		opts.Warn = func(format string, args ...any) {
			c.mu.Lock()
			defer c.mu.Unlock()
			warn(format, args...)
		}
	}
	c.to = dst.newTarget(opts)
	return c
}

// finishCopy makes the copy durable, unless it failed, and returns its counts.
func (c *copier) finishCopy(ctx context.Context, err error) (Stats, error) {
	if err == nil {
		err = c.opts.reportLostSystemAttrs()
	}
	if err == nil {
		err = c.to.syncVolume(ctx)
	}
	c.stats.Lost = c.opts.lost.items.Load()
	return c.stats, err
}

// pendingDir is a directory whose metadata is set when all in it has been written:
// that changes its time, and may need more rights than its mode gives.
type pendingDir struct {
	path string
	it   item
}

// lookupName is lookupHostName, which reads a file for each name, once for each.
func (c *copier) lookupName(group bool, name string) (string, error) {
	key := "u" + name
	if group {
		key = "g" + name
	}
	id, ok := c.knownIDs[key]
	if !ok {
		id, _ = lookupHostName(group, name)
		if c.knownIDs == nil || len(c.knownIDs) == maxKnownIDs {
			c.knownIDs = map[string]string{}
		}
		c.knownIDs[key] = id
	}
	if id == "" {
		return "", fs.ErrNotExist
	}
	return id, nil
}

// maxKnownIDs bounds the names of users and groups that are kept in memory.
const maxKnownIDs = 1 << 12

// copyTree copies the file or directory at p of src to the place at of the target.
func (c *copier) copyTree(ctx context.Context, src source, p, at string, it *item) error {
	open := len(c.pendingDirs)
	if err := c.copyEntry(ctx, src, p, at, it); err != nil || !it.mode.IsDir() {
		return err
	}
	if c.opts.Plain && strings.Count(at, "/")+1 > maxPlainDepth {
		return c.wrapError(at, driver.Errorf(vole.ErrUnsupported, "deeper than %d directories", maxPlainDepth))
	}
	names, err := src.listNames(ctx, p, it)
	if c.opts.isUnreadable(err) {
		err = nil
	}
	if err == nil {
		err = c.heldNames.acquire(names)
	}
	if err != nil {
		return err
	}
	defer c.heldNames.release(names)
	for batch := range slices.Chunk(names, dirBatch) {
		if err := c.copyChildren(ctx, src, p, at, batch); err != nil {
			return err
		}
	}
	return c.setDirectoryMetadata(ctx, open)
}

// copyChildren copies some entries of the directory p of src to the directory at.
func (c *copier) copyChildren(ctx context.Context, src source, p, at string, names []string) error {
	if c.opts.Parallel > 1 {
		return c.copyChildrenParallel(ctx, src, p, at, names)
	}
	for _, n := range names {
		child, err := src.lstat(ctx, path.Join(p, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return err
		}
		if err := c.copyTree(ctx, src, path.Join(p, n), path.Join(at, n), &child); err != nil {
			return err
		}
	}
	return nil
}

// copyChildrenParallel is copyChildren, several files at once. Directories, and files with
// several names, come after them, one by one: they change the copier's maps, which no lock
// guards.
func (c *copier) copyChildrenParallel(ctx context.Context, src source, p, at string, names []string) error {
	items := make([]*item, len(names))
	err := c.forEachParallel(ctx, names, func(ctx context.Context, i int) error {
		it, err := src.lstat(ctx, path.Join(p, names[i]))
		if err == nil {
			items[i] = &it
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // removed since it was listed
		}
		return err
	})
	if err != nil {
		return err
	}
	alone := func(it *item) bool { return it.mode.IsRegular() && it.nlink == 1 }
	err = c.forEachParallel(ctx, names, func(ctx context.Context, i int) error {
		if items[i] == nil || !alone(items[i]) {
			return nil
		}
		return c.copyEntry(ctx, src, path.Join(p, names[i]), path.Join(at, names[i]), items[i])
	})
	for i, it := range items {
		if err == nil && it != nil && !alone(it) {
			err = c.copyTree(ctx, src, path.Join(p, names[i]), path.Join(at, names[i]), it)
		}
	}
	return err
}

// forEachParallel calls fn for the index of every name, several at once, until one fails.
func (c *copier) forEachParallel(ctx context.Context, names []string, fn func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opts.Parallel)
	for i := range names {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(ctx, i)
		})
	}
	return g.Wait()
}

// copyEntry copies the entry p itself, nothing beneath it.
func (c *copier) copyEntry(ctx context.Context, src source, p, at string, it *item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	named := it.nlink > 1 && !it.mode.IsDir() && it.mode.Type() != fs.ModeSocket
	if first, ok := c.writtenAt[it.id]; ok && named {
		return c.copyHardLink(ctx, first, at)
	}
	err := c.writeEntry(ctx, src, p, at, it)
	if errors.Is(err, errLeftOut) {
		return nil
	}
	if err != nil {
		return err
	}
	if named {
		c.writtenAt[it.id] = at
	}
	return nil
}

// errLeftOut is the outcome of an entry that is not copied, and is no failure.
var errLeftOut = errors.New("left out")

func (c *copier) writeEntry(ctx context.Context, src source, p, at string, it *item) error {
	if !it.mode.IsRegular() {
		return c.writeSpecial(ctx, at, it)
	}
	r, err := src.openFile(ctx, p, it.size)
	if c.opts.isUnreadable(err) {
		return errLeftOut
	}
	if err != nil {
		return err
	}
	return errors.Join(c.writeFile(ctx, at, it, r), r.Close())
}

// writeFile writes a regular file.
func (c *copier) writeFile(ctx context.Context, at string, it *item, r sparse.Content) error {
	if err := c.reserveRoom(ctx, needOfItem(path.Base(at), it)); err != nil {
		return err
	}
	err := c.to.writeFile(ctx, at, it, &counted{r, c})
	if errors.Is(err, vole.ErrIsDir) {
		return c.refuseReplacing(at, "a directory is there, which a file does not replace")
	}
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stats.Files++
		c.opts.reportFile(at)
	}
	return err
}

// refuseReplacing is the error for an entry that the copy would have to replace, and must not.
func (c *copier) refuseReplacing(at, why string) error {
	return c.wrapError(at, driver.Errorf(vole.ErrExists, "%s", why))
}

func (c *copier) wrapError(at string, err error) error {
	return fmt.Errorf("%s: %s: %w", c.opts.opName(), c.to.displayPath(at), err)
}

// writeSpecial writes anything but a regular file.
func (c *copier) writeSpecial(ctx context.Context, at string, it *item) error {
	if kind := it.mode.Type(); c.opts.Plain && kind != fs.ModeDir && kind != fs.ModeSymlink {
		c.stats.Skipped++
		return nil
	}
	switch it.mode.Type() {
	case fs.ModeDir:
		return c.makeDirectory(ctx, at, it)
	case fs.ModeSymlink:
		c.stats.Links++
		return c.placeEntry(ctx, at, it, func(p string) error { return c.to.makeSymlink(ctx, it.target, p) })
	case fs.ModeSocket:
		c.stats.Skipped++
		c.opts.warnf("%s: sockets are not copied", c.to.displayPath(at))
		return nil
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if !c.opts.Owner && c.opts.LoseDevices != nil {
			return c.leaveOutNode(at, it, c.opts.LoseDevices)
		}
		if !c.opts.Owner {
			if c.opts.Strict {
				return c.wrapError(at, driver.Errorf(vole.ErrUnsupported, "only root makes devices"))
			}
			c.stats.Skipped++
			c.opts.warnf("%s: only root makes devices; it is left out", c.to.displayPath(at))
			return nil
		}
	case fs.ModeNamedPipe:
	default:
		return c.wrapError(at, driver.Errorf(vole.ErrUnsupported, "a file of unknown type"))
	}
	err := c.placeEntry(ctx, at, it, func(p string) error { return c.to.makeNode(ctx, p, it.mode, it.rdev) })
	if errors.Is(err, vole.ErrUnsupported) {
		return c.leaveOutNode(at, it, err)
	}
	if err == nil {
		c.stats.Others++
	}
	return err
}

// leaveOutNode leaves out a device or fifo, for the given reason.
func (c *copier) leaveOutNode(at string, it *item, reason error) error {
	c.stats.Skipped++
	return c.opts.leaveOut(c.to.displayPath(at), "the "+filemode.TypeName(it.mode), reason)
}

// maxPlainDepth is how many directories may lie within one another for Options.Plain.
const maxPlainDepth = 255

// maxPendingDirs is how many directories of an archive wait for their metadata.
const maxPendingDirs = 1 << 18

// makeDirectory makes a directory, or merges into an existing one.
func (c *copier) makeDirectory(ctx context.Context, at string, it *item) error {
	err := fs.ErrExist
	if at != "." {
		if err := c.reserveRoom(ctx, smallNeed); err != nil {
			return err
		}
		// The owner can write until the metadata is set.
		err = c.to.makeDirectory(ctx, at, it.mode.Perm()|0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		cur, lerr := c.to.lstat(ctx, at)
		if lerr != nil {
			return lerr
		}
		if !cur.mode.IsDir() {
			return c.refuseReplacing(at, "a "+filemode.TypeName(cur.mode)+" is there, which a directory does not replace")
		}
		if err = nil; !c.opts.Owner {
			c.stats.Directories++
			return nil // an existing directory keeps its own metadata
		}
	}
	if err != nil {
		return err
	}
	c.stats.Directories++
	pending := pendingDir{at, *it}
	if len(it.xattrs)+len(it.system) > 0 {
		// Attributes may be large, and an archive have more directories than memory.
		if err := c.to.setXattrs(ctx, at, it); err != nil {
			return err
		}
		pending.it.xattrs, pending.it.system = nil, nil
	}
	if i, ok := c.pendingIndex[at]; ok {
		c.pendingDirs[i] = pending
		return nil
	}
	if c.pendingIndex != nil {
		// A small archive may have millions of them.
		if len(c.pendingDirs) == maxPendingDirs {
			clear(c.pendingIndex)
			if err := c.setDirectoryMetadata(ctx, 0); err != nil {
				return err
			}
		}
		c.pendingIndex[at] = len(c.pendingDirs)
	}
	c.pendingDirs = append(c.pendingDirs, pending)
	return nil
}

// placeEntry makes something that is no regular file by make, in the place of anything but
// a directory, and sets its metadata.
func (c *copier) placeEntry(ctx context.Context, at string, it *item, make func(p string) error) error {
	err := c.reserveRoom(ctx, smallNeed)
	if err == nil {
		err = make(at)
	}
	if err == nil {
		return c.to.setMetadata(ctx, at, it)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, host := c.to.(*hostTree); host && isSpecialNode(it.mode) {
		// Somebody may have the node open: an equal one stays, and nothing else takes its place.
		if cur, err := c.to.lstat(ctx, at); err == nil && cur.mode.Type() == it.mode.Type() && cur.rdev == it.rdev {
			return c.to.setMetadata(ctx, at, it)
		}
	}
	return c.replaceEntry(ctx, at, func(tmp string) error {
		if err := make(tmp); err != nil {
			return err
		}
		return c.to.setMetadata(ctx, tmp, it)
	})
}

// replaceEntry has make make something under a temporary name, and renames it over at.
func (c *copier) replaceEntry(ctx context.Context, at string, make func(tmp string) error) error {
	cur, err := c.to.lstat(ctx, at)
	if err != nil {
		return err
	}
	if cur.mode.IsDir() {
		return c.refuseReplacing(at, "a directory is there, which a file does not replace")
	}
	tmp := temporaryName(at)
	err = make(tmp)
	if err == nil {
		err = c.to.rename(ctx, tmp, at)
	}
	// rename(2) of one name of a file onto another does nothing and leaves both.
	if rerr := c.to.remove(context.WithoutCancel(ctx), tmp); err == nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = rerr
	}
	return err
}

// copyHardLink makes at another name of the file that was written at first.
func (c *copier) copyHardLink(ctx context.Context, first, at string) error {
	if path.Clean(first) == path.Clean(at) {
		return nil
	}
	err := c.reserveRoom(ctx, smallNeed)
	if err == nil {
		err = c.to.makeHardLink(ctx, first, at)
	}
	if errors.Is(err, fs.ErrExist) {
		err = c.replaceEntry(ctx, at, func(tmp string) error { return c.to.makeHardLink(ctx, first, tmp) })
	}
	if err == nil {
		c.stats.Links++
	}
	return err
}

// setDirectoryMetadata sets the metadata of the directories made since there were n, deepest first.
func (c *copier) setDirectoryMetadata(ctx context.Context, n int) error {
	for i := len(c.pendingDirs) - 1; i >= n; i-- {
		if err := c.to.setMetadata(ctx, c.pendingDirs[i].path, &c.pendingDirs[i].it); err != nil {
			return err
		}
	}
	c.pendingDirs = c.pendingDirs[:n]
	return nil
}

// counted counts the bytes that are read.
type counted struct {
	sparse.Content
	c *copier
}

func (r *counted) Read(p []byte) (int, error) {
	n, err := r.Content.Read(p)
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.stats.Bytes += int64(n)
	r.c.opts.reportRead(n)
	return n, err
}
