package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsRmCmd(a *app) *cobra.Command {
	var recursive, force bool
	cmd := &cobra.Command{
		Use:   "rm NAME:/path...",
		Short: "Remove files, links and directories",
		Long:  `Remove files, links (never what they lead to) and empty directories; trees with -r.`,
		Example: `  vole fs rm pip-cache:/greeting
  vole fs rm -r pip-cache:/wheels`,
		Args:              minArgs(1, "NAME:/path"),
		ValidArgsFunction: completePaths(a, 0, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.forEachFile(ctx, args, vole.FSOptions{}, true, func(f *vole.FS, p string) error {
				return removeInVolume(ctx, f, p, recursive, force)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove directories with their content, too")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "ignore missing files")
	return cmd
}

// removeInVolume removes what is at p; with force, nothing need be there.
func removeInVolume(ctx context.Context, f *vole.FS, p string, recursive, force bool) error {
	if recursive {
		// RemoveAll succeeds when nothing exists; without -f that is an error.
		if !force {
			if _, err := f.Lstat(ctx, p); err != nil {
				return err
			}
		}
		return f.RemoveAll(ctx, p)
	}
	err := f.Remove(ctx, p)
	if force && errors.Is(err, vole.ErrNotExist) {
		return nil
	}
	return withHint(err, vole.ErrNotEmpty, "-r removes a directory and what is in it")
}
