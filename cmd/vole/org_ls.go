package main

import (
	"github.com/spf13/cobra"
)

func newOrgLsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the organisations of a server",
		Example: `  vole org ls
  vole org ls --json | jq -r '.[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := a.openServer(cmd.Context(), "org ls")
			if err != nil {
				return err
			}
			orgs, err := server.Orgs(cmd.Context())
			if err != nil {
				return err
			}
			return a.printOrgs(orgs)
		},
	}
}

// printOrgs lists organisations by name.
func (a *app) printOrgs(orgs []string) error {
	list := make([]nameJSON, len(orgs))
	for i, name := range orgs {
		list[i] = nameJSON{name}
	}
	return printList(a, list, a.newTable("NAME"), func(o nameJSON) string { return o.Name }, func(o nameJSON) []string { return []string{o.Name} })
}
