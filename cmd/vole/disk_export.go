package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/sparse"
	"github.com/volehq/vole/transfer"
)

func newDiskExportCmd(a *app) *cobra.Command {
	var compress bool
	cmd := &cobra.Command{
		Use:   "export NAME {FILE|-}",
		Short: "Write the image of a disk volume to a file",
		Long: `Write the image of a disk volume to a file, or to standard output when it is "-". The
file is as sparse as the image; it appears only when it is complete, and replaces an
existing file. A link is followed; a block device, which must be large enough and not
mounted, or a fifo is written to directly. During the export others may read the volume,
but not write to it. The exported file system is sound: a journal that a crash left
unfinished is replayed first.`,
		Example: `  vole disk export rootfs rootfs.ext4
  vole disk export rootfs rootfs.ext4.zst --zstd
  vole disk export rootfs - --zstd | ssh host vole disk import - rootfs`,
		Args:              exactArgs(2, "the volume's name, and the file"),
		ValidArgsFunction: completeInTurn(completeNames(a, 1), completeFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exportDisk(cmd.Context(), args[0], args[1], compress)
		},
	}
	cmd.Flags().BoolVar(&compress, "zstd", false, "compress with zstd")
	return cmd
}

// exportDisk writes the image of a disk volume, which it attaches for reading until it is done.
func (a *app) exportDisk(ctx context.Context, name, to string, compress bool) (err error) {
	if to == "-" && isTerminal(a.stdout) {
		return usageErrorf("disk export: an image is not for a terminal; send standard output elsewhere")
	}
	if err := a.needsHome("disk export", "the image is read at its place on this host"); err != nil {
		return err
	}
	v, err := a.openVolume(ctx, name)
	if err != nil {
		return err
	}
	if v.Info().Kind != vole.KindDisk {
		return &hinted{&vole.Error{Op: "disk export", Volume: name, Err: driver.Errorf(vole.ErrInvalid, "it is a dir volume, which has no image")},
			"'vole cp " + name + ":/ -' writes a tar stream"}
	}
	att, err := attachCleanDisk(ctx, v, vole.AttachOptions{Holder: defaultHolder("vole disk export"), HostPath: true, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, att.Detach(context.WithoutCancel(ctx))) }()
	if att.Path() == "" {
		return &vole.Error{Op: "disk export", Volume: name, Err: driver.Errorf(vole.ErrUnsupported, "these volumes have no images on this host")}
	}
	silent := a.isOutput(to)
	size, err := a.exportImage(ctx, att.Path(), to, compress)
	if err != nil || silent {
		return err
	}
	return a.printImage(sizeJSON{Volume: v.Name(), File: to, Size: size})
}

