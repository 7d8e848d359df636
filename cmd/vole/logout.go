package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/profile"
)

func newLogoutCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [NAME]",
		Short: "Forget a profile and its key",
		Long: `Remove a profile, the current one when none is named, and with it the key from this host.
The server keeps accepting the key: 'vole key revoke' ends that. When the profile was
the current one, the local home is current then.`,
		Example: `  vole logout
  vole logout work`,
		Args:              rangeArgs(0, 1, ""),
		ValidArgsFunction: completeProfiles(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := argOr(args, 0, a.profile)
			if name == "" {
				f, err := profile.LoadDefault()
				if err != nil {
					return err
				}
				name = f.Current
			}
			switch name {
			case "":
				return driver.Errorf(vole.ErrNoSuch, "logout: no profile is the current one")
			case profile.Local:
				return usageErrorf("logout: the local home needs no login")
			}
			wasCurrent := false
			err := changeProfiles(cmd.Context(), func(f *profile.File) error {
				if _, ok := f.Profiles[name]; !ok {
					return f.Unknown(name)
				}
				delete(f.Profiles, name)
				if wasCurrent = f.Current == name; wasCurrent {
					f.Current = profile.Local
				}
				return nil
			})
			if err != nil {
				return err
			}
			if wasCurrent && !a.quiet {
				a.warnf("the local home is the current profile now")
			}
			return a.printName(name)
		},
	}
}

// printName prints what a command made or changed that has nothing but a name.
func (a *app) printName(name string) error {
	return a.printResult(nameJSON{name}, "%s\n", name)
}
