package main

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/transfer"
)

func newCpCmd(a *app) *cobra.Command {
	c := &cpCmd{app: a}
	cmd := &cobra.Command{
		Use:   "cp {SRC|-} {DST|-}",
		Short: "Copy files between the host and volumes, or between volumes",
		Long: `Copy files and directories between the host and a volume, or between volumes. A path in a
volume is written NAME:/path; a path of the host that contains a colon is written ./x:y.

It works as 'docker cp' does:
  - A file becomes DST, or goes into DST under its own name when that is a directory.
  - A directory becomes DST when that does not exist, and goes into it when it does.
    SRC/. copies the content of the directory instead. Directories merge; a directory and
    something else never replace each other.
  - The directory that contains DST must exist; DST/ must be a directory.
  - If DST is a device or fifo, the bytes of the file SRC are written into it. No device
    or fifo is ever replaced.
  - Links are copied as links. -L follows SRC if it is one.
  - "-" as SRC reads a tar stream (plain, gzip, bzip2, zstd, xz or lz4) and unpacks it
    into the directory DST; as DST it writes one to standard output.

Modes, times, extended attributes of users, holes, and hard links between copied files are
kept. The files belong to the user who copies, unless -a keeps owners (and with them
setuid and setgid bits, devices and, in disk volumes, capabilities and access lists).
Anything that the target cannot store causes a warning, and the exit code is 8 when all
else is copied. Each file appears whole or not at all.`,
		Example: `  vole cp ./wheels pip-cache:/              # makes pip-cache:/wheels
  vole cp ./wheels/. pip-cache:/            # its content, without the directory
  vole cp pip-cache:/report.html .
  vole cp -a app:/ backup:/app
  vole cp app:/data - | zstd > data.tar.zst
  vole cp - app:/restored < data.tar.zst`,
		Args:              exactArgs(2, "what to copy, and where to"),
		ValidArgsFunction: completePaths(a, 2, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runCopy(cmd.Context(), parseLocation(args[0]), parseLocation(args[1]))
		},
	}
	cmd.Flags().BoolVarP(&c.owner, "archive", "a", false, "keep user and group ids, setuid and setgid bits, and devices")
	cmd.Flags().BoolVar(&c.truncated, "allow-truncated", false, "accept a tar stream that lacks its end, or is empty, as complete")
	cmd.Flags().BoolVarP(&c.follow, "follow-link", "L", false, "follow SRC if it is a link")
	return cmd
}

// cpCmd is one run of cp.
type cpCmd struct {
	*app
	owner  bool // -a
	follow bool // -L

	truncated bool // --allow-truncated
	bar       *progress
}

// runCopy checks that one side at least is in a volume, copies, and says what was copied.
func (c *cpCmd) runCopy(ctx context.Context, from, to location) error {
	switch {
	case from.stream && to.stream:
		return usageErrorf("cp: only one side can be a stream")
	case from.arg == "" || to.arg == "":
		return usageErrorf("cp: a path is empty; write . for the current directory")
	case from.volume == "" && to.volume == "":
		return &hinted{usageErrorf("cp: neither %q nor %q is in a volume", from.arg, to.arg), "write a path in a volume as NAME:/path"}
	case to.stream && isTerminal(c.stdout):
		return usageErrorf("cp: a tar stream is not for a terminal; send standard output elsewhere")
	}
	s, err := c.openStore(ctx)
	if err != nil {
		return err
	}
	c.bar = c.newProgress()
	silent := to.stream || to.volume == "" && c.isOutput(to.path)
	var stats transfer.Stats
	switch {
	case from.stream:
		stats, err = c.unpackArchive(ctx, s, &to)
	case to.stream:
		stats, err = c.packArchive(ctx, s, &from)
	default:
		stats, err = c.copyTree(ctx, s, &from, &to)
	}
	err = errors.Join(err, c.closeOpened()) // what was copied is durable only then
	c.bar.finishBar(err == nil, stats)
	if err != nil {
		return withStreamHint(err)
	}
	if c.json && !silent {
		err = c.printJSON(stats)
	}
	if stats.Lost > 0 {
		err = errors.Join(err, driver.Errorf(vole.ErrUnsupported, "cp: not everything could be kept (warnings: %d); all else is copied", stats.Lost))
	}
	return err
}

