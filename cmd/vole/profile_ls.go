package main

import (
	"cmp"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/internal/profile"
)

func newProfileLsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the profiles",
		Long: `List the profiles. "*" marks the current one, and ">" the one that commands use, when flags
or the environment say otherwise. Keys are not shown.`,
		Example: `  vole profile ls
  vole profile ls --json | jq -r '.[] | select(.current) | .name'`,
		RunE: func(*cobra.Command, []string) error {
			f, err := profile.LoadDefault()
			if err != nil {
				return err
			}
			return a.listProfiles(f)
		},
	}
}

// listProfiles lists all profiles, the local home first. It does so also when flags or the
// environment name none that can be used.
func (a *app) listProfiles(f profile.File) error {
	used, err := a.profileInEffect()
	if err != nil {
		a.warnf("no profile is in effect: %v", err)
	}
	list := []profileJSON{}
	for _, name := range profileNames(f) {
		j := newProfileJSON(name, f.Profiles[name])
		j.InEffect = used.InEffect && used.Name == name
		j.Current = cmp.Or(f.Current, profile.Local) == name
		if j.InEffect {
			j.Home, j.Source = used.Home, used.Source
		}
		list = append(list, j)
	}
	t := a.newTable("", "NAME", "KIND", "ORG", "PLACE")
	return printList(a, list, nil, t, func(j profileJSON) string { return j.Name }, func(j profileJSON) []string {
		mark := " "
		switch {
		case j.InEffect && !j.Current:
			mark = ">"
		case j.Current:
			mark = "*"
		}
		return []string{mark, j.Name, j.Kind, dashIfEmpty(j.Org), j.Home + j.URL}
	})
}
