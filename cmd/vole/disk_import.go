package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/sparse"
	"github.com/volehq/vole/transfer"
)

func newDiskImportCmd(a *app) *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use:   "import {IMAGE|-} NAME",
		Short: "Make a disk volume of an image",
		Long: `Make a disk volume whose content is that of a file, or a stream when it is "-", which
holds ext4: plain, or compressed with gzip, bzip2 or zstd. Holes, and blocks of zeros of
a stream, take no storage. The copy is checked; when it is damaged, or anything else
fails, there is no volume. The volume is as large as the image, a compressed one as its
file system.`,
		Example: `  vole disk import rootfs.ext4 rootfs
  vole disk import debian.ext4.zst debian -l os=debian
  curl -s https://example.org/rootfs.ext4.gz | vole disk import - rootfs`,
		Args:              exactArgs(2, "the image, and the volume's name"),
		ValidArgsFunction: completeImage(cobra.NoFileCompletions),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := parseLabels(labels)
			if err != nil {
				return err
			}
			return a.diskImport(cmd.Context(), args[0], args[1], l)
		},
	}
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "label `KEY=VALUE`; may be given several times")
	noFlagFiles(cmd, "label")
	return cmd
}

// imageInput is an image that is read once.
type imageInput struct {
	name string
	c    sparse.Content // what it holds
	size vole.Size      // of the volume to make
}

func (a *app) diskImport(ctx context.Context, image, name string, labels vole.Labels) error {
	if err := a.needsHome("disk import", "the image is copied to its place on this host"); err != nil {
		return err
	}
	in, err := a.openInput(ctx, image)
	if err != nil {
		return imageError("import", image, err)
	}
	defer in.c.Close()
	bar := a.newProgress()
	return a.withNewStore(ctx, func(s *vole.Store) error {
		var stats transfer.Stats
		v, err := s.Build(ctx, name, vole.Spec{Kind: vole.KindDisk, Capacity: in.size, Labels: labels}, func(v *vole.Volume) error {
			return in.into(ctx, v, countedImage{in.c, &stats, bar})
		})
		stats.Files = 1
		bar.done(err == nil, stats)
		if err != nil {
			return err
		}
		info, err := v.Refresh(ctx)
		if err != nil {
			return err
		}
		return a.printVolume(info)
	})
}

// openInput opens an image, plain or compressed, and finds out how large it is.
func (a *app) openInput(ctx context.Context, name string) (*imageInput, error) {
	if name == "-" {
		in := input(ctx, a.stdin)
		return streamInput(name, in, in)
	}
	f, err := openImage("import", name, false)
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, 4), magic); err == nil && transfer.Compressed(magic) {
		return streamInput(name, f, f)
	}
	d, err := ext4.Describe(f, 0)
	if err == nil {
		var st os.FileInfo
		if st, err = f.Stat(); err == nil {
			size := max(vole.Size(d.Size), vole.Size(st.Size()), ext4.MinSize)
			return &imageInput{name, sparse.File(ctx, f), size}, nil
		}
	}
	f.Close()
	return nil, err
}

// imageStream is what a stream holds, that blocks of zeros are left out of.
type imageStream struct {
	sparse.Content
	io.Closer
}

func (c imageStream) Close() error { return c.Closer.Close() }

func streamInput(name string, r io.Reader, close io.Closer) (*imageInput, error) {
	r, err := transfer.Decompress(r)
	if err != nil {
		close.Close()
		return nil, err
	}
	b := bufio.NewReaderSize(r, copyBuf)
	head, err := b.Peek(8 << 10) // the superblock is within
	if err != nil && !errors.Is(err, io.EOF) {
		close.Close()
		return nil, err
	}
	d, err := ext4.Describe(headDevice{bytes.NewReader(head)}, 0)
	if err != nil {
		close.Close()
		return nil, err
	}
	return &imageInput{name, imageStream{sparse.Stream(b), close}, max(vole.Size(d.Size), ext4.MinSize)}, nil
}

// headDevice is the beginning of an image.
type headDevice struct{ io.ReaderAt }

func (headDevice) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }
func (headDevice) Sync() error                        { return nil }

// into makes the image the content of a new volume, which is checked.
func (in *imageInput) into(ctx context.Context, v *vole.Volume, c countedImage) error {
	att, err := v.Attach(ctx, vole.AttachOptions{Holder: defaultHolder("vole disk import"), HostPath: true})
	if err != nil {
		return err
	}
	err = in.copyTo(ctx, att, int64(v.Info().Capacity), c)
	return errors.Join(err, att.Detach(context.WithoutCancel(ctx)))
}

func (in *imageInput) copyTo(ctx context.Context, att *vole.Attachment, size int64, c countedImage) error {
	if att.Path() == "" {
		return driver.Errorf(vole.ErrUnsupported, "these volumes have no images on this host")
	}
	f, err := os.OpenFile(att.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// The empty file system that the volume was made with goes.
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	c.bar.total(size)
	err = sparse.Copy(ctx, c, size, func(b []byte, off int64) error {
		_, err := f.WriteAt(b, off)
		return err
	})
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = checkImage(ctx, f)
	}
	return imageError("import", in.name, err)
}
