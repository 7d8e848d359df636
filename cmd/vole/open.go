package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/profile"
)

// errNoHome is matched by the error for a home that does not exist.
var errNoHome = driver.Errorf(vole.ErrNotFound, "no volumes are kept there yet")

// resolveProfile returns the profile that flags, environment and the user's file put in effect. It
// decides once: all of a command uses the same volumes.
func (a *app) resolveProfile() (profile.Choice, error) {
	if a.chosen != nil {
		return *a.chosen, nil
	}
	if a.home != "" && a.profile != "" {
		return profile.Choice{}, usageErrorf("--home and --profile exclude each other: both say where the volumes are")
	}
	c, err := profile.Resolve(profile.Named{Home: a.home, Name: a.profile})
	if err != nil {
		return c, suggestProfile(err, cmp.Or(a.profile, os.Getenv("VOLE_PROFILE")))
	}
	a.chosen = &c
	return c, nil
}

// homeDir is the absolute path of the home in effect. It is an error when the volumes are behind a
// server.
func (a *app) homeDir() (string, error) {
	home, err := a.homeUnlessCloud()
	if err == nil && home == "" {
		c, _ := a.resolveProfile()
		err := driver.Errorf(vole.ErrUnsupported, "not with %s: a home on this host is needed", c)
		return "", &hinted{err, "--home names one; --profile local means the default one"}
	}
	return home, err
}

// homeUnlessCloud is the absolute path of the home in effect; "" when the volumes are behind
// a server.
func (a *app) homeUnlessCloud() (home string, err error) {
	c, err := a.resolveProfile()
	if err != nil || c.Cloud() {
		return "", err
	}
	if home = c.Home; home == "" {
		if home, err = local.DefaultHome(); err != nil {
			return "", err
		}
	}
	return filepath.Abs(home)
}

// checkHome returns an error that matches errNoHome when the profile in effect is a home
// that does not exist.
func (a *app) checkHome(ctx context.Context) error {
	home, err := a.homeUnlessCloud()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return &vole.Error{Op: "open", Path: home, Err: err}
	}
	if home == "" {
		return nil
	}
	if err := checkSystem("open"); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(home, "volumes"))
	// A home with a catalog and without volumes lacks a part: opening it says so.
	if st, cerr := os.Stat(filepath.Join(home, "catalog.db")); errors.Is(err, fs.ErrNotExist) && (cerr != nil || st.Size() == 0) {
		err := &vole.Error{Op: "open", Path: home, Err: errNoHome}
		return &hinted{err, "'vole create' makes a home there; --home and $VOLE_HOME name another one"}
	}
	return nil
}

// openStore opens the volumes of the profile in effect: those behind a server, or of a home that
// exists. endCommand closes them; until then each call returns the same Store. Only what makes a
// volume makes a home (openOrMakeStore): a mistyped one is noticed.
func (a *app) openStore(ctx context.Context) (*vole.Store, error) {
	if a.store != nil {
		return a.store, nil
	}
	if err := a.checkHome(ctx); err != nil {
		return nil, err
	}
	return a.openOrMakeStore(ctx, vole.Options{})
}

// openForCompletion is openStore for reading; nil when it cannot. A completion makes nothing, and
// has no place for an error.
func (a *app) openForCompletion(ctx context.Context) *vole.Store {
	if a.store != nil || a.checkHome(ctx) != nil {
		return a.store
	}
	s, _ := a.openOrMakeStore(ctx, vole.Options{ReadOnly: true})
	return s
}

// openOrMakeStore is openStore that makes the home if it does not exist, with further options. It
// adds advice to the errors that a flag or another command helps with.
func (a *app) openOrMakeStore(ctx context.Context, opts vole.Options) (*vole.Store, error) {
	c, err := a.resolveProfile()
	if err != nil {
		return nil, err
	}
	// What was resolved is opened, and not resolved again: a key may come from a pipe.
	opts.ForeignHome, opts.UserAgent = a.foreignHome, userAgent()
	opts.URL, opts.Key, opts.CAFile, opts.InsecureHTTP = c.URL, c.Key, c.CAFile, c.InsecureHTTP
	if opts.Home, err = a.homeUnlessCloud(); err != nil {
		return nil, &vole.Error{Op: "open", Err: err}
	}
	s, err := vole.Open(ctx, opts)
	switch {
	case err == nil:
		a.store = s
	case c.Cloud():
		err = hintServerError(err)
	case errors.Is(err, vole.ErrReadOnly) || errors.Is(err, vole.ErrNotDir):
		err = &hinted{err, "--home and $VOLE_HOME name another home"}
	}
	return s, err
}

