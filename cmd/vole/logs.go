package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox"
)

func newLogsCmd(a *app) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [-f] SANDBOX",
		Short: "Print what a sandbox in the background has printed",
		Long: `Print what a sandbox of 'vole run -d' has printed, output and errors as they came.
Its newest 8 to 16 MiB are kept.`,
		Example: `  vole logs quiet-otter
  vole logs -f quiet-otter`,
		Args:              exactArgs(1, "the name of a sandbox"),
		ValidArgsFunction: completeSandboxes(a, true, 1, func(i sandbox.Info) bool { return i.Detached }),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.openSandboxes(cmd.Context())
			if err != nil {
				return err
			}
			err = m.Logs(cmd.Context(), args[0], a.payload, follow)
			return withHint(err, vole.ErrNoSuch, "'vole ps -a' lists the sandboxes")
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the sandbox has ended")
	return cmd
}
