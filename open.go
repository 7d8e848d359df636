package vole

import (
	"context"
	"path/filepath"

	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/profile"
)

// Options says which volumes to open. Home, Profile and URL each do; with none of them
// the ambient profile is opened, which is the first of these that is set:
//
//   - the server at $VOLE_URL, with the key in $VOLE_API_KEY or in the file
//     $VOLE_API_KEY_FILE, trusting also the certificates in $VOLE_CA_FILE
//   - the profile $VOLE_PROFILE
//   - the local home $VOLE_HOME
//   - the current profile of the user's file of profiles, which 'vole login' writes:
//     $VOLE_CONFIG, else vole/config.json in $XDG_CONFIG_HOME or ~/.config
//   - the default local home: /var/lib/vole for root and $XDG_DATA_HOME/vole
//     (~/.local/share/vole) for others
//
// What contradicts itself is refused (ErrInvalid), and when the profile that was found
// cannot be used, that is the error: nothing else is opened in its place.
type Options struct {
	// Home is the directory of a local home.
	Home string
	// Profile is the name of a profile in the user's file. "local" is the local home,
	// $VOLE_HOME or the default one.
	Profile string
	// URL is that of a server: https://HOST, or http://HOST:PORT on this host; another
	// one without TLS needs InsecureHTTP, or a profile that says so.
	URL string
	// Key is an API key for the server at URL, or a token of its identity provider.
	Key string
	// CAFile has certificates (PEM) that the server at URL may have its own from, besides
	// those that the system trusts.
	CAFile string
	// InsecureHTTP allows a URL without TLS on another host: everybody between can read the key.
	InsecureHTTP bool
	// ReadOnly opens without the right to change anything. A home on a full or
	// read-only disk, or that this user may not write to, is opened so in any case.
	ReadOnly bool
	// ForeignHome allows a local home that belongs to another user, who decides what its
	// volumes hold, and whether what is done to them lasts. It is refused otherwise
	// (ErrPermission), also to root: what another user has prepared is not to be opened by
	// mistake.
	ForeignHome bool
	// UserAgent is how the program names itself to a server, as "backup/1.2". Default: "vole".
	UserAgent string
}

// Open opens the volumes that opts names. It makes a local home that is not there, and
// finishes or undoes there what processes that died in the middle of a change left. Of
// a server it asks who it is. ErrNoSuch: there is no such profile; ErrPermission: the
// server refuses the key, others can read the file of profiles, or the home belongs to
// another user (see Options.ForeignHome).
func Open(ctx context.Context, opts Options) (*Store, error) {
	c, err := profile.Resolve(profile.Named{Home: opts.Home, Name: opts.Profile, URL: opts.URL, Key: opts.Key, CAFile: opts.CAFile, InsecureHTTP: opts.InsecureHTTP})
	if err != nil {
		return nil, wrapError("open", "", "", err)
	}
	if c.Cloud() {
		b, err := cloud.Open(ctx, cloud.Options{URL: c.URL, Key: c.Key, CAFile: c.CAFile, InsecureHTTP: c.InsecureHTTP, ReadOnly: opts.ReadOnly, UserAgent: opts.UserAgent})
		if err != nil {
			return nil, wrapError("open", "", c.URL, err)
		}
		return New(b), nil
	}
	home := c.Home
	if home == "" {
		if home, err = local.DefaultHome(); err != nil {
			return nil, wrapError("open", "", "", err)
		}
	}
	home, err = filepath.Abs(home)
	if err != nil {
		return nil, wrapError("open", "", "", err)
	}
	b, err := local.Open(ctx, home, local.Options{ReadOnly: opts.ReadOnly, ForeignHome: opts.ForeignHome})
	if err != nil {
		return nil, wrapError("open", "", home, err)
	}
	return New(b), nil
}
