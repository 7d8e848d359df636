package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/ext4"
)

func newDiskGrowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "grow IMAGE SIZE",
		Short: "Enlarge an image and the file system in it",
		Long: `Enlarge a file that holds ext2, ext3 or ext4, and the file system in it. Nothing else may
use the file at that time. After a crash the file system is sound, and has the old size,
the new one or one between; the next disk grow, or the first writer of a volume made of
it, completes the operation (do not mount an image without a journal before that). For a
volume of Vole use 'vole set NAME --size SIZE'.`,
		Example:           `  vole disk grow rootfs.ext4 20G`,
		Args:              exactArgs(2, "the image, and its new size"),
		ValidArgsFunction: completeInTurn(completeFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.growImageFile(cmd.Context(), args[0], args[1])
		},
	}
}

// growImageFile makes an image and the file system in it larger; to is the new size.
func (a *app) growImageFile(ctx context.Context, name, to string) error {
	size, err := vole.ParseSize(to)
	if err != nil {
		return err
	}
	f, err := a.openImage("grow", name, true)
	if err != nil {
		return err
	}
	got, err := ext4.Grow(ctx, f, int64(size), ext4.GrowOptions{})
	if err != nil {
		return wrapImageError("grow", name, notExt4FileError(name, f, err))
	}
	return a.printImage(sizeJSON{File: name, Size: vole.Size(got)})
}