// attachCleanDisk attaches a disk volume for reading only. A log that a crash left is
// replayed before: by opening the volume's files for writing, which needs the volume to itself, so
// it detaches in between and looks again. It replays once; what is dirty then is in use.
func attachCleanDisk(ctx context.Context, v *vole.Volume, opts vole.AttachOptions) (*vole.Attachment, error) {
	for replayed := false; ; replayed = true {
		att, err := v.Attach(ctx, opts)
		if err != nil || replayed || !needsReplay(att.Path()) {
			return att, err
		}
		if err := att.Detach(ctx); err != nil {
			return nil, err
		}
		f, err := v.FS(ctx)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// needsReplay reports whether an image has a log that was not replayed after a crash.
func needsReplay(image string) bool {
	f, err := os.Open(image)
	if err != nil {
		return false
	}
	defer f.Close()
	d, err := ext4.Describe(f, 0)
	return err == nil && d.Dirty
}

// exportImage writes an image, and shows how far it is.
func (a *app) exportImage(ctx context.Context, image, to string, compress bool) (size vole.Size, err error) {
	src, err := os.Open(image)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return 0, err
	}
	bar, stats := a.newProgress(), transfer.Stats{Files: 1}
	defer func() { bar.finishBar(err == nil, stats) }()
	bar.setTotal(st.Size())
	c := countedImage{sparse.File(ctx, src), &stats, bar}
	if to == "-" {
		return vole.Size(st.Size()), writeImage(ctx, c, st.Size(), a.payload, compress)
	}
	err = a.exportToFile(ctx, to, c, st.Size(), compress)
	return vole.Size(st.Size()), asHostError("disk export", to, err)
}

// exportToFile writes an image to a new file that takes the name to, or into the device or fifo
// that has it. The new file is temporary until it is whole and synced: others see the old file or
// the new one, and a command that was killed leaves the old one.
func (a *app) exportToFile(ctx context.Context, to string, c sparse.Content, size int64, compress bool) error {
	target, err := a.openHostTarget(location{arg: to, path: to})
	if err != nil {
		return err
	}
	switch {
	case target.isDir:
		return vole.ErrIsDir
	case strings.HasSuffix(to, "/"):
		return driver.Errorf(vole.ErrNotExist, "no such directory")
	}
	node, err := target.openNode(ctx, target.path)
	if err != nil {
		return err
	}
	if node != nil {
		return errors.Join(exportToNode(ctx, node, c, size, compress), node.Close())
	}
	dst, err := os.CreateTemp(target.dir, ".vole-cp-*")
	if err != nil {
		return err
	}
	defer os.Remove(dst.Name()) // unless it has its name
	defer dst.Close()
	if compress {
		err = writeImage(ctx, c, size, dst, true)
	} else {
		err = sparse.CopyToFile(ctx, c, size, dst)
	}
	if err == nil {
		err = errors.Join(dst.Sync(), dst.Close(), os.Rename(dst.Name(), filepath.Join(target.dir, target.path)))
	}
	return err
}

// exportToNode writes an image into a device or fifo from its beginning to its end: what a
// device held before shows in no hole.
func exportToNode(ctx context.Context, node *os.File, c sparse.Content, size int64, compress bool) error {
	info, err := node.Stat()
	if err != nil {
		return err
	}
	if !compress && isBlockDevice(info.Mode()) {
		have, err := node.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = node.Seek(0, io.SeekStart)
		}
		if err != nil {
			return err
		}
		if have < size {
			return driver.Errorf(vole.ErrNoSpace, "the device has %d bytes, the image %d", have, size)
		}
	}
	return transfer.NodeWrite(ctx, node, func() error { return writeImage(ctx, c, size, node, compress) })
}

// asHostError is transfer.HostError for an error that may be none of the host.
func asHostError(op, p string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return transfer.HostError(op, p, err)
}

// countedImage is the content of an image that is counted as it is read.
type countedImage struct {
	sparse.Content
	stats *transfer.Stats
	bar   *progress
}

// NextData counts the hole before the next range as done.
func (c countedImage) NextData(ctx context.Context) (off, n int64, err error) {
	off, n, err = c.Content.NextData(ctx)
	if err == nil {
		c.bar.setPosition(off)
	}
	return off, n, err
}

// Read counts what it reads of the image.
func (c countedImage) Read(p []byte) (int, error) {
	n, err := c.Content.Read(p)
	c.stats.Bytes += int64(n)
	c.bar.Add(n)
	c.bar.advance(n)
	return n, err
}

var zeros [64 << 10]byte

// writeImage writes an image from its beginning to its end.
func writeImage(ctx context.Context, c sparse.Content, size int64, w io.Writer, compress bool) error {
	if compress {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		return errors.Join(writeImage(ctx, c, size, z, false), z.Close())
	}
	at := int64(0)
	pad := func(to int64) error {
		for at < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := w.Write(zeros[:min(to-at, int64(len(zeros)))])
			at += int64(n)
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := sparse.Copy(ctx, c, size, func(b []byte, off int64) error {
		if err := pad(off); err != nil {
			return err
		}
		n, err := w.Write(b)
		at += int64(n)
		return err
	})
	if err != nil {
		return err
	}
	return pad(size)
}