// withStreamHint adds what to do about a stream that lacks the end of an archive, or is none.
func withStreamHint(err error) error {
	err = withHint(err, transfer.ErrNoArchive, "'vole disk import IMAGE NAME' takes an image of a file system")
	return withHint(err, transfer.ErrNoEnd, "if what made it never writes an end, --allow-truncated takes it as it is")
}

// farFiles is how many files are copied at once where each call waits for a server.
const farFiles = 8

// transferOptions are the options of every copy of cp.
func (c *cpCmd) transferOptions() transfer.Options {
	return transfer.Options{
		Op: "cp", Owner: c.owner, Warn: c.bar.warnf, Progress: c.bar, AllowTruncated: c.truncated,
		LoseDevices: driver.Errorf(vole.ErrUnsupported, "devices are copied with -a only"),
	}
}

// getVolume returns the volume of one side.
func getVolume(ctx context.Context, s *vole.Store, name string) (*vole.Volume, error) {
	v, err := s.Get(ctx, name)
	return v, withHint(err, vole.ErrNotFound, "'vole create %s' makes it; a path of the host is written ./%s:...", name, name)
}

func (c *cpCmd) copyTree(ctx context.Context, s *vole.Store, from, to *location) (stats transfer.Stats, err error) {
	if err := c.openVolumeOnce(ctx, s, from, to); err != nil {
		return stats, err
	}
	o, err := c.openSource(ctx, s, from)
	if err != nil {
		return stats, err
	}
	target, err := c.openTarget(ctx, s, to)
	if o.mode&fs.ModeSymlink != 0 && (errors.Is(err, vole.ErrLoop) || err == nil && !target.isDir) {
		// A link takes the place of a link: behind it, it would replace a file by what may
		// lead back to itself.
		if err == nil {
			err = target.refuseNodeTarget(*to)
		}
		if to.asLink = true; err == nil || errors.Is(err, vole.ErrLoop) {
			target, err = c.openTarget(ctx, s, to)
		}
	}
	if err != nil {
		return stats, err
	}
	at, err := chooseTargetPath(o, target, *to)
	if err == nil {
		err = refuseCopyOntoItself(ctx, o, target, at)
	}
	if err != nil {
		return stats, err
	}
	opts := c.transferOptions()
	if o.mode.IsRegular() {
		c.bar.setTotal(o.size)
		node, err := target.openNode(ctx, at)
		if err != nil {
			return stats, err
		}
		if node != nil {
			defer func() { err = errors.Join(err, node.Close()) }()
			return transfer.CopyToNode(ctx, node, o.tree, o.path, opts)
		}
	}
	if s.Caps().Backend == "cloud" {
		opts.Parallel = farFiles
	}
	defer c.measureSource(ctx, s, o)()
	return transfer.Copy(ctx, target.tree, at, o.tree, o.path, opts)
}

// measureSource tells the bar how much there is to copy: what the volume holds, or what is found
// beside the copy. Behind a server that would take as many requests as the copy itself.
func (c *cpCmd) measureSource(ctx context.Context, s *vole.Store, o *copySource) (stop func()) {
	switch {
	case o.mode.IsRegular():
		c.bar.setTotal(o.size)
	case o.fsys != nil && o.path == ".":
		c.bar.setTotal(int64(o.fsys.Volume().Info().Used))
	case o.fsys == nil || s.Caps().Backend != "cloud":
		return c.bar.findTotalBeside(ctx, func(ctx context.Context) (int64, error) {
			n, err := transfer.NeedOf(ctx, o.tree, o.path)
			return n.Data, err
		})
	}
	return func() {}
}