// openVolume returns a volume of openStore, by name or id.
func (a *app) openVolume(ctx context.Context, ref string) (*vole.Volume, error) {
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, ref)
}

// openFS opens the files of one volume. endCommand closes them.
func (a *app) openFS(ctx context.Context, ref string, opts vole.FSOptions) (*vole.FS, error) {
	v, err := a.openVolume(ctx, ref)
	if err != nil {
		return nil, err
	}
	f, err := v.OpenFS(ctx, opts)
	if err != nil {
		return nil, err
	}
	a.closeAtEnd(f)
	return f, nil
}

// openServer opens the server of the profile in effect, for what only servers have. endCommand
// closes it, and gives the command's error the operation op if it names none.
func (a *app) openServer(ctx context.Context, op string) (*cloud.Backend, error) {
	c, err := a.resolveProfile()
	if err != nil {
		return nil, err
	}
	var server *cloud.Backend
	if c.Cloud() {
		s, err := a.openStore(ctx)
		if err != nil {
			return nil, err
		}
		server = s.Cloud()
	}
	if server == nil {
		err := &vole.Error{Op: op, Err: driver.Errorf(vole.ErrUnsupported, "only servers have that, and %s is in effect", c)}
		return nil, &hinted{err, "--profile names the profile of a server, 'vole login' makes one"}
	}
	a.serverOp = op
	return server, nil
}

// withServer makes the function of a command that is all about the server of openServer.
func (a *app) withServer(op string, run func(ctx context.Context, server *cloud.Backend, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		server, err := a.openServer(cmd.Context(), op)
		if err != nil {
			return err
		}
		return run(cmd.Context(), server, args)
	}
}

// askServer returns what the server of a profile says of itself and of the profile's key.
func askServer(ctx context.Context, p profile.Profile) (api.Server, error) {
	b, err := cloud.Open(ctx, cloud.Options{
		URL: p.URL, Key: p.Key, CAFile: p.CAFile, InsecureHTTP: p.InsecureHTTP, Patience: loginPatience, UserAgent: userAgent(),
	})
	if err != nil {
		return api.Server{}, err
	}
	return b.Server(), b.Close()
}

// userAgent is how the program names itself to servers.
func userAgent() string { return "vole/" + buildVersion().Version }

// closeAtEnd has c closed when the command has returned.
func (a *app) closeAtEnd(c io.Closer) { a.opened = append(a.opened, c) }

// closeOpened closes what was opened last first, but not the store. What was written in batch
// mode is durable when it returns nil.
func (a *app) closeOpened() error {
	var errs []error
	for _, c := range slices.Backward(a.opened) {
		errs = append(errs, c.Close())
	}
	a.opened = nil
	return errors.Join(errs...)
}

// endCommand closes what a command has opened, and returns the command's error err together with
// those of closing. While the store is still open, it looks for the volume that was perhaps meant
// by a name that does not exist. Calling it again does nothing.
func (a *app) endCommand(ctx context.Context, err error) error {
	if err != nil && a.serverOp != "" && !errors.As(err, new(*vole.Error)) {
		err = &vole.Error{Op: a.serverOp, Err: err}
	}
	err = errors.Join(err, a.closeOpened())
	if a.store != nil {
		err = errors.Join(suggestVolume(ctx, a.store, err), a.store.Close())
		a.store = nil
	}
	return err
}

// hintServerError adds advice to the errors of a server that refuses the key, or whose certificate is
// not trusted.
func hintServerError(err error) error {
	err = hintUntrusted(err, "VOLE_CA_FILE, or --ca-file of 'vole login', names certificates to trust besides the system's")
	return withHint(err, vole.ErrPermission, "'vole login' gets a profile another key; 'vole profile show' tells where this one is from")
}

// hintUntrusted adds advice to the error for a certificate that no trusted authority has signed.
func hintUntrusted(err error, hint string) error {
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return &hinted{err, hint}
	}
	return err
}

// needsHome refuses what needs the files of volumes on this host when they are behind a
// server. why says what it needs.
func (a *app) needsHome(op, why string) error {
	c, err := a.resolveProfile()
	if err != nil || !c.Cloud() {
		return err
	}
	err = &vole.Error{Op: op, Err: driver.Errorf(vole.ErrUnsupported, "not with %s yet: %s", c, why)}
	return &hinted{err, "--profile local means the volumes of this host; 'vole fs' and 'vole cp' reach the files behind a server"}
}
