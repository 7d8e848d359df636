package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

// OIDC configures the identity provider whose tokens are accepted beside keys: signed JWTs of an
// OpenID provider, whose keys are found by its discovery document. The provider need not be
// reachable when the server starts.
//
// A claim is named as it appears in the token, or by a path such as realm_access.roles.
type OIDC struct {
	Issuer   string // URL, exactly as it stands in the tokens
	Audience string // required in tokens
	CAFile   string // PEM file of authorities to trust for Issuer; default: those of the system

	// Org is the organisation of all tokens. Without it, OrgClaim names the claim with the
	// organisation; default: vole_org.
	Org, OrgClaim string
	// ScopeClaim names the claim with the rights: a list, or words separated by spaces; default:
	// vole_scopes.
	ScopeClaim string
	// Scopes maps values of ScopeClaim, such as names of groups, to rights; other values give
	// none. Default: read, write, admin and operator, each for itself.
	Scopes map[string][]string
	// NameClaim names the claim that the audit log shows as the name. Default: the first of
	// email, preferred_username and sub that is present.
	NameClaim string
}

// signingAlgorithms are the accepted ones: all asymmetric. Without a signature, or with a
// symmetric key, whoever can verify a token could forge one.
var signingAlgorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// tokenVerifier verifies the tokens of one provider. It implements core.Verifier.
type tokenVerifier struct {
	OIDC
	scopes   map[string]accounts.Scope
	provider *provider
}

// newTokenVerifier returns nil if o is nil. driver.ErrInvalid.
func (o *OIDC) newTokenVerifier(log *slog.Logger) (core.Verifier, error) {
	if o == nil {
		return nil, nil
	}
	t := &tokenVerifier{OIDC: *o, scopes: map[string]accounts.Scope{}}
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, driver.Errorf(driver.ErrInvalid, "the issuer of tokens must be a URL such as https://login.example.com")
	}
	if o.Audience == "" {
		return nil, driver.Errorf(driver.ErrInvalid, "tokens of %s need an audience; without one, tokens for any other service would be accepted", o.Issuer)
	}
	if o.Org != "" && driver.ValidateName(o.Org) != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "%q is not a valid name of an organisation", o.Org)
	}
	if t.scopes, err = o.scopesByClaimValue(); err != nil {
		return nil, err
	}
	t.OrgClaim = cmp.Or(t.OrgClaim, "vole_org")
	t.ScopeClaim = cmp.Or(t.ScopeClaim, "vole_scopes")
	var roots *x509.CertPool
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, driver.Errorf(driver.ErrInvalid, "%s has no certificate in PEM", o.CAFile)
		}
	}
	t.provider = newProvider(o.Issuer, o.Audience, roots, log)
	return t, nil
}

// scopesByClaimValue returns the rights that each value of ScopeClaim gives.
func (o *OIDC) scopesByClaimValue() (map[string]accounts.Scope, error) {
	m := map[string]accounts.Scope{}
	if o.Scopes == nil {
		for _, name := range []string{"read", "write", "admin", "operator"} {
			m[name], _ = accounts.ParseScopes([]string{name})
		}
	}
	for value, names := range o.Scopes {
		s, err := accounts.ParseScopes(names)
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "the rights of %q: %v", value, err)
		}
		m[value] = s
	}
	return m, nil
}

// tokenRefused returns the error for a token that is not accepted.
func tokenRefused(format string, args ...any) error {
	return driver.Errorf(accounts.ErrUnauthenticated, "the token is not accepted: "+format, args...)
}

// Verify implements core.Verifier.
func (t *tokenVerifier) Verify(ctx context.Context, token string) (*accounts.Principal, error) {
	id, err := t.provider.verifyToken(ctx, token)
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, tokenRefused("its claims cannot be read")
	}
	if id.Subject == "" || !isPrintable(id.Subject) {
		return nil, tokenRefused("it names no subject (sub)")
	}
	org, err := t.orgFromClaims(claims)
	if err != nil {
		return nil, err
	}
	p := &accounts.Principal{KeyID: keyIDOfSubject(id.Subject), KeyName: t.displayName(claims, id.Subject), Org: org, Expires: id.Expiry}
	for _, v := range claimStrings(lookupClaim(claims, t.ScopeClaim)) {
		p.Scopes |= t.scopes[v]
	}
	return p, nil
}

// Gives implements core.Verifier. Only the provider knows who has which claims, so this is the
// most that any token can give.
func (t *tokenVerifier) Gives(org string) (all accounts.Scope) {
	if t.Org != "" && t.Org != org {
		return 0
	}
	for _, s := range t.scopes {
		all |= s
	}
	return all
}

// orgFromClaims returns the one organisation that a token names.
func (t *tokenVerifier) orgFromClaims(claims map[string]any) (string, error) {
	if t.Org != "" {
		return t.Org, nil
	}
	list := claimStrings(lookupClaim(claims, t.OrgClaim))
	switch {
	case len(list) == 0:
		return "", tokenRefused("it does not name an organisation (%s)", t.OrgClaim)
	case len(list) > 1:
		return "", tokenRefused("it names more than one organisation (%s)", t.OrgClaim)
	case driver.ValidateName(list[0]) != nil:
		return "", tokenRefused("it names an invalid organisation (%s)", t.OrgClaim)
	}
	return list[0], nil
}

// displayName returns a readable name for the audit log.
func (t *tokenVerifier) displayName(claims map[string]any, sub string) string {
	names := []string{"email", "preferred_username"}
	if t.NameClaim != "" {
		names = []string{t.NameClaim}
	}
	for _, n := range names {
		if s, ok := lookupClaim(claims, n).(string); ok && s != "" && isPrintable(s) {
			return s
		}
	}
	return sub
}

// keyIDOfSubject returns the id under which a subject is recorded, where others have the id of a
// key. The prefix keeps the two apart; long subjects are hashed.
func keyIDOfSubject(sub string) string {
	if len(sub) > 100 {
		h := sha256.Sum256([]byte(sub))
		sub = "sha256-" + hex.EncodeToString(h[:])
	}
	return "oidc:" + sub
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// lookupClaim returns the claim of that name, or at that path.
func lookupClaim(claims map[string]any, name string) any {
	if v, there := claims[name]; there {
		return v
	}
	first, rest, deeper := strings.Cut(name, ".")
	if inner, ok := claims[first].(map[string]any); ok && deeper {
		return lookupClaim(inner, rest)
	}
	return nil
}

// claimStrings returns the words of a string, or the strings of a list.
func claimStrings(v any) []string {
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var list []string
		for _, x := range v {
			if s, ok := x.(string); ok && !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}
