package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/profile"
)

func newProfileAddCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME --home DIR",
		Short: "Make a profile of a local home",
		Long: `Make a profile of a local home other than the default one. The home itself is made by
'vole create'. 'vole login' makes profiles of servers.`,
		Example: `  vole profile add scratch --home /mnt/scratch/vole
  vole --profile scratch create tmp`,
		Args: exactArgs(1, "a name for the profile, and --home"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.home == "" || a.profile != "" {
				return &hinted{usageErrorf("profile add: give --home, and not --profile"), "'vole login' makes a profile of a server"}
			}
			if err := profile.CheckName(args[0]); err != nil {
				return err
			}
			home, err := filepath.Abs(a.home)
			if err != nil {
				return err
			}
			err = changeProfiles(cmd.Context(), func(f *profile.File) error {
				if f.Has(args[0]) {
					return driver.Errorf(vole.ErrExists, "profile add: there is a profile %s", args[0])
				}
				f.Profiles[args[0]] = profile.Profile{Home: home}
				return nil
			})
			if err != nil {
				return err
			}
			return a.printName(args[0])
		},
	}
}
