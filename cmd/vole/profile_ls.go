package main

import (
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
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			return changeProfileFile(func(f profile.File, _ string) error { return a.listProfiles(f) })
		},
	}
}

func (a *app) listProfiles(f profile.File) error {
	used, err := a.profileInEffect()
	if err != nil {
		a.warnf("no profile is in effect: %v", err)
	}
	list := []profileJSON{}
	for _, name := range profileNames(f) {
		j := newProfileJSON(name, f.Profiles[name])
		j.InEffect = used.InEffect && used.Name == name
		j.Current = f.Current == name || f.Current == "" && name == profile.Local
		if j.InEffect {
			j.Home, j.Source = used.Home, used.Source
		}
		list = append(list, j)
	}
	if a.json {
		return a.printJSON(list)
	}
	if a.quiet {
		for _, j := range list {
			if err := a.printf("%s\n", j.Name); err != nil {
				return err
			}
		}
		return nil
	}
	t := a.newTable("", "NAME", "KIND", "ORG", "PLACE")
	for _, j := range list {
		mark := " "
		switch {
		case j.InEffect && !j.Current:
			mark = ">"
		case j.Current:
			mark = "*"
		}
		if err := t.addRow(mark, j.Name, j.Kind, dashIfEmpty(j.Org), j.Home+j.URL); err != nil {
			return err
		}
	}
	return t.close()
}
