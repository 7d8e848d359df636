// Package accounts keeps in SQL who may use a Vole server and what they did: API keys, volume
// tokens, the audit log, records of idempotent requests, and resumable uploads.
//
// The database is a SQLite file on one host, or a PostgreSQL database that several servers
// share. There its tables, whose names begin with server_, may lie beside those of package
// bucket.
//
// An API key belongs to one organisation. Its secret is shown once, when the key is made; the
// database keeps only its SHA-256. A slow hash would protect nothing: the secret is random and
// cannot be guessed. A volume token is derived from a key for one volume and ends with the key.
//
// Errors match the sentinels of package driver, or [ErrUnauthenticated].
package accounts

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
)

// ErrUnauthenticated is matched by the errors of all secrets and tokens that are not
// accepted: unknown, malformed, expired and revoked ones.
var ErrUnauthenticated = errors.New("unauthenticated")

// Scope is a set of rights.
type Scope uint8

// The scopes. Test for one with [Scope.Has], which knows which implies which.
const (
	Read     Scope = 1 << iota // see volumes and read their files
	Write                      // change volumes and files; implies Read
	Admin                      // make and revoke keys, read the audit log; implies Write
	Operator                   // make and remove organisations; implies nothing else
)

var scopeNames = []struct {
	scope Scope
	name  string
}{{Read, "read"}, {Write, "write"}, {Admin, "admin"}, {Operator, "operator"}}

const allScopes = Read | Write | Admin | Operator

// ParseScopes is the inverse of [Scope.Strings]. The list must not be empty; errors match
// driver.ErrInvalid.
func ParseScopes(list []string) (Scope, error) {
	var s Scope
next:
	for _, name := range list {
		for _, n := range scopeNames {
			if n.name == name {
				s |= n.scope
				continue next
			}
		}
		return 0, driver.Errorf(driver.ErrInvalid, "unknown scope %s; use read, write, admin or operator", quoteClipped(name))
	}
	if s == 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "no scope; give at least one of read, write, admin and operator")
	}
	return s, nil
}

// Strings returns the names of the scopes in the set, without those they imply.
func (s Scope) Strings() []string {
	list := []string{}
	for _, n := range scopeNames {
		if s&n.scope != 0 {
			list = append(list, n.name)
		}
	}
	return list
}

// Has reports whether s includes or implies all of x.
func (s Scope) Has(x Scope) bool { return s.withImplied()&x == x }

// withImplied returns s with the scopes that it implies.
func (s Scope) withImplied() Scope {
	if s&Admin != 0 {
		s |= Write
	}
	if s&Write != 0 {
		s |= Read
	}
	return s
}

// Principal is an authenticated caller and its rights.
type Principal struct {
	KeyID, KeyName, Org string
	Scopes              Scope
	Volumes             []string  // ids of the volumes that may be used; nil: all
	Expires             time.Time // zero: never
}

// Sees reports whether the principal may use a volume at all.
func (p *Principal) Sees(volumeID string) bool {
	return p.Volumes == nil || slices.Contains(p.Volumes, volumeID)
}

// Key is an API key without its secret.
type Key struct {
	ID, Org, Name string
	Scopes        Scope
	Volumes       []string // ids; nil: all volumes of the organisation

	Created  time.Time
	Expires  time.Time // zero: never
	Revoked  time.Time // zero: it is not
	LastUsed time.Time // to the minute; zero: not yet

	CreatedBy string // free text: an address, the name of another key
	Format    string // as in NewKey
}

// NewKey describes a key to make.
type NewKey struct {
	Org     string // checked as the name of a volume is
	Name    string // 1 to 128 bytes, for people to tell keys apart; need not be unique
	Scopes  Scope  // at least one
	Volumes []string
	Expires time.Time // zero: never
	// CreatedBy is up to 128 bytes, or "".
	CreatedBy string
	// Format of the secret: "" for that of Vole, "e2b" for what the SDK of E2B takes.
	Format string
}

// validate returns an error that matches driver.ErrInvalid for a key that cannot be made.
func (n *NewKey) validate(now time.Time) error {
	err := cmp.Or(validateOrg(n.Org), validateText("the name of a key", n.Name, 1, maxTextLen),
		validateText("the maker of a key", n.CreatedBy, 0, maxTextLen))
	if err != nil {
		return err
	}
	if n.Scopes == 0 || n.Scopes&^allScopes != 0 {
		return driver.Errorf(driver.ErrInvalid, "a key needs at least one scope: read, write, admin or operator")
	}
	if n.Format != "" && n.Format != formatE2B {
		return driver.Errorf(driver.ErrInvalid, "unknown format %s of a key; leave it out, or use %q", quoteClipped(n.Format), formatE2B)
	}
	if !n.Expires.IsZero() && (!n.Expires.After(now) || n.Expires.After(latestTime)) {
		return driver.Errorf(driver.ErrInvalid, "the expiry of a key must be in the future and before %d; leave it out for a key that never expires", latestTime.Year())
	}
	return validateVolumes(n.Volumes)
}

// newPrincipal returns the principal that a request with the key has.
func (k *Key) newPrincipal() *Principal {
	return &Principal{
		KeyID: k.ID, KeyName: k.Name, Org: k.Org, Scopes: k.Scopes,
		Volumes: slices.Clone(k.Volumes), Expires: k.Expires,
	}
}

// joinVolumes returns the stored form of a list of volumes; splitVolumes is the inverse.
func joinVolumes(list []string) string { return strings.Join(list, " ") }

func splitVolumes(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, " ")
}
