package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

// identity is an OpenID provider that signs whatever it is asked to.
type identity struct {
	*httptest.Server
	keys  atomic.Pointer[jose.JSONWebKeySet]
	away  atomic.Bool
	asked atomic.Int64 // for keys
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
}

func newIdentity(t *testing.T) *identity {
	t.Helper()
	p := &identity{}
	var err error
	if p.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.publish(map[string]crypto.PublicKey{"r1": p.rsa.Public(), "e1": p.ec.Public()})
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if p.away.Load() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		if p.away.Load() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(p.keys.Load())
	})
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *identity) publish(keys map[string]crypto.PublicKey) {
	set := &jose.JSONWebKeySet{}
	for id, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, KeyID: id, Use: "sig"})
	}
	p.keys.Store(set)
}

// ca is a file with the provider's certificate.
func (p *identity) ca(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// claims are those of a token that is accepted, with changes; nil takes one away.
func (p *identity) claims(changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": p.URL, "aud": "vole", "sub": "u-1", "email": "ann@example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"vole_org": "default", "vole_scopes": []string{"write", "else"},
	}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func verifier(t *testing.T, o OIDC) core.Verifier {
	t.Helper()
	v, err := o.newTokenVerifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOIDCAccepts(t *testing.T) {
	p := newIdentity(t)
	base := OIDC{Issuer: p.URL, Audience: "vole", CAFile: p.ca(t)}
	groups := base
	groups.ScopeClaim, groups.Scopes = "realm_access.roles", map[string][]string{"platform": {"admin", "operator"}, "dev": {"write"}}
	fixed := base
	fixed.Org, fixed.NameClaim = "acme", "https://example.com/name"
	for name, c := range map[string]struct {
		o      OIDC
		claims map[string]any
		want   accounts.Principal
	}{
		"plain":   {base, nil, accounts.Principal{KeyID: "oidc:u-1", KeyName: "ann@example.com", Org: "default", Scopes: accounts.Write}},
		"words":   {base, map[string]any{"vole_scopes": "read operator"}, accounts.Principal{KeyID: "oidc:u-1", KeyName: "ann@example.com", Org: "default", Scopes: accounts.Read | accounts.Operator}},
		"nothing": {base, map[string]any{"vole_scopes": nil, "email": nil, "aud": []string{"x", "vole"}}, accounts.Principal{KeyID: "oidc:u-1", KeyName: "u-1", Org: "default"}},
		"groups": {groups, map[string]any{"realm_access": map[string]any{"roles": []string{"dev", "platform", "read"}}},
			accounts.Principal{KeyID: "oidc:u-1", KeyName: "ann@example.com", Org: "default", Scopes: accounts.Write | accounts.Admin | accounts.Operator}},
		"fixed": {fixed, map[string]any{"vole_org": "evil", "https://example.com/name": "Ann"}, accounts.Principal{KeyID: "oidc:u-1", KeyName: "Ann", Org: "acme", Scopes: accounts.Write}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, token := range []string{
				sign(t, jose.RS256, p.rsa, "r1", p.claims(c.claims)),
				sign(t, jose.ES256, p.ec, "e1", p.claims(c.claims)),
			} {
				got, err := verifier(t, c.o).Verify(t.Context(), token)
				if err != nil {
					t.Fatal(err)
				}
				if got.KeyID != c.want.KeyID || got.KeyName != c.want.KeyName || got.Org != c.want.Org || got.Scopes != c.want.Scopes || got.Volumes != nil || got.Expires.IsZero() {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
			}
		})
	}
}

func TestOIDCRefuses(t *testing.T) {
	p := newIdentity(t)
	other := newIdentity(t)
	v := verifier(t, OIDC{Issuer: p.URL, Audience: "vole", CAFile: p.ca(t)})
	rs := func(changes map[string]any) string { return sign(t, jose.RS256, p.rsa, "r1", p.claims(changes)) }
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	none := part(map[string]string{"alg": "none"}) + "." + part(p.claims(nil)) + "."
	whole := strings.Split(rs(nil), ".")
	public, err := json.Marshal(p.keys.Load().Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, text string }{
		"expired":        {rs(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "it expired at"},
		"no expiry":      {rs(map[string]any{"exp": nil}), "it expired at"},
		"not yet":        {rs(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "nbf"},
		"wrong audience": {rs(map[string]any{"aud": "other"}), `expected audience "vole"`},
		"no audience":    {rs(map[string]any{"aud": nil}), `expected audience "vole"`},
		"wrong issuer":   {rs(map[string]any{"iss": "https://evil.example.com"}), "different provider"},
		"no org":         {rs(map[string]any{"vole_org": nil}), "does not name an organisation (vole_org)"},
		"two orgs":       {rs(map[string]any{"vole_org": []string{"a", "b"}}), "more than one organisation"},
		"strange org":    {rs(map[string]any{"vole_org": "../x"}), "an invalid organisation"},
		"org is a list":  {rs(map[string]any{"vole_org": map[string]any{}}), "does not name an organisation"},
		"no subject":     {rs(map[string]any{"sub": nil}), "names no subject"},
		"bad subject":    {rs(map[string]any{"sub": "a\nb"}), "names no subject"},
		"alg none":       {none, "signature algorithm"},
		"symmetric":      {sign(t, jose.HS256, append(public, make([]byte, 32)...), "r1", p.claims(nil)), "signature algorithm"},
		"other key":      {sign(t, jose.RS256, other.rsa, "r1", p.claims(nil)), "failed to verify"},
		"unknown key":    {sign(t, jose.RS256, other.rsa, "r9", p.claims(nil)), "failed to verify"},
		"changed":        {whole[0] + "." + part(p.claims(map[string]any{"vole_scopes": "admin"})) + "." + whole[2], "failed to verify"},
		"garbage":        {"a.b.c", "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := v.Verify(t.Context(), c.token)
			if !errors.Is(err, accounts.ErrUnauthenticated) || who != nil || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v, %v; want an error with %q", who, err, c.text)
			}
			if status, _, _ := core.Describe(err); status != http.StatusUnauthorized {
				t.Errorf("status %d", status)
			}
		})
	}
}

// A provider that is away is no fault of tokens, and does not stop a server; keys that
// it changes are found; strangers cannot make the server flood it.
func TestOIDCProviderAway(t *testing.T) {
	p := newIdentity(t)
	p.away.Store(true)
	v := verifier(t, OIDC{Issuer: p.URL, Audience: "vole", CAFile: p.ca(t)})
	token := sign(t, jose.RS256, p.rsa, "r1", p.claims(nil))
	_, err := v.Verify(t.Context(), token)
	if status, code, _ := core.Describe(err); status != http.StatusServiceUnavailable || code != "unavailable" {
		t.Fatalf("away: %v (%d)", err, status)
	}
	p.away.Store(false)
	if _, err := v.Verify(t.Context(), token); err == nil {
		t.Fatal("asked again at once")
	}
	pv := v.(*tokenVerifier).provider
	pv.mu.Lock()
	pv.retryAfter = time.Now()
	pv.mu.Unlock()
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}

	p.publish(map[string]crypto.PublicKey{"e2": p.ec.Public()})
	if _, err := v.Verify(t.Context(), sign(t, jose.ES256, p.ec, "e2", p.claims(nil))); err != nil {
		t.Fatal("a new key:", err)
	}
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, accounts.ErrUnauthenticated) {
		t.Fatal("an old key:", err)
	}

	before := p.asked.Load()
	for range 200 {
		_, _ = v.Verify(t.Context(), sign(t, jose.ES256, p.ec, "e3", p.claims(nil)))
	}
	if n := p.asked.Load() - before; n > 50 {
		t.Errorf("the provider was asked %d times for 200 tokens with an unknown key", n)
	}
	if _, err := v.Verify(t.Context(), sign(t, jose.ES256, p.ec, "e2", p.claims(nil))); err != nil {
		t.Error("a good token meanwhile:", err)
	}
}

