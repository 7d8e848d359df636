package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsMvCmd(a *app) *cobra.Command {
	var noClobber bool
	cmd := &cobra.Command{
		Use:   "mv NAME:/from NAME:/to",
		Short: "Move or rename within a volume",
		Long: `Move a file or a directory within a volume, in one step. Into an existing directory it
moves under its own name; an existing file is replaced.`,
		Example: `  vole fs mv pip-cache:/new.txt pip-cache:/old.txt
  vole fs mv pip-cache:/old.txt pip-cache:/archive/`,
		Args:              exactArgs(2, "NAME:/from and NAME:/to"),
		ValidArgsFunction: completePaths(a, 2, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, from, err := parseFilePath(args[0])
			if err != nil {
				return err
			}
			toName, to, err := parseFilePath(args[1])
			if err != nil {
				return err
			}
			if toName != name {
				return &hinted{usageErrorf("mv: %s and %s are different volumes", name, toName), "'vole cp' copies between volumes"}
			}
			ctx := cmd.Context()
			f, err := a.openFS(ctx, name, vole.FSOptions{})
			if err != nil {
				return err
			}
			if e, err := f.Stat(ctx, to); err == nil && e.IsDir() {
				to = joinPath(to, baseName(from))
			} else if err == nil && asksForDir(to) {
				return &vole.Error{Op: "mv", Volume: name, Path: to, Err: vole.ErrNotDir}
			}
			return f.Rename(ctx, from, to, vole.RenameOptions{NoReplace: noClobber})
		},
	}
	cmd.Flags().BoolVarP(&noClobber, "no-clobber", "n", false, "fail if the target exists")
	return cmd
}
