package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/internal/api"
)

// newKeyJSON is a new API key, whose secret is printed once.
type newKeyJSON struct {
	api.Key
	Secret string `json:"secret"`
}

func newKeyCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "key",
		Short: "Make, list and revoke API keys of a server",
		Long: `Look after the API keys of the organisation that the profile in effect is of. The key of
the profile needs the scope admin.`,
		Example: `  vole key create ci --scope read,write --expires 90d
  vole key ls
  vole key revoke ci`,
	}, newKeyCreateCmd(a), newKeyLsCmd(a), newKeyRevokeCmd(a))
}

// scopeNames are scopes as text.
func scopeNames(scopes []api.Scope) []string {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	return names
}

// keyStatus says whether a key is still good.
func keyStatus(k api.Key, now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case !k.Expires.IsZero() && !k.Expires.After(now):
		return "expired"
	}
	return "good"
}

// printNewKey prints a key that was just made, unless err says that it failed: its secret on standard output, alone, so that
// a script can take it, and the rest beside it.
func (a *app) printNewKey(k api.NewKey, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(newKeyJSON{k.Key, k.Secret})
	}
	if !a.quiet {
		a.notef("key %s (%s) of organisation %s, scopes %s; it is shown only now", k.Key.ID, k.Key.Name, k.Key.Org, strings.Join(scopeNames(k.Key.Scopes), ","))
	}
	return a.printf("%s\n", k.Secret)
}
