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
			return a.printOrgs(server.Orgs(cmd.Context()))
		},
	}
}

// printOrgs lists organisations by name, or returns the error of finding them.
func (a *app) printOrgs(orgs []string, err error) error {
	return printList(a, namesJSON(orgs), err, a.newTable("NAME"), func(o nameJSON) string { return o.Name }, func(o nameJSON) []string { return []string{o.Name} })
}
