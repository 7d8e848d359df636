package main

import (
	"github.com/spf13/cobra"
)

func newRenameCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rename NAME NEW-NAME",
		Aliases: []string{"mv"},
		Short:   "Rename a volume",
		Long: `Give a volume another name and print it. What has the volume attached keeps it: its
id and its files stay where they are.`,
		Example:           `  vole rename pip-cache old-pip-cache`,
		Args:              exactArgs(2, "the volume's name and its new one"),
		ValidArgsFunction: completeNames(a, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			return a.printVolume(s.Rename(cmd.Context(), args[0], args[1]))
		},
	}
}
