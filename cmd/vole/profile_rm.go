package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/profile"
)

func newProfileRmCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove profiles, with their keys",
		Long: `Remove profiles, and with them the keys from this host; the volumes stay, and the servers
keep accepting the keys until 'vole key revoke'. The current one is not removed, for
commands would go on somewhere else; 'vole logout' does that.`,
		Example: `  vole profile rm old-lab
  vole profile use local && vole profile rm work`,
		Args:              minArgs(1, "the name of at least one profile"),
		ValidArgsFunction: completeProfiles(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachName(cmd.Context(), args, func(name string) (bool, error) {
				err := changeProfiles(cmd.Context(), func(f *profile.File) error {
					_, ok := f.Profiles[name]
					switch {
					case name == profile.Local:
						return usageErrorf("profile rm: the local home is always there")
					case !ok:
						return f.Unknown(name)
					case f.Current == name:
						return &hinted{driver.Errorf(vole.ErrInUse, "profile rm: %s is the current profile", name), "'vole profile use' makes another one current"}
					}
					delete(f.Profiles, name)
					return nil
				})
				return err == nil, err
			})
		},
	}
}
