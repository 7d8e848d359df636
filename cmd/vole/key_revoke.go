package main

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

func newKeyRevokeCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "revoke {NAME|ID}...",
		Aliases: []string{"rm", "remove"},
		Short:   "Make API keys useless for ever",
		Long: `Revoke API keys: no server accepts them any more, some seconds later at most where several
serve one organisation. 'vole key ls' goes on listing them, and the audit log keeps what
they did. A key is given by its id, or by its name if no other key that is not revoked has it.

The last admin key of an organisation and the last operator key of a server stay, unless an
identity provider gives these rights or --force says so: 'vole serve key create', where the
server is, makes another one.`,
		Example: `  vole key revoke ci
  vole key revoke 019ab3c4-5d6e-7f80-9123-456789abcdef`,
		Args:              minArgs(1, "the name or id of at least one key"),
		ValidArgsFunction: completeKeys(a),
		RunE: a.withServer("key revoke", func(ctx context.Context, server *cloud.Backend, args []string) error {
			list := sync.OnceValues(func() ([]api.Key, error) { return server.Keys(ctx) })
			return a.forEachName(ctx, args, func(ref string) (bool, error) {
				id, err := resolveKeyID(ref, list)
				if err != nil {
					return false, err
				}
				err = a.revokeKey(ctx, server, id, force)
				return err == nil, err
			})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also the last admin key of the organisation and the last operator key of the server")
	return cmd
}

// revokeKey revokes the key with that id.
func (a *app) revokeKey(ctx context.Context, server *cloud.Backend, id string, force bool) error {
	k, err := server.RevokeKey(ctx, id, force)
	switch {
	case errors.Is(err, vole.ErrNoSuch):
		return keyNotFoundError(id, nil)
	case err != nil:
		return withHint(&vole.Error{Op: "key revoke", Err: err}, vole.ErrInUse, "--force revokes it all the same")
	}
	if k.Warning != "" {
		a.warnf("key %s (%s), which is revoked, was %s", k.ID, k.Name, k.Warning)
	}
	return nil
}

// resolveKeyID returns the id of the key that ref names. An id stands for itself. Of keys with one
// name those that are revoked do not count, unless all are: revoking them again is no error.
func resolveKeyID(ref string, list func() ([]api.Key, error)) (string, error) {
	if driver.IsID(ref) {
		return ref, nil
	}
	keys, err := list()
	if err != nil {
		return "", err
	}
	var names, ids, revoked []string
	for _, k := range keys {
		switch {
		case k.Name == ref && k.Revoked.IsZero():
			ids = append(ids, k.ID)
		case k.Name == ref:
			revoked = append(revoked, k.ID)
		default:
			names = append(names, k.Name)
		}
	}
	switch {
	case len(ids) > 1:
		err := usageErrorf("%d keys have the name %q: %s", len(ids), ref, strings.Join(ids, ", "))
		return "", &hinted{&vole.Error{Op: "key revoke", Err: err}, "name the one that is meant by its id; 'vole key ls' tells them apart"}
	case len(ids) == 1:
		return ids[0], nil
	case len(revoked) > 0:
		return revoked[0], nil
	}
	return "", keyNotFoundError(ref, names)
}

// keyNotFoundError is the error for a key that does not exist, with the name that was perhaps meant.
func keyNotFoundError(ref string, names []string) error {
	hint := suggestName(ref, names, "'vole key ls' lists the keys")
	return &hinted{&vole.Error{Op: "key revoke", Err: driver.Errorf(vole.ErrNoSuch, "no key %s in this organisation", ref)}, hint}
}
