package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/profile"
)

func newProfileShowCmd(a *app) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:     "show [NAME]",
		Aliases: []string{"inspect"},
		Short:   "Show a profile: the one in effect, or a named one",
		Long: `Show the profile that commands use here, and what says so; or a named one. --check asks the
server who it is, and whose the key is and what it may do. The key itself is not shown.`,
		Example: `  vole profile show
  vole profile show work --check`,
		Args:              rangeArgs(0, 1, ""),
		ValidArgsFunction: completeProfiles(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showProfile(cmd.Context(), args, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "ask the server")
	return cmd
}

// showProfile describes the profile that args name, or the one in effect. One that is named is
// described also when none is in effect.
func (a *app) showProfile(ctx context.Context, args []string, check bool) error {
	c, err := a.resolveProfile()
	if len(args) == 0 && err != nil {
		return err
	}
	used, named := c, len(args) > 0
	if named {
		if c, err = profile.Resolve(profile.Named{Name: args[0]}); err != nil {
			return err
		}
	}
	j := newProfileJSON(c.Name, c.Profile)
	j.InEffect = !named || used.Source != "" && used.Name == c.Name
	if j.InEffect {
		j.Source = used.Source
	}
	j.Current = isCurrentProfile(c.Name)
	if check && c.Cloud() {
		srv, err := askServer(ctx, c.Profile)
		if err != nil {
			return hintServerError(&vole.Error{Op: "open", Path: c.URL, Err: err})
		}
		j.Server = newServerJSON(srv)
	}
	return a.printProfile(j)
}

// printProfile prints a profile, one item a line, without what it does not have.
func (a *app) printProfile(j profileJSON) error {
	switch {
	case a.json:
		return a.printJSON(j)
	case a.quiet:
		return a.printf("%s\n", j.Name)
	}
	t := a.newTable()
	row := func(k, v string) {
		if v != "" {
			t.addRow(k+":", v)
		}
	}
	row("Name", dashIfEmpty(j.Name))
	row("Kind", j.Kind)
	row("Home", j.Home)
	row("URL", j.URL)
	row("CA file", j.CAFile)
	if j.InsecureHTTP {
		row("Insecure", "the key travels in the clear")
	}
	if j.Server == nil {
		row("Organisation", j.Org)
	}
	row("Current", yesNo(j.Current))
	if j.InEffect {
		row("In effect", "yes, by "+j.Source)
	} else {
		row("In effect", "no")
	}
	if s := j.Server; s != nil {
		row("Organisation", s.Org)
		row("Key", s.KeyName+" ("+s.Key+")")
		row("Scopes", strings.Join(s.Scopes, ","))
		row("Server", "vole "+s.Version)
	}
	return t.close()
}

// yesNo shows a fact.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
