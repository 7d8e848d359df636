package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole/internal/profile"
)

func newProfileUseCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "use NAME",
		Short: "Make a profile the current one",
		Long:  `Make a profile the current one, which commands use unless flags or the environment say otherwise.`,
		Example: `  vole profile use work
  vole profile use local    # this host's volumes again`,
		Args:              exactArgs(1, "the profile's name"),
		ValidArgsFunction: completeProfiles(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := changeProfiles(cmd.Context(), func(f *profile.File) error {
				if !f.Has(args[0]) {
					return suggestProfile(f.Unknown(args[0]), args[0])
				}
				f.Current = args[0]
				return nil
			})
			if err != nil {
				return err
			}
			a.warnOverridden(args[0])
			return a.printName(args[0])
		},
	}
}
