package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/drivers/cloud"
)

func newOrgCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "org",
		Short: "Make, list and remove the organisations of a server",
		Long: `Look after the organisations of a server, each of which has its own volumes and keys. The
key of the profile in effect needs the scope operator.`,
		Example: `  vole org create acme
  vole org ls
  vole org rm acme`,
	}, newOrgCreateCmd(a), newOrgLsCmd(a), newOrgRmCmd(a))
}

func newOrgCreateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make an organisation and print its first key",
		Long: `Make an organisation and print the secret of its first key, of scope admin, which cannot be
had again. Servers of a local home have one organisation and make no others.`,
		Example: `  vole org create acme > acme.key
  vole login https://vole.example.com --profile acme < acme.key`,
		Args: exactArgs(1, "the organisation's name"),
		RunE: a.withServer("org create", func(ctx context.Context, server *cloud.Backend, args []string) error {
			return a.printNewKey(server.CreateOrg(ctx, args[0]))
		}),
	}
}
