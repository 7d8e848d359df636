package main

import (
	"context"

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
		RunE: a.withServer("org ls", func(ctx context.Context, server *cloud.Backend, _ []string) error {
			return a.printOrgs(server.Orgs(ctx))
		}),
	}
}

// printOrgs lists organisations by name, or returns the error of finding them.
func (a *app) printOrgs(orgs []string, err error) error {
	return printList(a, namesJSON(orgs), err, a.newTable("NAME"), func(o nameJSON) string { return o.Name }, func(o nameJSON) []string { return []string{o.Name} })
}
