package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

func newImageCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "List and remove the images that 'vole run' has fetched",
		Long: `Look after the images of registries that 'vole run --image' has fetched. The home keeps
them, at most 20 GiB, and deletes those that were not used for the longest time before more
comes. ('vole disk' is about images of ext4.)`,
		Example: `  vole image ls
  vole image rm ubuntu:24.04
  vole image rm --all`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runCommandGroup(cmd, args) },
	}
	cmd.AddCommand(newImageLsCmd(a), newImageRmCmd(a))
	return cmd
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
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := []sandbox.ImageInfo{}
			err := a.withSandboxes(cmd.Context(), func(m *sandbox.Manager) (err error) {
				list, err = m.Images(cmd.Context())
				return err
			})
			if err != nil && !errors.Is(err, errNoHome) {
				return err
			}
			return a.printImages(list)
		},
	}
	a.addBytesFlag(cmd)
	return cmd
}

func (a *app) printImages(list []sandbox.ImageInfo) error {
	switch {
	case a.json:
		return a.printJSON(list)
	case a.quiet:
		for _, i := range list {
			if err := a.printf("%s\n", a.displayValue(i.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	t := a.newTable("NAME", "SIZE", "LAST USED", "DIGEST").allowShortening("DIGEST")
	for _, i := range list {
		size := a.formatSize(i.Size)
		if i.Size == 0 {
			size = "damaged"
		}
		if err := t.addRow(a.displayValue(i.Name), size, a.formatTime(i.LastUsed), i.Digest); err != nil {
			return err
		}
	}
	return t.close()
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
			err := a.withSandboxes(cmd.Context(), func(m *sandbox.Manager) error { return a.removeImages(cmd.Context(), m, args, all) })
			if all && errors.Is(err, errNoHome) {
				return a.forEachName(cmd.Context(), nil, nil)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all images")
	return cmd
}

func (a *app) removeImages(ctx context.Context, m *sandbox.Manager, refs []string, all bool) error {
	if !all {
		return a.forEachName(ctx, refs, func(ref string) (bool, error) {
			err := m.RemoveImage(ctx, ref)
			return err == nil, withHint(err, vole.ErrNoSuch, "'vole image ls' lists the images")
		})
	}
	gone, err := m.RemoveImages(ctx)
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
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []cobra.Completion
		a.withCompletionTimeout(cmd.Context(), func(ctx context.Context, s *vole.Store) error {
			return a.withManagerOf(ctx, func(m *sandbox.Manager) error {
				list, err := m.Images(ctx)
				for _, i := range list {
					if strings.HasPrefix(i.Name, prefix) {
						names = appendCompletion(names, i.Name, "")
					}
				}
				return err
			})(s)
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
