package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

const (
	formatE2B = "e2b" // of NewKey

	secretPrefix = "vole_"
	secretLen    = 32 // random bytes

	// Of secrets that the SDK of E2B takes: e2b_ and 40 digits of lower-case hex.
	e2bPrefix = "e2b_"
	e2bLen    = 20 // random bytes
)

// randomBytes returns n bytes that nobody can guess.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// newSecret makes the secret of a key.
func newSecret(format string) string {
	if format == formatE2B {
		return e2bPrefix + hex.EncodeToString(randomBytes(e2bLen))
	}
	return secretPrefix + base64.RawURLEncoding.EncodeToString(randomBytes(secretLen))
}

// isWellFormedSecret reports whether s may be a secret, so that what cannot be is not looked up.
func isWellFormedSecret(s string) bool {
	if body, ok := strings.CutPrefix(s, secretPrefix); ok {
		return len(body) == base64.RawURLEncoding.EncodedLen(secretLen) && strings.Trim(body, base64URL) == ""
	}
	body, ok := strings.CutPrefix(s, e2bPrefix)
	return ok && len(body) == 2*e2bLen && strings.Trim(body, "0123456789abcdef") == ""
}

const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

const keyColumns = `id, org, name, scopes, volumes, format, hash, created, created_by, expires, revoked, last_used`

// keyRow is a key as it is stored.
type keyRow struct {
	Key
	hash                                []byte
	scopes                              int64
	volumes                             string
	created, expires, revoked, lastUsed int64
}

func (r *keyRow) scanTargets() []any {
	return []any{&r.ID, &r.Org, &r.Name, &r.scopes, &r.volumes, &r.Format, &r.hash, &r.created, &r.CreatedBy, &r.expires, &r.revoked, &r.lastUsed}
}

// toKey completes the Key with what had to be translated.
func (r *keyRow) toKey() Key {
	k := r.Key
	k.Scopes, k.Volumes = Scope(r.scopes), splitVolumes(r.volumes)
	k.Created, k.Expires = catalog.Time(r.created), catalog.Time(r.expires)
	k.Revoked, k.LastUsed = catalog.Time(r.revoked), catalog.Time(r.lastUsed)
	return k
}

