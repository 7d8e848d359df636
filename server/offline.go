package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/native"
)

// OfflineKey describes a key to make without a server.
type OfflineKey struct {
	Org     string // must exist, unless it is the first one, which the next start makes
	Name    string
	Scopes  []string
	Expires time.Time // zero: never
	Format  string    // "", or "e2b"
}

// CreateKeyOffline makes a key directly in the accounts database of what opts serves, for anyone
// who may write to it. No server need run, and a running one accepts the key at once.
// ErrNotExist: there are no volumes, or no such organisation.
func CreateKeyOffline(ctx context.Context, opts Options, k OfflineKey) (api.NewKey, error) {
	scopes, err := accounts.ParseScopes(k.Scopes)
	if err != nil {
		return api.NewKey{}, err
	}
	if err := opts.checkOrgExists(ctx, k.Org); err != nil {
		return api.NewKey{}, err
	}
	acc, err := accounts.Open(ctx, opts.accountsDatabase(), accounts.Options{})
	if err != nil {
		return api.NewKey{}, err
	}
	const maker = "vole serve key create"
	made, secret, err := acc.CreateKey(ctx, accounts.NewKey{Org: k.Org, Name: k.Name, Scopes: scopes, Expires: k.Expires, Format: k.Format, CreatedBy: maker})
	if err == nil {
		err = acc.RecordNow(ctx, accounts.AuditRecord{At: time.Now(), Org: k.Org, KeyName: maker, Action: "createKey", Detail: made.ID + " " + made.Name, Status: 201})
	}
	if err = errors.Join(err, acc.Close()); err != nil {
		return api.NewKey{}, err
	}
	return api.NewKey{Secret: secret, Key: native.APIKey(made)}, nil
}

// checkOrgExists returns an error unless what opts serves has the organisation.
func (o *Options) checkOrgExists(ctx context.Context, org string) error {
	var names []string
	switch {
	case o.Home != "":
		if err := local.CheckOwner(o.Home, o.ForeignHome); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(o.Home, "catalog.db")); err != nil {
			return driver.Errorf(driver.ErrNoSuch, "there is no home in %s: %v", o.Home, err)
		}
	case o.Bucket == nil:
		return driver.Errorf(driver.ErrInvalid, "set Home or Bucket")
	default:
		var err error
		if names, err = bucket.OrgNames(ctx, *o.Bucket); err != nil {
			return err
		}
	}
	if org != DefaultOrg && !slices.Contains(names, org) {
		return driver.Errorf(driver.ErrNoSuch, "there is no organisation %q; there are: %q", org, append([]string{DefaultOrg}, slices.DeleteFunc(names, func(s string) bool { return s == DefaultOrg })...))
	}
	return nil
}
