package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/sparse"
	"github.com/volehq/vole/transfer"
)

func newDiskImportCmd(a *app) *cobra.Command {
	var labels []string
	var offset string
	var partition int
	cmd := &cobra.Command{
		Use:   "import {IMAGE|-} NAME",
		Short: "Make a disk volume of an image",
		Long: `Make a disk volume whose content is that of a file, a block device, a pipe, or standard
input when it is "-", which holds ext4: plain, or compressed with gzip, bzip2, zstd, xz or
lz4. Holes, and blocks of zeros, take no storage. The copy is checked; when it is damaged or
incomplete, or anything else fails, there is no volume. A file makes a volume as large
as it is, anything else one as large as the file system in it.

Of a disk with a partition table (GPT or MBR) --partition imports the file system of one
partition. --offset says where it begins in any other image, in bytes, or with a unit:
1M; a number with 's' is one of sectors of 512 bytes.`,
		Example: `  vole disk import rootfs.ext4 rootfs
  vole disk import debian.ext4.zst debian -l os=debian
  vole disk import debian.raw debian --partition 1
  vole disk import /dev/vg0/data data
  curl -s https://example.org/rootfs.ext4.gz | vole disk import - rootfs`,
		Args:              exactArgs(2, "the image, and the volume's name"),
		ValidArgsFunction: completeInTurn(completeFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := parseLabels(labels)
			if err != nil {
				return err
			}
			where, err := parsePartitionFlags(cmd.Flags(), offset, partition)
			if err != nil {
				return err
			}
			return a.importDisk(cmd.Context(), args[0], args[1], where, l)
		},
	}
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "label `KEY=VALUE`; may be given several times")
	cmd.Flags().StringVar(&offset, "offset", "", "the file system begins `BYTES` behind the beginning of the image")
	cmd.Flags().IntVar(&partition, "partition", 0, "import partition `N` of a disk")
	noFlagFiles(cmd, "offset", "partition")
	_ = cmd.RegisterFlagCompletionFunc("label", completeLabels(a))
	return cmd
}

// parsePartitionFlags says where in an image the file system begins.
func parsePartitionFlags(flags *pflag.FlagSet, offset string, partition int) (where whereInImage, err error) {
	switch {
	case flags.Changed("offset") && flags.Changed("partition"):
		return where, usageErrorf("disk import: --offset and --partition exclude each other")
	case flags.Changed("partition") && partition < 1:
		return where, usageErrorf("disk import: --partition %d: partitions count from 1", partition)
	case !flags.Changed("offset"):
		return whereInImage{partition: partition}, nil
	}
	if sectors, ok := strings.CutSuffix(offset, "s"); ok {
		n, err := strconv.ParseUint(sectors, 10, 50)
		if err != nil {
			return where, usageErrorf("disk import: --offset %q is not a number of sectors", offset)
		}
		return whereInImage{offset: int64(n) * 512}, nil
	}
	if strings.Trim(offset, "0") == "" && offset != "" {
		return where, nil
	}
	n, err := vole.ParseSize(offset)
	if err != nil {
		return where, usageErrorf("disk import: --offset: %v", err)
	}
	return whereInImage{offset: int64(n)}, nil
}

// importDisk makes a disk volume of an image. The volume is a draft until the copy has been checked:
// a damaged one is never visible.
func (a *app) importDisk(ctx context.Context, image, name string, where whereInImage, labels vole.Labels) error {
	if err := a.needsHome("disk import", "the image is copied to its place on this host"); err != nil {
		return err
	}
	in, err := a.openImageInput(ctx, image, where)
	if err != nil {
		return err
	}
	if in.note != "" {
		a.warnf("%s: %s", image, in.note)
	}
	s, err := a.openOrMakeStore(ctx, vole.Options{})
	if err != nil {
		return err
	}
	bar := a.newProgress()
	var stats transfer.Stats
	v, err := s.Build(ctx, name, vole.Spec{Kind: vole.KindDisk, Capacity: in.size, Labels: labels}, func(v *vole.Volume) error {
		return in.importInto(ctx, v, countedImage{in.content, &stats, bar})
	})
	stats.Files = 1
	bar.finishBar(err == nil, stats)
	if err == nil {
		_, err = v.Refresh(ctx)
	}
	return a.printVolume(v, err)
}

// importInto makes the image the content of a new volume, which is checked.
func (in *imageInput) importInto(ctx context.Context, v *vole.Volume, c countedImage) error {
	att, err := v.Attach(ctx, vole.AttachOptions{Holder: defaultHolder("vole disk import"), HostPath: true})
	if err != nil {
		return err
	}
	err = in.copyToAttachment(ctx, att, int64(v.Info().Capacity), c)
	return errors.Join(err, att.Detach(context.WithoutCancel(ctx)))
}

// copyToAttachment replaces the image of an attached volume by the one that is imported, syncs it,
// checks it, and clears the mark of errors that Linux found before.
func (in *imageInput) copyToAttachment(ctx context.Context, att *vole.Attachment, size int64, c countedImage) error {
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
	c.bar.setTotal(size)
	err = sparse.Copy(ctx, c, size, func(b []byte, off int64) error {
		_, err := f.WriteAt(b, off)
		return err
	})
	for _, step := range []func() error{in.checkComplete, f.Sync, func() error { return checkImage(ctx, f) }, func() error { return ext4.ClearErrors(f, size) }} {
		if err == nil {
			err = step()
		}
	}
	if began, gerr := ext4.UnfinishedGrow(f); began && gerr == nil && err == nil {
		c.bar.warnf("%s: %s", in.name, unfinishedGrow)
	}
	return wrapImageError("import", in.name, err)
}
