package main

import (
	"context"
	"errors"
	"strings"

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
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.withCloud(ctx, "org rm", func(b *cloud.Backend) error {
				return a.forEachName(ctx, args, func(name string) (bool, error) {
					err := b.RemoveOrg(ctx, name, force)
					if err == nil {
						return true, nil
					}
					err = &vole.Error{Op: "org rm", Err: err}
					if errors.Is(err, vole.ErrNotEmpty) {
						err = &hinted{err, "--force removes the organisation with its volumes"}
					}
					return false, err
				})
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "with all its volumes")
	return cmd
}

// completeOrgs completes names of organisations.
func completeOrgs(a *app) completer {
	return func(cmd *cobra.Command, args []string, prefix string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		_ = a.withCloud(ctx, "org ls", func(b *cloud.Backend) error {
			orgs, err := b.Orgs(ctx)
			for _, name := range orgs {
				if strings.HasPrefix(name, prefix) {
					list = appendCompletion(list, name, "")
				}
			}
			return err
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}
