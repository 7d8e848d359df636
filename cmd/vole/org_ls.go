package main

import (
	"github.com/spf13/cobra"
	"github.com/volehq/vole/drivers/cloud"
)

func newOrgLsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the organisations of a server",
		Example: `  vole org ls
  vole org ls --json | jq -r '.[].name'`,
		Args:              exactArgs(0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withCloud(cmd.Context(), "org ls", func(b *cloud.Backend) error {
				orgs, err := b.Orgs(cmd.Context())
				if err != nil {
					return err
				}
				return a.printOrgs(orgs)
			})
		},
	}
}

func (a *app) printOrgs(orgs []string) error {
	if a.json {
		list := []nameJSON{}
		for _, o := range orgs {
			list = append(list, nameJSON{o})
		}
		return a.printJSON(list)
	}
	if !a.quiet {
		if err := a.printf("NAME\n"); err != nil {
			return err
		}
	}
	for _, o := range orgs {
		if err := a.printf("%s\n", o); err != nil {
			return err
		}
	}
	return nil
}