// Whoever waits for a provider that does not answer may give up.
func TestOIDCBounded(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(func() { close(hang); s.Close() })
	v := verifier(t, OIDC{Issuer: s.URL, Audience: "vole"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := v.Verify(ctx, "a.b.c"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestOIDCOptions(t *testing.T) {
	good := OIDC{Issuer: "https://login.example.com", Audience: "vole"}
	for name, change := range map[string]func(*OIDC){
		"no audience": func(o *OIDC) { o.Audience = "" },
		"no issuer":   func(o *OIDC) { o.Issuer = "" },
		"no URL":      func(o *OIDC) { o.Issuer = "login.example.com" },
		"password":    func(o *OIDC) { o.Issuer = "https://a:hunter2@login.example.com" },
		"org":         func(o *OIDC) { o.Org = "a/b" },
		"scope":       func(o *OIDC) { o.Scopes = map[string][]string{"g": {"root"}} },
		"no CA":       func(o *OIDC) { o.CAFile = "/nonexistent" },
	} {
		o := good
		change(&o)
		if _, err := o.newTokenVerifier(slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := keyIDOfSubject(strings.Repeat("x", 300)); len(got) > 128 || !strings.HasPrefix(got, "oidc:sha256-") {
		t.Errorf("keyID of a long subject: %q", got)
	}
	if got := claimStrings([]any{"a", 1, "a", "b"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("texts: %q", got)
	}
}