// openVolumeOnce opens the files of the volume that both sides of a copy are in; of two volumes,
// and of the host, it opens nothing. A disk volume has one writer and then no readers, so what is
// read of it is read through the FS that writes.
func (c *cpCmd) openVolumeOnce(ctx context.Context, s *vole.Store, from, to *location) error {
	if from.volume == "" || to.volume == "" {
		return nil
	}
	src, err := getVolume(ctx, s, from.volume)
	if err != nil {
		return err
	}
	dst, err := getVolume(ctx, s, to.volume)
	if err != nil || src.ID() != dst.ID() {
		return err
	}
	err = c.openFiles(ctx, s, to, vole.FSOptions{Batch: true})
	from.files = to.files
	return err
}

// openFiles opens the files of the volume of one side, unless they are open. closeOpened closes them.
func (c *cpCmd) openFiles(ctx context.Context, s *vole.Store, l *location, opts vole.FSOptions) error {
	if l.files != nil {
		return nil
	}
	v, err := getVolume(ctx, s, l.volume)
	if err != nil {
		return err
	}
	f, err := v.OpenFS(ctx, opts)
	if err != nil {
		return err
	}
	l.files = f
	c.closeAtEnd(f)
	return nil
}

func (c *cpCmd) openSource(ctx context.Context, s *vole.Store, l *location) (*copySource, error) {
	if l.volume == "" {
		return c.openHostSource("cp", *l, c.follow)
	}
	if err := c.openFiles(ctx, s, l, vole.FSOptions{ReadOnly: true}); err != nil {
		return nil, err
	}
	return openVolumeSource(ctx, *l, c.follow)
}

func (c *cpCmd) openTarget(ctx context.Context, s *vole.Store, l *location) (*copyTarget, error) {
	if l.volume == "" {
		return c.openHostTarget(*l)
	}
	if err := c.openFiles(ctx, s, l, vole.FSOptions{Batch: true}); err != nil {
		return nil, err
	}
	return openVolumeTarget(ctx, *l)
}

// refuseCopyOntoItself refuses to copy a file onto itself and a directory into itself, both of
// which only happen within one volume. It compares inodes from the target up to the root, because
// hard links and paths through links have the same file under other names.
func refuseCopyOntoItself(ctx context.Context, o *copySource, target *copyTarget, at string) error {
	if o.fsys == nil || target.fsys == nil || o.fsys.Volume().ID() != target.fsys.Volume().ID() {
		return nil
	}
	display := func(p string) string { return o.fsys.Volume().Name() + ":" + absPath(p) }
	for p := at; ; p = path.Dir(p) {
		e, err := target.fsys.Lstat(ctx, p)
		if err == nil && e.Inode == o.inode {
			if o.mode.IsDir() {
				return usageErrorf("cp: %s is in %s, which cannot be copied into itself", display(at), display(o.path))
			}
			return usageErrorf("cp: %s and %s are the same file", display(o.path), display(at))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if p == "." {
			return nil
		}
	}
}

// unpackArchive reads a tar stream into a directory of a volume.
func (c *cpCmd) unpackArchive(ctx context.Context, s *vole.Store, to *location) (stats transfer.Stats, err error) {
	target, err := c.openTarget(ctx, s, to)
	if err != nil {
		return stats, err
	}
	if !target.exists || !target.isDir {
		err := &fs.PathError{Op: "cp", Path: to.displayPath(), Err: vole.ErrNotDir}
		return stats, &hinted{err, "a tar stream is unpacked into an existing directory"}
	}
	in := c.openInput(ctx, c.bar.measureSource(c.stdin))
	return transfer.FromTar(ctx, target.tree, target.path, in, c.transferOptions())
}

// packArchive writes a file or a tree of a volume to standard output as a tar stream.
func (c *cpCmd) packArchive(ctx context.Context, s *vole.Store, from *location) (stats transfer.Stats, err error) {
	o, err := c.openSource(ctx, s, from)
	if err != nil {
		return stats, err
	}
	if o.fsys == nil {
		return stats, usageErrorf("cp: %s is not in a volume; tar makes streams of the host's files", from.arg)
	}
	name := o.name
	if o.contents && o.mode.IsDir() {
		name = "."
	}
	defer c.measureSource(ctx, s, o)()
	return transfer.ToTar(ctx, c.payload, o.fsys, o.path, name, c.transferOptions())
}
