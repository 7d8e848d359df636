package main

import (
	"io/fs"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/volehq/vole"
	"github.com/volehq/vole/server"
)

func newServeKeyCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "key",
		Short: "Make API keys directly in a server's data",
		Long: `Make API keys without the server's API, even when no key is left. This takes access to the
server's files as their owner, or the URL of its database.`,
		Example: `  vole serve key create --operator`,
	}, newServeKeyCreateCmd(a))
}

// offlineFlags are those of serve key create beside the settings of the server.
type offlineFlags struct {
	operator bool
	keyFlags
	name string
}

func newServeKeyCreateCmd(a *app) *cobra.Command {
	settings, f := &serveFlags{offline: true}, &offlineFlags{}
	cmd := &cobra.Command{
		Use:   "create ORG|--operator",
		Short: "Make an API key offline and print its secret",
		Long: `Make an API key in the database of a server and print its secret, which is shown only once.
The server may be running or stopped. Settings locate its data, as for 'vole serve': flags,
VOLE_SERVE_* variables, or the file that --config names. The audit log of the organisation
records the key. When root makes files among those of another user, they belong to that user.

Without --scope the key is an administrator key of the organisation ORG. With --operator it
is also an operator key of the server, in the organisation "default" unless ORG names another:
it can make and remove organisations, and enter any of them with 'vole key create --org'.`,
		Example: `  vole serve key create --operator
  vole serve key create acme --dir /srv/vole
  VOLE_SERVE_DB=postgres://vole:secret@db/vole vole serve key create acme --scope read --expires 1d`,
		Args: rangeArgs(0, 1, "an organisation, or --operator"),
	}
	settings.register(cmd)
	kept := []string{"config", "backend", "dir", "db", "db-file", "accounts", "accounts-file"}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		settings.names = append(settings.names, flag.Name)
		flag.Hidden = !slices.Contains(kept, flag.Name)
	})
	s := cmd.Flags()
	s.BoolVar(&f.operator, "operator", false, "make an operator key of the server")
	s.StringVar(&f.name, "name", "offline", "`name` of the key")
	f.register(cmd, " (default admin)")
	noFlagFiles(cmd, "name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := f.keyOptions(args, time.Now())
		if err != nil {
			return err
		}
		return a.createKeyOffline(cmd, settings, in)
	}
	return cmd
}

// keyOptions makes the options of the key of the arguments and flags.
func (f *offlineFlags) keyOptions(args []string, now time.Time) (k server.OfflineKey, err error) {
	k.Org = argOr(args, 0, server.DefaultOrg)
	if len(args) == 0 && !f.operator {
		return k, &hinted{usageErrorf("serve key create: give an organisation, or --operator"), "the first organisation of a server is \"default\""}
	}
	if len(f.scopes) == 0 {
		f.scopes = []string{"admin"}
	}
	if f.operator && !slices.Contains(f.scopes, "operator") {
		f.scopes = append(f.scopes, "operator")
	}
	in, err := f.keyRequest(f.name, now)
	if err != nil {
		return k, err
	}
	k.Name, k.Expires, k.Format, k.Scopes = in.Name, in.Expires, in.Format, scopeNames(in.Scopes)
	return k, nil
}

// createKeyOffline makes a key in the database of a server and prints its secret.
func (a *app) createKeyOffline(cmd *cobra.Command, settings *serveFlags, k server.OfflineKey) error {
	opts, err := a.serverOptions(cmd, settings)
	if err != nil {
		return err
	}
	made, err := server.CreateKeyOffline(cmd.Context(), opts, k)
	if err != nil {
		err = &vole.Error{Op: "serve key create", Err: err}
		return withHint(err, fs.ErrNotExist, "--dir, --db or --backend say where the data of the server is, as for 'vole serve'")
	}
	return a.printNewKey(made, nil)
}
