package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/cloud"
)

func newOrgRmCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove organisations of a server",
		Long: `Remove organisations and revoke their keys. One that has volumes stays, unless --force says
that they are to go, too; one with a volume that is attached stays in any case, and so does
the organisation of the key in use.`,
		Example: `  vole org rm acme
  vole org rm --force acme`,
		Args:              minArgs(1, "the name of at least one organisation"),
		ValidArgsFunction: completeOrgs(a),
		RunE: a.withServer("org rm", func(ctx context.Context, server *cloud.Backend, args []string) error {
			return a.forEachName(ctx, args, func(name string) (bool, error) {
				err := server.RemoveOrg(ctx, name, force)
				if err != nil {
					err = &vole.Error{Op: "org rm", Err: err}
				}
				return err == nil, withHint(err, vole.ErrNotEmpty, "--force removes the organisation with its volumes")
			})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "with all its volumes")
	return cmd
}

// completeOrgs completes names of organisations.
func completeOrgs(a *app) completer {
	return completeAmong(a, 0, func(ctx context.Context) []string {
		server, err := a.openServer(ctx, "org ls")
		if err != nil {
			return nil
		}
		orgs, _ := server.Orgs(ctx)
		return orgs
	})
}
