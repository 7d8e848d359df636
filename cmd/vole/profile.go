package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/profile"
)

// profileJSON is a profile. Its key is nowhere in it.
type profileJSON struct {
	Name         string      `json:"name"` // "": a place that has none
	Kind         string      `json:"kind"` // local, cloud
	Home         string      `json:"home,omitempty"`
	URL          string      `json:"url,omitempty"`
	CAFile       string      `json:"ca_file,omitempty"`
	Org          string      `json:"org,omitempty"`
	InsecureHTTP bool        `json:"insecure_http,omitempty"`
	Current      bool        `json:"current"`          // the user's file says so
	InEffect     bool        `json:"in_effect"`        // commands use it
	Source       string      `json:"source,omitempty"` // what put it in effect
	Server       *serverJSON `json:"server,omitempty"`
}

// serverJSON is what a server says of itself and the key.
type serverJSON struct {
	Version string   `json:"version"`
	Org     string   `json:"org"`
	Key     string   `json:"key"` // its id
	KeyName string   `json:"key_name"`
	Scopes  []string `json:"scopes"`
}

// newServerJSON is what a server says of itself, as it is printed.
func newServerJSON(s api.Server) *serverJSON {
	return &serverJSON{Version: s.Version, Org: s.Org, Key: s.Key, KeyName: s.KeyName, Scopes: scopeNames(s.Scopes)}
}

// newProfileJSON is a profile as it is printed, without its key.
func newProfileJSON(name string, p profile.Profile) profileJSON {
	j := profileJSON{Name: name, Kind: "local", Home: p.Home, URL: p.URL, CAFile: p.CAFile, Org: p.Org, InsecureHTTP: p.InsecureHTTP}
	if p.Cloud() {
		j.Kind = "cloud"
	}
	if name == profile.Local && j.Home == "" {
		j.Home, _ = local.DefaultHome() // without one it is not there
	}
	return j
}

// profileInEffect describes the profile in effect.
func (a *app) profileInEffect() (profileJSON, error) {
	c, err := a.resolveProfile()
	if err != nil {
		return profileJSON{}, err
	}
	j := newProfileJSON(c.Name, c.Profile)
	j.InEffect, j.Source = true, c.Source
	j.Current = isCurrentProfile(j.Name)
	return j, nil
}

func newProfileCmd(a *app) *cobra.Command {
	return newGroupCmd(&cobra.Command{
		Use:   "profile",
		Short: "Choose where the volumes are: this host, or behind a server",
		Long: `Choose between profiles, which are named ways to reach volumes: a local home, or a server's
URL and a key. "local" is the local home, and always there; 'vole login' makes profiles
of servers. ` + precedence,
		Example: `  vole profile ls
  vole profile use work
  vole --profile local ls`,
	}, newProfileLsCmd(a), newProfileShowCmd(a), newProfileUseCmd(a), newProfileAddCmd(a), newProfileRmCmd(a))
}

// precedence says which profile is in effect, for the help.
const precedence = `The first of these says which one a command uses:

  --home or --profile        (both are an error)
  VOLE_URL                   with VOLE_API_KEY or VOLE_API_KEY_FILE, perhaps VOLE_CA_FILE
  VOLE_PROFILE               (together with VOLE_URL an error)
  VOLE_HOME                  the directory of a local home
  the current profile        of 'vole login' and 'vole profile use'
  the default local home     /var/lib/vole for root, else $XDG_DATA_HOME/vole

A profile that cannot be used is an error; nothing falls back to this host.`

// changeProfiles runs change on the user's file of profiles, under a lock, and writes it again.
// When change fails, the file stays as it was.
func changeProfiles(ctx context.Context, change func(f *profile.File) error) error {
	path, err := profile.Path()
	if err != nil {
		return err
	}
	return profile.Change(ctx, path, change)
}

// isCurrentProfile reports whether the user's file says that a profile is the current one. A file
// that cannot be read says nothing: it is in the way only of what needs it.
func isCurrentProfile(name string) bool {
	f, err := profile.LoadDefault()
	return err == nil && name != "" && cmp.Or(f.Current, profile.Local) == name
}

// profileNames lists the names of all profiles.
func profileNames(f profile.File) []string {
	return append([]string{profile.Local}, slices.Sorted(maps.Keys(f.Profiles))...)
}

// completeProfiles completes up to max names of profiles (0: any number).
func completeProfiles(max int) completer {
	return completeUpTo(max, func(_ context.Context, args []string, prefix string) (list []cobra.Completion) {
		f, err := profile.LoadDefault()
		if err != nil {
			return nil
		}
		for _, n := range profileNames(f) {
			if strings.HasPrefix(n, prefix) && !slices.Contains(args, n) {
				list = appendCompletion(list, n, f.Profiles[n].Place())
			}
		}
		return list
	})
}