// CreateKey makes an API key and returns it with its secret, which is not to be had
// again. driver.ErrInvalid: n makes no sense.
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
	// A conflict is with itself, when the answer to a first try was lost.
	_, err = s.execRetrying(ctx, `INSERT INTO server_keys (id, org, name, scopes, volumes, format, hash, created, created_by, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
		key.ID, key.Org, key.Name, int64(key.Scopes), joinVolumes(key.Volumes), key.Format, hash[:],
		catalog.Nanos(key.Created), key.CreatedBy, catalog.Nanos(key.Expires))
	if err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

// Authenticate returns who has a secret. Errors match ErrUnauthenticated when it is
// unknown, expired or revoked; others say that the database cannot tell now.
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

// findUsableKey returns the key that a condition finds, if it may be used now. When hash is
// not nil, it must be that of the key. The caller must not change what it gets.
func (s *Store) findUsableKey(ctx context.Context, id, where string, arg any, hash []byte) (*Key, error) {
	if s.closed.Load() {
		return nil, driver.ErrClosed
	}
	now := s.clock()
	e, epoch := s.cache.lookupKey(id, now)
	if e == nil {
		var r keyRow
		found, err := s.queryOne(ctx, r.scanTargets(), `SELECT `+keyColumns+` FROM server_keys WHERE `+where, arg)
		if err != nil {
			return nil, err
		}
		// The database compares as it likes, perhaps for a time that depends on what is
		// stored.
		if !found || hash != nil && subtle.ConstantTimeCompare(r.hash, hash) != 1 {
			return nil, errUnknownKey
		}
		e = &cachedKey{key: r.toKey()}
		if err := e.key.checkUsable(now); err != nil {
			return nil, err
		}
		e.lastUsed.Store(r.lastUsed)
		s.cache.storeKey(id, e, now, epoch)
	}
	s.noteKeyUse(e, now)
	return &e.key, nil
}

// checkUsable returns why the key is not to be accepted, or nil.
func (k *Key) checkUsable(now time.Time) error {
	if !k.Revoked.IsZero() {
		return driver.Errorf(ErrUnauthenticated, "the API key was revoked")
	}
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return driver.Errorf(ErrUnauthenticated, "the API key expired at %s", k.Expires.Format(time.RFC3339))
	}
	return nil
}

// Keys returns the keys of an organisation, newest first, with those that are revoked
// or have expired.
func (s *Store) Keys(ctx context.Context, org string) ([]Key, error) {
	if err := validateOrg(org); err != nil {
		return nil, err
	}
	return queryAll(ctx, s, func(scan scanFunc) (Key, error) {
		var r keyRow
		err := scan(r.scanTargets()...)
		return r.toKey(), err
	}, `SELECT `+keyColumns+` FROM server_keys WHERE org = $1 ORDER BY created DESC, id DESC`, org)
}

// Loss is what nobody may do any more once a key is revoked.
type Loss struct{ Admin, Operator bool }

// Any reports whether there is a loss.
func (l Loss) Any() bool { return l.Admin || l.Operator }

// RevokeOptions says what may be lost with a key.
type RevokeOptions struct {
	// Force revokes the key though it is the last of its kind.
	Force bool
	// Provider says what rights in the key's organisation others have by tokens of the
	// identity provider: their loss is none.
	Provider Scope
}

// LastKeyError refuses to revoke the last key of a kind.
type LastKeyError struct {
	Loss Loss
	Org  string
}

func (e *LastKeyError) Error() string { return "it is " + e.Loss.Text(e.Org) }

// Text says of what kind the key is the last, and what is lost with it.
func (l Loss) Text(org string) string {
	admin := "nobody can make or revoke keys of " + quoteClipped(org) + " or read its audit log, but an operator"
	operator := "nobody can make or remove organisations, or get into one that has lost its keys, but by 'vole serve key create' where the server is"
	switch {
	case l.Admin && l.Operator:
		return "the last admin key of " + quoteClipped(org) + " and the last operator key of the server: without it " + operator + ", and nobody can make or revoke keys of " + quoteClipped(org)
	case l.Admin:
		return "the last admin key of the organisation: without it " + admin
	}
	return "the last operator key of the server: without it " + operator
}

// RevokeKey ends a key and the volume tokens made of it: at once on this Store, within
// Options.CacheFor on others. To revoke it twice is no error, and keeps the first time.
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
	err := s.inExclusiveTx(ctx, func(tx *sql.Tx) error {
		var r keyRow
		k, loss = Key{}, Loss{}
		err := tx.QueryRowContext(ctx, s.adaptParameters(`SELECT `+keyColumns+` FROM server_keys WHERE org = $1 AND id = $2`), org, id).Scan(r.scanTargets()...)
		if errors.Is(err, sql.ErrNoRows) {
			return missing
		}
		if err != nil {
			return err
		}
		if k = r.toKey(); !k.Revoked.IsZero() {
			return nil
		}
		if loss, err = s.lossByRevoking(ctx, tx, k, opts.Provider); err != nil {
			return err
		}
		if loss.Any() && !opts.Force {
			return &LastKeyError{loss, org}
		}
		k.Revoked = catalog.Time(catalog.Nanos(s.clock()))
		_, err = tx.ExecContext(ctx, s.adaptParameters(`UPDATE server_keys SET revoked = $1 WHERE org = $2 AND id = $3`), catalog.Nanos(k.Revoked), org, id)
		return err
	})
	s.cache.forgetKey(id) // even then: the answer alone may have been lost
	return k, loss, err
}

// lossByRevoking finds out what is lost with a key.
func (s *Store) lossByRevoking(ctx context.Context, tx *sql.Tx, k Key, provider Scope) (loss Loss, err error) {
	if k.checkUsable(s.clock()) != nil {
		return loss, nil
	}
	others := func(where string, scope Scope, args ...any) (bool, error) {
		var n int64
		err := tx.QueryRowContext(ctx, s.adaptParameters(`SELECT count(*) FROM server_keys WHERE id <> $1 AND revoked = 0 AND (expires = 0 OR expires > $2) AND (scopes & $3) <> 0`+where),
			append([]any{k.ID, catalog.Nanos(s.clock()), int64(scope)}, args...)...).Scan(&n)
		return n > 0, err
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
	_, err := s.execRetrying(ctx, `UPDATE server_keys SET revoked = $1 WHERE org = $2 AND revoked = 0`, catalog.Nanos(s.clock()), org)
	s.cache.forgetAllKeys()
	return err
}

// HasOperatorKey reports whether there is a key of an operator that may be used now.
func (s *Store) HasOperatorKey(ctx context.Context) (bool, error) {
	return s.queryOne(ctx, []any{new(int)}, `SELECT 1 FROM server_keys WHERE revoked = 0 AND (expires = 0 OR expires > $1) AND (scopes & $2) <> 0 LIMIT 1`,
		catalog.Nanos(s.clock()), int64(Operator))
}

// IsKeyEnded reports whether a secret is that of a key which was revoked or has expired.
func (s *Store) IsKeyEnded(ctx context.Context, secret string) (bool, error) {
	if !isWellFormedSecret(secret) {
		return false, nil
	}
	hash := sha256.Sum256([]byte(secret))
	var r keyRow
	found, err := s.queryOne(ctx, r.scanTargets(), `SELECT `+keyColumns+` FROM server_keys WHERE hash = $1`, hash[:])
	k := r.toKey()
	return found && k.checkUsable(s.clock()) != nil, err
}

// HasAnyKey reports whether a key was ever made, in any organisation.
func (s *Store) HasAnyKey(ctx context.Context) (bool, error) {
	return s.queryOne(ctx, []any{new(int)}, `SELECT 1 FROM server_keys LIMIT 1`)
}
