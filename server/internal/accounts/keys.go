package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/sqldb"
)

const (
	formatE2B = "e2b" // of NewKey

	secretPrefix = "vole_"
	secretLen    = 32 // random bytes

	// Of secrets that the SDK of E2B takes: e2b_ and 40 digits of lower-case hex.
	e2bPrefix = "e2b_"
	e2bLen    = 20 // random bytes
)

// randomBytes returns n bytes of the system's secure random source.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// newSecret returns the secret of a new key.
func newSecret(format string) string {
	if format == formatE2B {
		return e2bPrefix + hex.EncodeToString(randomBytes(e2bLen))
	}
	return secretPrefix + base64.RawURLEncoding.EncodeToString(randomBytes(secretLen))
}

// isWellFormedSecret reports whether s has the form of a secret. Others are not looked up.
func isWellFormedSecret(s string) bool {
	if body, ok := strings.CutPrefix(s, secretPrefix); ok {
		return len(body) == base64.RawURLEncoding.EncodedLen(secretLen) && strings.Trim(body, base64URL) == ""
	}
	body, ok := strings.CutPrefix(s, e2bPrefix)
	return ok && len(body) == 2*e2bLen && strings.Trim(body, "0123456789abcdef") == ""
}

const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

const keyColumns = `id, org, name, scopes, volumes, format, hash, created, created_by, expires, revoked, last_used`

// keyRow is a row of keyColumns.
type keyRow struct {
	Key
	hash                                []byte
	scopes                              int64
	volumes                             string
	created, expires, revoked, lastUsed int64
}

// scanTargets returns where to scan the columns to.
func (r *keyRow) scanTargets() []any {
	return []any{&r.ID, &r.Org, &r.Name, &r.scopes, &r.volumes, &r.Format, &r.hash, &r.created, &r.CreatedBy, &r.expires, &r.revoked, &r.lastUsed}
}

// toKey returns the Key with the translated columns.
func (r *keyRow) toKey() Key {
	k := r.Key
	k.Scopes, k.Volumes = Scope(r.scopes), splitVolumes(r.volumes)
	k.Created, k.Expires = catalog.Time(r.created), catalog.Time(r.expires)
	k.Revoked, k.LastUsed = catalog.Time(r.revoked), catalog.Time(r.lastUsed)
	return k
}

