package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/profile"
)

// errNoHome is what the error for a home that is not there matches.
var errNoHome = driver.Errorf(vole.ErrNotFound, "no volumes are kept there yet")

// resolveProfile returns the profile that flags, environment and the user's file put in effect.
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

// homeDir is the absolute path of the home in effect, for what needs one.
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
// that is not there.
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
	// With a catalog it is a home of which a part is missing: opening it says so.
	if st, cerr := os.Stat(filepath.Join(home, "catalog.db")); errors.Is(err, fs.ErrNotExist) && (cerr != nil || st.Size() == 0) {
		err := &vole.Error{Op: "open", Path: home, Err: errNoHome}
		return &hinted{err, "'vole create' makes a home there; --home and $VOLE_HOME name another one"}
	}
	return nil
}

// openStore opens the volumes of the profile in effect.
func (a *app) openStore(ctx context.Context, readOnly bool) (*vole.Store, error) {
	c, err := a.resolveProfile()
	if err != nil {
		return nil, err
	}
	if c.Cloud() {
		b, err := openCloud(ctx, c, cloud.Options{ReadOnly: readOnly})
		if err != nil {
			return nil, err
		}
		return vole.New(b), nil
	}
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	s, err := vole.Open(ctx, vole.Options{Home: home, ReadOnly: readOnly, ForeignHome: a.foreignHome})
	for _, kind := range []error{vole.ErrReadOnly, vole.ErrNotDir} {
		err = withHint(err, kind, "--home and $VOLE_HOME name another home")
	}
	return s, err
}

// hintUntrusted adds advice to the error for a certificate that nobody vouches for.
func hintUntrusted(err error, hint string) error {
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return &hinted{err, hint}
	}
	return err
}

// openCloud opens what is behind the server of a profile.
func openCloud(ctx context.Context, c profile.Choice, opts cloud.Options) (*cloud.Backend, error) {
	opts.URL, opts.Key, opts.CAFile, opts.UserAgent = c.URL, c.Key, c.CAFile, "vole/"+buildVersion().Version
	opts.InsecureHTTP = c.InsecureHTTP
	b, err := cloud.Open(ctx, opts)
	if err != nil {
		err = hintUntrusted(err, "VOLE_CA_FILE, or --ca-file of 'vole login', names certificates to trust besides the system's")
		err = &vole.Error{Op: "open", Path: c.URL, Err: err}
		return nil, withHint(err, vole.ErrPermission, "'vole login' gets a profile another key; 'vole profile show' tells where this one is from")
	}
	return b, nil
}

// withStore runs fn on the opened volumes, of a home that is there, and closes them. Only
// what makes a volume makes a home: a mistyped one is to be noticed.
func (a *app) withStore(ctx context.Context, fn func(s *vole.Store) error) error {
	if err := a.checkHome(ctx); err != nil {
		return err
	}
	return a.withNewStore(ctx, fn)
}

// withNewStore is withStore that makes a home that is not there.
func (a *app) withNewStore(ctx context.Context, fn func(s *vole.Store) error) error {
	s, err := a.openStore(ctx, false)
	if err != nil {
		return err
	}
	return errors.Join(suggestVolume(ctx, s, fn(s)), s.Close())
}

// withCloud runs fn on the server of the profile in effect, for what only servers have.
func (a *app) withCloud(ctx context.Context, op string, fn func(b *cloud.Backend) error) error {
	c, err := a.resolveProfile()
	if err != nil {
		return err
	}
	if !c.Cloud() {
		err := &vole.Error{Op: op, Err: driver.Errorf(vole.ErrUnsupported, "only servers have that, and %s is in effect", c)}
		return &hinted{err, "--profile names the profile of a server, 'vole login' makes one"}
	}
	b, err := openCloud(ctx, c, cloud.Options{})
	if err != nil {
		return err
	}
	err = fn(b)
	if err != nil && !errors.As(err, new(*vole.Error)) {
		err = &vole.Error{Op: op, Err: err}
	}
	return errors.Join(err, b.Close())
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
