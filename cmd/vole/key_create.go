package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/internal/api"
)

// keyFlags are the flags of key create.
type keyFlags struct {
	scopes, volumes []string
	expires, format string
	org             string
}

func newKeyCreateCmd(a *app) *cobra.Command {
	var f keyFlags
	cmd := &cobra.Command{
		Use:   "create NAME --scope SCOPE[,...]",
		Short: "Make an API key and print its secret",
		Long: `Make an API key of the organisation and print its secret, which is shown only once.

Scopes are read (volumes and files), write (change them, which includes reading), admin
(keys and the audit log, which includes both) and operator (organisations). A key cannot
give what it does not have. With --volume the key sees only these volumes.

With --org the key is of another organisation, for which that of the profile needs the scope
operator. The audit log of that organisation records it.`,
		Example: `  vole key create ci --scope read,write --expires 90d
  vole key create report --scope read --volume results > report.key
  vole key create agents --scope write --format e2b
  vole key create rescue --org acme --scope admin`,
		Args: exactArgs(1, "a name for the key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.keyRequest(args[0], time.Now())
			if err != nil {
				return err
			}
			server, err := a.openServer(cmd.Context(), "key create")
			if err != nil {
				return err
			}
			if f.org == "" {
				return a.printNewKey(server.CreateKey(cmd.Context(), in))
			}
			return a.printNewKey(server.CreateOrgKey(cmd.Context(), f.org, in))
		},
	}
	s := cmd.Flags()
	f.register(cmd, "")
	s.StringArrayVar(&f.volumes, "volume", nil, "a volume, by `name` or id, that it is for; may be given several times (default all)")
	s.StringVar(&f.org, "org", "", "`organisation` that the key is for (default that of the profile)")
	cmd.RegisterFlagCompletionFunc("org", completeOrgs(a))
	cmd.RegisterFlagCompletionFunc("volume", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.completeVolumeNames(cmd.Context(), prefix, f.volumes, ""), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// register adds the flags that every way to make a key has. defaultScope is for the help.
func (f *keyFlags) register(cmd *cobra.Command, defaultScope string) {
	s := cmd.Flags()
	s.StringSliceVar(&f.scopes, "scope", nil, "what it may do: `read, write, admin, operator`, separated by commas"+defaultScope)
	s.StringVar(&f.expires, "expires", "", "how long it is good (`30d`, 12h, 8w), or until which day (2030-01-31) or time, in UTC (default for ever)")
	s.StringVar(&f.format, "format", "vole", "form of the secret: vole, or e2b for the SDK of E2B")
	completeFlagWith(cmd, "scope", "read", "write", "admin", "operator")
	completeFlagWith(cmd, "format", "vole", "e2b")
	noFlagFiles(cmd, "expires")
}

// keyRequest checks the flags and makes a request of them.
func (f *keyFlags) keyRequest(name string, now time.Time) (in api.CreateKey, err error) {
	in = api.CreateKey{Name: name, Volumes: f.volumes}
	if len(f.scopes) == 0 {
		return in, &hinted{usageErrorf("key create: give --scope"), "--scope read,write is what programs need that use volumes"}
	}
	for _, s := range f.scopes {
		if !api.Scope(s).Valid() {
			return in, usageErrorf("--scope: unknown scope %q; there are read, write, admin and operator", s)
		}
		if !slices.Contains(in.Scopes, api.Scope(s)) {
			in.Scopes = append(in.Scopes, api.Scope(s))
		}
	}
	switch f.format {
	case "vole":
	case "e2b":
		in.Format = f.format
	default:
		return in, usageErrorf("--format: unknown form %q; use vole or e2b", f.format)
	}
	if f.expires != "" {
		in.Expires, err = parseExpiry(f.expires, now)
	}
	return in, err
}

// parseExpiry reads a time from now (30d), a day, of which the first moment in UTC is meant, or a
// time. One in the past is refused: the key would be of no use, and a mistyped year is likely.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			if !t.After(now) {
				return t, usageErrorf("--expires %s: that is past", s)
			}
			return t.UTC(), nil
		}
	}
	d, err := parseSpan(s)
	if err == errSpanTooLong {
		return now, usageErrorf("--expires %s: that is too far away", s)
	}
	if err != nil || d == 0 {
		return now, usageErrorf("--expires %q: write a time such as 30d, 12h or 8w, or a day such as 2030-01-31", s)
	}
	return now.Add(d).UTC().Truncate(time.Second), nil
}