// CreateKey makes an API key and returns it with its secret, which cannot be read again.
// driver.ErrInvalid: n is invalid.
func (s *Store) CreateKey(ctx context.Context, n NewKey) (key Key, secret string, err error) {
	now := s.clock().UTC()
	if err := n.validate(now); err != nil {
		return Key{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Key{}, "", err
	}
	secret = newSecret(n.Format)
	hash := sha256.Sum256([]byte(secret))
	key = Key{
		ID: id.String(), Org: n.Org, Name: n.Name, Scopes: n.Scopes, Volumes: sortedDistinct(n.Volumes), Format: n.Format,
		Created: catalog.Time(catalog.Nanos(now)), CreatedBy: n.CreatedBy, Expires: catalog.Time(catalog.Nanos(n.Expires)),
	}
	// A conflict can only be with itself, if the answer to a first try was lost.
	_, err = s.exec(ctx, `INSERT INTO server_keys (id, org, name, scopes, volumes, format, hash, created, created_by, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
		key.ID, key.Org, key.Name, int64(key.Scopes), joinVolumes(key.Volumes), key.Format, hash[:],
		catalog.Nanos(key.Created), key.CreatedBy, catalog.Nanos(key.Expires))
	if err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

// Authenticate returns the principal of a secret. Errors match ErrUnauthenticated if it is
// unknown, expired or revoked; others mean that the database does not answer.
func (s *Store) Authenticate(ctx context.Context, secret string) (*Principal, error) {
	if !isWellFormedSecret(secret) {
		return nil, errUnknownKey
	}
	hash := sha256.Sum256([]byte(secret))
	k, err := s.findUsableKey(ctx, string(hash[:]), `hash = $1`, hash[:], hash[:])
	if err != nil {
		return nil, err
	}
	return k.newPrincipal(), nil
}

var errUnknownKey = driver.Errorf(ErrUnauthenticated, "the API key is unknown")

// findUsableKey returns the key that a condition selects, from the cache or the database, if it
// may be used now. If hash is not nil it must be that of the key. cacheID names it in the cache.
// The result is shared: callers must not change it.
func (s *Store) findUsableKey(ctx context.Context, cacheID, where string, arg any, hash []byte) (*Key, error) {
	if s.closed.Load() {
		return nil, driver.ErrClosed
	}
	now := s.clock()
	cached, epoch := s.cache.lookupKey(cacheID, now)
	if cached == nil {
		var row keyRow
		found, err := s.queryOne(ctx, row.scanTargets(), `SELECT `+keyColumns+` FROM server_keys WHERE `+where, arg)
		if err != nil {
			return nil, err
		}
		// Compared again in constant time: the database's comparison may take a time that
		// depends on what is stored.
		if !found || hash != nil && subtle.ConstantTimeCompare(row.hash, hash) != 1 {
			return nil, errUnknownKey
		}
		cached = &cachedKey{key: row.toKey()}
		if err := cached.key.checkUsable(now); err != nil {
			return nil, err
		}
		cached.lastUsed.Store(row.lastUsed)
		s.cache.storeKey(cacheID, cached, now, epoch)
	}
	s.noteKeyUse(cached, now)
	return &cached.key, nil
}

// checkUsable returns an error if the key is revoked or expired.
func (k *Key) checkUsable(now time.Time) error {
	if !k.Revoked.IsZero() {
		return driver.Errorf(ErrUnauthenticated, "the API key was revoked")
	}
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return driver.Errorf(ErrUnauthenticated, "the API key expired at %s", k.Expires.Format(time.RFC3339))
	}
	return nil
}

// Keys returns the keys of an organisation, newest first, including revoked and expired ones.
func (s *Store) Keys(ctx context.Context, org string) ([]Key, error) {
	if err := validateOrg(org); err != nil {
		return nil, err
	}
	return queryAll(ctx, s, func(scan sqldb.Scanner) (Key, error) {
		var row keyRow
		err := scan(row.scanTargets()...)
		return row.toKey(), err
	}, `SELECT `+keyColumns+` FROM server_keys WHERE org = $1 ORDER BY created DESC, id DESC`, org)
}

// Loss says which rights nobody has any more once a key is revoked.
type Loss struct{ Admin, Operator bool }

// Any reports whether a right is lost.
func (l Loss) Any() bool { return l.Admin || l.Operator }

// RevokeOptions says which losses are acceptable.
type RevokeOptions struct {
	// Force revokes even the last key of its kind.
	Force bool
	// Provider is the rights that tokens of the identity provider give in the key's
	// organisation: those are not lost with a key.
	Provider Scope
}

// LastKeyError refuses to revoke the last key of a kind.
type LastKeyError struct {
	Loss Loss
	Org  string
}

func (e *LastKeyError) Error() string { return "it is " + e.Loss.Text(e.Org) }

// Text describes what is lost, for users.
func (l Loss) Text(org string) string {
	admin := "only an operator can create or revoke keys of " + quoteClipped(org) + " or read its audit log"
	operator := "organisations, and keys for one that has none left, can only be managed by 'vole serve key create' on the server's host"
	switch {
	case l.Admin && l.Operator:
		return "the last admin key of " + quoteClipped(org) + " and the last operator key of the server: without it " + operator + ", and no one can create or revoke keys of " + quoteClipped(org)
	case l.Admin:
		return "the last admin key of the organisation: without it " + admin
	}
	return "the last operator key of the server: without it " + operator
}

// RevokeKey ends a key and the volume tokens made from it: at once on this Store, within
// Options.CacheFor on others. Revoking twice is no error and keeps the first time.
// driver.ErrNotExist: the organisation has no such key; *LastKeyError.
func (s *Store) RevokeKey(ctx context.Context, org, id string, opts RevokeOptions) (Key, Loss, error) {
	if err := validateOrg(org); err != nil {
		return Key{}, Loss{}, err
	}
	missing := driver.Errorf(driver.ErrNotExist, "there is no API key %s", quoteClipped(id))
	if _, err := parseCanonicalID(id); err != nil {
		return Key{}, Loss{}, missing
	}
	var k Key
	var loss Loss
	err := s.inExclusiveTx(ctx, func(tx sqldb.Tx) error {
		var row keyRow
		k, loss = Key{}, Loss{}
		err := tx.RunQueries(sqldb.SelectRow(missing, row.scanTargets(), `SELECT `+keyColumns+` FROM server_keys WHERE org = $1 AND id = $2`, org, id))
		if err != nil {
			return err
		}
		if k = row.toKey(); !k.Revoked.IsZero() {
			return nil
		}
		if loss, err = s.lossByRevoking(tx, k, opts.Provider); err != nil {
			return err
		}
		if loss.Any() && !opts.Force {
			return &LastKeyError{loss, org}
		}
		k.Revoked = catalog.Time(catalog.Nanos(s.clock()))
		tx.QueueExec(`UPDATE server_keys SET revoked = $1 WHERE org = $2 AND id = $3`, catalog.Nanos(k.Revoked), org, id)
		return nil
	})
	s.cache.forgetKey(id) // on errors too: the commit may have succeeded
	return k, loss, err
}

// lossByRevoking determines which rights would be lost with k. It runs in the exclusive
// transaction of the revocation, so that two concurrent revocations cannot end the last two
// keys.
func (s *Store) lossByRevoking(tx sqldb.Tx, k Key, provider Scope) (loss Loss, err error) {
	if k.checkUsable(s.clock()) != nil {
		return loss, nil
	}
	others := func(where string, scope Scope, args ...any) (found bool, err error) {
		err = tx.RunQueries(sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM server_keys WHERE id <> $1 AND revoked = 0 AND (expires = 0 OR expires > $2) AND (scopes & $3) <> 0`+where+` LIMIT 1`,
			append([]any{k.ID, catalog.Nanos(s.clock()), int64(scope)}, args...)...))
		return found, err
	}
	var more bool
	if k.Scopes.Has(Admin) && k.Volumes == nil && !provider.Has(Admin) {
		if more, err = others(` AND org = $4 AND volumes = ''`, Admin, k.Org); err != nil {
			return loss, err
		}
		loss.Admin = !more
	}
	if k.Scopes.Has(Operator) && !provider.Has(Operator) {
		if more, err = others(``, Operator); err != nil {
			return loss, err
		}
		loss.Operator = !more
	}
	return loss, nil
}

