package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/profile"
	"golang.org/x/term"
)

// loginPatience is how long login tries to reach a server: somebody waits, and may have
// mistyped its URL.
const loginPatience = 2 * time.Second

// loginCmd is one run of login. It keeps nothing before the server has accepted the key.
type loginCmd struct {
	*app
	caFile   string
	insecure bool
	use      bool
}

func newLoginCmd(a *app) *cobra.Command {
	l := &loginCmd{app: a}
	cmd := &cobra.Command{
		Use:   "login URL [--profile NAME]",
		Short: "Make a profile of a server and a key for it",
		Long: `Make a profile, by which the other commands reach the volumes behind a Vole server. The
API key, or a token of the server's identity provider, is asked for on a terminal and
else read from standard input; it is never an argument. Nothing is kept before the server
has accepted it.

The name is that of the server's host unless --profile gives another one. The first
profile becomes the current one, so that the other commands use that server from then
on, unless this host's local home has volumes: then "local" stays current. --use makes
it the current one in any case, and 'vole profile use NAME' does later. Logging in again
to the same server and organisation replaces the key.

Profiles are in $VOLE_CONFIG, else in vole/config.json of $XDG_CONFIG_HOME or ~/.config,
which only its owner may read. A server that is not on this host must have https://, or
the key could be read on the way; --insecure-http is for networks where it cannot.`,
		Example: `  vole login https://vole.example.com
  vole login https://vole.example.com --profile work --use < work.key
  vole login https://10.0.0.5:8443 --profile lab --ca-file lab-ca.pem
  vole login http://127.0.0.1:8080`,
		Args: exactArgs(1, "the server's URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return l.runLogin(cmd.Context(), args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&l.caFile, "ca-file", "", "`file` of certificates (PEM) to trust besides the system's")
	f.BoolVar(&l.insecure, "insecure-http", false, "let the key travel in the clear to a server that is not on this host")
	f.BoolVar(&l.use, "use", false, "make it the current profile, also when the local home has volumes")
	return cmd
}

// runLogin asks for a key, has the server accept it, and only then keeps the profile. Whether the
// profile may be replaced is checked twice: before the user types a key in vain, and under the
// lock of the file, when the organisation of the key is known.
func (l *loginCmd) runLogin(ctx context.Context, server string) error {
	name, p, err := l.planProfile(server)
	if err != nil {
		return err
	}
	f, err := profile.LoadDefault()
	if err == nil {
		err = mayReplaceProfile(f, name, p)
	}
	if err != nil {
		return err
	}
	if p.Key, err = l.readKey(ctx, p.URL); err != nil {
		return err
	}
	if err := p.Validate(); err != nil {
		return err
	}
	srv, err := askServer(ctx, p)
	if err != nil {
		err = hintUntrusted(err, "--ca-file names certificates to trust besides the system's: those of the authority, or the server's own")
		return &vole.Error{Op: "login", Path: p.URL, Err: err}
	}
	p.Org = srv.Org
	current, err := l.saveProfile(ctx, name, p)
	if err != nil {
		return err
	}
	return l.printLogin(name, p, newServerJSON(srv), current)
}

// saveProfile writes the profile to the user's file, and returns the name of the current one.
// Somebody who has volumes on this host, and has never chosen a profile, keeps the local
// home: after a mere login 'vole ls' would show the server's volumes and theirs seem gone.
func (l *loginCmd) saveProfile(ctx context.Context, name string, p profile.Profile) (current string, err error) {
	hasLocal := localHomeInUse(ctx) // asked before the file of profiles is locked
	err = changeProfiles(ctx, func(f *profile.File) error {
		if err := mayReplaceProfile(*f, name, p); err != nil {
			return err
		}
		f.Profiles[name] = p
		switch {
		case l.use, f.Current == "" && !hasLocal:
			f.Current = name
		case f.Current == "":
			f.Current = profile.Local
		}
		current = f.Current
		return nil
	})
	return current, err
}

// localHomeInUse reports whether the local home holds volumes. One that exists and cannot
// be read counts as in use: what its owner would miss is not known.
func localHomeInUse(ctx context.Context) bool {
	home, err := local.DefaultHome()
	if err != nil {
		return false // without a home directory there is no local home
	}
	if _, err := os.Stat(filepath.Join(home, "volumes")); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	s, err := vole.Open(ctx, vole.Options{Home: home, ReadOnly: true})
	if err != nil {
		return true
	}
	defer s.Close()
	page, err := s.List(ctx, vole.Filter{Limit: 1})
	return err != nil || len(page.Volumes) > 0
}

// planProfile checks what the command line says.
func (l *loginCmd) planProfile(server string) (name string, p profile.Profile, err error) {
	if l.home != "" {
		return "", p, usageErrorf("login: --home names a local home, which needs no login")
	}
	if err := profile.CheckURL(server, l.insecure); err != nil {
		if strings.HasPrefix(server, "http:") && profile.CheckURL(server, true) == nil {
			err = &hinted{err, "--insecure-http allows it, for networks where nobody listens"}
		}
		return "", p, err
	}
	p = profile.Profile{URL: profile.CleanURL(server)}
	p.InsecureHTTP = l.insecure && profile.CheckURL(p.URL, false) != nil
	if l.caFile != "" {
		if p.CAFile, err = filepath.Abs(l.caFile); err != nil {
			return "", p, err
		}
	}
	name = cmp.Or(l.profile, profile.NameOf(p.URL))
	if err := profile.CheckName(name); err != nil {
		return "", p, withHint(err, vole.ErrInvalid, "--profile gives the profile a name")
	}
	return name, p, nil
}

// mayReplaceProfile returns an error when a profile of that name exists and p is no newer state
// of it. An organisation that is not known yet may be the same.
func mayReplaceProfile(f profile.File, name string, p profile.Profile) error {
	old, ok := f.Profiles[name]
	what := ""
	switch {
	case !ok:
		return nil
	case !old.Cloud():
		what = "is of the home " + old.Home
	case old.URL != p.URL:
		what = "is of the server " + old.URL
	case p.Org != "" && old.Org != "" && old.Org != p.Org:
		what = "is of the organisation " + old.Org + ", and this key is of " + p.Org
	default:
		return nil
	}
	return &hinted{driver.Errorf(vole.ErrExists, "login: the profile %s already exists and %s", name, what),
		"--profile gives the new one another name; 'vole profile rm' removes the old one"}
}

// readKey asks for the key on a terminal, without showing it, or reads standard input.
func (l *loginCmd) readKey(ctx context.Context, server string) (string, error) {
	f, ok := l.stdin.(*os.File)
	if !ok || !isTerminal(f) {
		return profile.ReadKey(l.openInput(ctx, l.stdin))
	}
	fd := int(f.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(l.stderr, "API key for %s: ", server)
	defer fmt.Fprintln(l.stderr)
	text, err := abandonWhenDone(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil { // interrupted, perhaps: the terminal is to show again what is typed
		return "", errors.Join(err, term.Restore(fd, state))
	}
	return profile.ReadKey(bytes.NewReader(text))
}

// printLogin says what was kept, which profile is current now, and how to change that.
func (l *loginCmd) printLogin(name string, p profile.Profile, srv *serverJSON, current string) error {
	overriding := ""
	if current == name {
		overriding = l.warnOverridden(name)
	}
	switch {
	case l.json:
		j := newProfileJSON(name, p)
		j.Current, j.Server = current == name, srv
		return l.printJSON(j)
	case l.quiet:
		return nil
	}
	err := l.printf("%s: organisation %s, key %s\n", name, srv.Org, srv.KeyName)
	switch {
	case overriding != "":
		return errors.Join(err, l.printf("%s is the current profile, but has no effect while %s is set\n", name, overriding))
	case current == name:
		return errors.Join(err, l.printf("%s is the current profile now; 'vole profile use %s' goes back to the volumes of this host\n", name, profile.Local))
	}
	return errors.Join(err, l.printf("%s stays the current profile; 'vole profile use %s' makes %s the current one\n", current, name, name))
}

// warnOverridden warns that a variable of the environment comes before the profile, which has just
// become the current one, and returns the name of the variable; "": none does.
func (a *app) warnOverridden(name string) (variable string) {
	for _, v := range []string{"VOLE_URL", "VOLE_PROFILE", "VOLE_HOME"} {
		value := os.Getenv(v)
		if value == "" {
			continue
		}
		if v == "VOLE_PROFILE" && value == name {
			return ""
		}
		a.warnf("%s is set, which comes before the current profile", v)
		return v
	}
	return ""
}
