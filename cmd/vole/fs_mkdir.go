package main

import (
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/api"
)

func newFsMkdirCmd(a *app) *cobra.Command {
	var (
		parents bool
		mode    string
	)
	cmd := &cobra.Command{
		Use:   "mkdir NAME:/path...",
		Short: "Make directories",
		Example: `  vole fs mkdir pip-cache:/wheels
  vole fs mkdir -p --mode 0700 pip-cache:/a/b/c`,
		Args:              minArgs(1, "NAME:/path"),
		ValidArgsFunction: completePaths(a, 0, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			perm, err := parseMode(mode, 0o755)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return a.forEachFile(ctx, args, vole.FSOptions{}, false, func(f *vole.FS, p string) error {
				if parents {
					return f.MkdirAll(ctx, p, perm)
				}
				return withHint(f.Mkdir(ctx, p, perm), vole.ErrNotExist, "-p makes missing parents")
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make missing parents; succeed if the directory exists")
	cmd.Flags().StringVar(&mode, "mode", "", "permission bits, octal (default 0755)")
	noFlagFiles(cmd, "mode")
	return cmd
}

// parseMode parses permission bits in octal.
func parseMode(s string, def fs.FileMode) (fs.FileMode, error) {
	if s == "" {
		return def, nil
	}
	mode, err := api.ParseMode(s)
	if err != nil {
		err = usageErrorf("--mode %q: write octal permission bits, e.g. 0644", s)
	}
	return mode, err
}
