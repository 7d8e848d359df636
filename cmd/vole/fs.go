package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
)

func newFsCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fs",
		Short: "Work with the files of a volume",
		Long: `Work with the files of a volume, on every kind of volume alike. A file is named
NAME:/path; the leading slash of the path may be left out. Links are followed within
the volume, never out of it.`,
		Example: `  vole fs ls pip-cache:/wheels -l
  echo hello | vole fs put - pip-cache:/greeting
  vole fs cat pip-cache:/greeting`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runCommandGroup(cmd, args) },
	}
	cmd.AddCommand(newFsLsCmd(a), newFsCatCmd(a), newFsPutCmd(a), newFsGetCmd(a), newFsMkdirCmd(a),
		newFsMvCmd(a), newFsRmCmd(a), newFsStatCmd(a), newFsTreeCmd(a))
	return cmd
}

// withReadOnlyFS runs fn on the files of one volume, opened for reading.
func (a *app) withReadOnlyFS(ctx context.Context, name string, fn func(f *vole.FS) error) error {
	return a.withFS(ctx, name, vole.FSOptions{ReadOnly: true}, fn)
}

// withFilesByVolume groups file references by volume, in the order given, and runs fn once
// for each volume.
func (a *app) withFilesByVolume(ctx context.Context, refs []string, opts vole.FSOptions, fn func(f *vole.FS, paths []string) error) error {
	var names []string
	paths := map[string][]string{}
	for _, ref := range refs {
		name, p, err := parseFilePath(ref)
		if err != nil {
			return err
		}
		if paths[name] == nil {
			names = append(names, name)
		}
		paths[name] = append(paths[name], p)
	}
	for _, name := range names {
		err := a.withFS(ctx, name, opts, func(f *vole.FS) error { return fn(f, paths[name]) })
		if err != nil {
			return err
		}
	}
	return nil
}
