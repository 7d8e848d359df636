package main

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/cloud"
	"github.com/volehq/vole/driver"
)

func newKeyRevokeCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "revoke ID...",
		Aliases: []string{"rm", "remove"},
		Short:   "Make API keys useless for ever",
		Long: `Revoke API keys: no server accepts them any more, some seconds later at most where several
serve one organisation. 'vole key ls' goes on listing them, and the audit log keeps what
they did.

The last admin key of an organisation and the last operator key of a server stay, unless an
identity provider gives these rights or --force says so: 'vole serve key create', where the
server is, makes another one.`,
		Example:           `  vole key revoke 019ab3c4-5d6e-7f80-9123-456789abcdef`,
		Args:              minArgs(1, "the id of at least one key"),
		ValidArgsFunction: completeKeys(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.withCloud(ctx, "key revoke", func(b *cloud.Backend) error {
				return a.eachName(ctx, args, func(id string) (bool, error) {
					k, err := b.RevokeKey(ctx, id, force)
					if errors.Is(err, fs.ErrNotExist) || errors.Is(err, vole.ErrNotFound) {
						err = driver.Errorf(vole.ErrNotFound, "no key %s in this organisation", id)
						return false, &hinted{&vole.Error{Op: "key revoke", Err: err}, "'vole key ls' lists the ids"}
					}
					if errors.Is(err, vole.ErrInUse) {
						return false, &hinted{&vole.Error{Op: "key revoke", Err: err}, "--force revokes it all the same"}
					}
					if err != nil {
						err = &vole.Error{Op: "key revoke", Err: err}
					}
					if err == nil && k.Warning != "" {
						a.warnf("key %s (%s), which is revoked, was %s", k.ID, k.Name, k.Warning)
					}
					return err == nil, err
				})
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also the last admin key of the organisation and the last operator key of the server")
	return cmd
}
