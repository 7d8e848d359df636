package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

func newImageCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "image",
		Short: "List and remove the images that 'vole run' has fetched",
		Long: `Look after the images of registries that 'vole run --image' has fetched. The home keeps
them, at most 20 GiB, and deletes those that were not used for the longest time before more
comes. ('vole disk' is about images of ext4.)`,
		Example: `  vole image ls
  vole image rm ubuntu:24.04
  vole image rm --all`,
	}, newImageLsCmd(a), newImageRmCmd(a))
}

func newImageLsCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images that were fetched, the one used last first",
		Long: `List the images of registries that were fetched, the one used last first. SIZE is that of
the layers as they were fetched; images that have layers in common have these once on the
disk, but each counts them. An image that has "damaged" there is fetched again when it is used.`,
		Example: `  vole image ls
  vole image ls --json | jq -r 'map(.size) | add'
  vole image ls -q`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.printImages(listInHome(cmd.Context(), a, (*sandbox.Manager).Images))
		},
	}
	a.addBytesFlag(cmd)
	return cmd
}

// printImages lists images, or returns the error of finding them. One without a size has damaged layers.
func (a *app) printImages(list []sandbox.ImageInfo, err error) error {
	t := a.newTable("NAME", "SIZE", "LAST USED", "DIGEST").allowShortening("DIGEST")
	return printList(a, list, err, t, func(i sandbox.ImageInfo) string { return i.Name }, func(i sandbox.ImageInfo) []string {
		size := a.formatSize(i.Size)
		if i.Size == 0 {
			size = "damaged"
		}
		return []string{a.displayValue(i.Name), size, a.formatTime(i.LastUsed), i.Digest}
	})
}

func newImageRmCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "rm {IMAGE... | --all}",
		Aliases: []string{"remove"},
		Short:   "Remove images that were fetched",
		Long: `Remove images of registries from this host, and layers that no other image has. IMAGE is
a name as 'vole image ls' and 'vole run' take it (ubuntu is docker.io/library/ubuntu:latest),
or a digest. Sandboxes that run are not touched; 'vole run' fetches what it needs again.`,
		Example: `  vole image rm ubuntu:24.04 ghcr.io/org/tool:1.2
  vole image rm $(vole image ls -q | grep /ci/)
  vole image rm --all`,
		ValidArgsFunction: completeImages(a),
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usageErrorf("image rm: --all removes all images; name none beside it")
			case all:
				return nil
			}
			return minArgs(1, "the name of at least one image, or --all")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.removeAllImages(cmd.Context())
			}
			return a.removeImages(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all images")
	return cmd
}

// removeImages removes the named images, and prints their names.
func (a *app) removeImages(ctx context.Context, refs []string) error {
	m, err := a.openSandboxes(ctx)
	if err != nil {
		return err
	}
	return a.forEachName(ctx, refs, func(ref string) (bool, error) {
		err := m.RemoveImage(ctx, ref)
		return err == nil, withHint(err, vole.ErrNoSuch, "'vole image ls' lists the images")
	})
}

// removeAllImages removes all images, and prints their names.
func (a *app) removeAllImages(ctx context.Context) error {
	gone, err := listInHome(ctx, a, (*sandbox.Manager).RemoveImages)
	if err != nil {
		return err
	}
	var names []string
	for _, i := range gone {
		names = append(names, i.Name)
	}
	return a.forEachName(ctx, names, func(string) (bool, error) { return true, nil })
}

// completeImages completes the names of images that were fetched.
func completeImages(a *app) completer {
	return completeAmong(a, 0, func(ctx context.Context) (names []string) {
		list, _ := listInHome(ctx, a, (*sandbox.Manager).Images)
		for _, i := range list {
			names = append(names, i.Name)
		}
		return names
	})
}