// RevokeOrg revokes all keys of an organisation that is being removed.
func (s *Store) RevokeOrg(ctx context.Context, org string) error {
	_, err := s.exec(ctx, `UPDATE server_keys SET revoked = $1 WHERE org = $2 AND revoked = 0`, catalog.Nanos(s.clock()), org)
	s.cache.forgetAllKeys()
	return err
}

// HasOperatorKey reports whether an operator key can be used now.
func (s *Store) HasOperatorKey(ctx context.Context) (bool, error) {
	return s.queryOne(ctx, []any{new(int)}, `SELECT 1 FROM server_keys WHERE revoked = 0 AND (expires = 0 OR expires > $1) AND (scopes & $2) <> 0 LIMIT 1`,
		catalog.Nanos(s.clock()), int64(Operator))
}

// IsKeyEnded reports whether a secret belongs to a revoked or expired key.
func (s *Store) IsKeyEnded(ctx context.Context, secret string) (bool, error) {
	if !isWellFormedSecret(secret) {
		return false, nil
	}
	hash := sha256.Sum256([]byte(secret))
	var row keyRow
	found, err := s.queryOne(ctx, row.scanTargets(), `SELECT `+keyColumns+` FROM server_keys WHERE hash = $1`, hash[:])
	k := row.toKey()
	return found && k.checkUsable(s.clock()) != nil, err
}

// HasAnyKey reports whether a key was ever made, in any organisation.
func (s *Store) HasAnyKey(ctx context.Context) (bool, error) {
	return s.queryOne(ctx, []any{new(int)}, `SELECT 1 FROM server_keys LIMIT 1`)
}
