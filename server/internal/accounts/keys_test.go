package accounts

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

func TestScopes(t *testing.T) {
	for s, want := range map[Scope]Scope{
		Read: Read, Write: Write | Read, Admin: Admin | Write | Read, Operator: Operator, Operator | Write: Operator | Write | Read,
	} {
		for _, x := range []Scope{Read, Write, Admin, Operator} {
			if s.Has(x) != (want&x != 0) {
				t.Errorf("%v has %v: %v", s.Strings(), x.Strings(), s.Has(x))
			}
		}
		if back, err := ParseScopes(s.Strings()); err != nil || back != s {
			t.Errorf("%v is read as %v, %v", s.Strings(), back.Strings(), err)
		}
	}
	for _, list := range [][]string{nil, {}, {""}, {"Read"}, {"read", "root"}, {"read,write"}, {strings.Repeat("x", 1<<20)}} {
		if s, err := ParseScopes(list); !errors.Is(err, driver.ErrInvalid) || len(err.Error()) > 200 {
			t.Errorf("%.40q: %v, %.200v", list, s, err)
		}
	}
}

func TestKey(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read})
		ctx := t.Context()
		if any, err := s.HasAnyKey(ctx); any || err != nil {
			t.Errorf("a key in an empty database: %v, %v", any, err)
		}
		n := NewKey{
			Org: "acme", Name: "clé «1»", Scopes: Write | Operator, Volumes: []string{vol2, vol1, vol2},
			Expires: c.read().Add(time.Hour), CreatedBy: "root@host", Format: "e2b",
		}
		k, secret, err := s.CreateKey(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		want := Key{
			ID: k.ID, Org: "acme", Name: n.Name, Scopes: n.Scopes, Volumes: []string{vol1, vol2},
			Created: c.read(), Expires: n.Expires, CreatedBy: n.CreatedBy, Format: "e2b",
		}
		if !reflect.DeepEqual(k, want) {
			t.Errorf("made %+v, want %+v", k, want)
		}
		if !regexp.MustCompile(`^e2b_[0-9a-f]{40}$`).MatchString(secret) {
			t.Error("not a secret that the SDK of E2B takes")
		}
		p, err := s.Authenticate(ctx, secret)
		wantP := &Principal{KeyID: k.ID, KeyName: n.Name, Org: "acme", Scopes: n.Scopes, Volumes: []string{vol1, vol2}, Expires: n.Expires}
		if err != nil || !reflect.DeepEqual(p, wantP) {
			t.Errorf("%+v, %v; want %+v", p, err, wantP)
		}
		c.add(time.Second)
		k2, secret2 := makeKey(t, s, NewKey{})
		if !regexp.MustCompile(`^vole_[A-Za-z0-9_-]{43}$`).MatchString(secret2) {
			t.Error("not a secret of Vole")
		}
		makeKey(t, s, NewKey{Org: "other"})
		keys, err := s.Keys(ctx, "acme")
		if err != nil || len(keys) != 2 || keys[0].ID != k2.ID || keys[1].ID != k.ID || keys[0].Volumes != nil {
			t.Errorf("keys %+v, %v", keys, err)
		}
		if any, err := s.HasAnyKey(ctx); !any || err != nil {
			t.Errorf("no key: %v, %v", any, err)
		}
	})
}

// TestPrincipalIsACopy: what is done to a Principal is of no concern to the next.
func TestPrincipalIsACopy(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{})
	_, secret := makeKey(t, s, NewKey{Volumes: []string{vol1}})
	for range 2 {
		p, err := s.Authenticate(t.Context(), secret)
		if err != nil || p.Scopes != Write || !p.Sees(vol1) || p.Sees(vol2) {
			t.Fatalf("%+v, %v", p, err)
		}
		p.Scopes, p.Volumes[0] = Admin, vol2
	}
}

func TestNewKeyIsChecked(t *testing.T) {
	c := newClock()
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{Clock: c.read})
	for what, change := range map[string]func(*NewKey){
		"no organisation":       func(n *NewKey) { n.Org = "" },
		"a path for one":        func(n *NewKey) { n.Org = "../acme" },
		"a long one":            func(n *NewKey) { n.Org = strings.Repeat("a", 129) },
		"no name":               func(n *NewKey) { n.Name = "" },
		"a long name":           func(n *NewKey) { n.Name = strings.Repeat("a", 129) },
		"a name of two lines":   func(n *NewKey) { n.Name = "a\nb" },
		"a name with NUL":       func(n *NewKey) { n.Name = "a\x00b" },
		"a name not of UTF-8":   func(n *NewKey) { n.Name = "a\xff" },
		"a long maker":          func(n *NewKey) { n.CreatedBy = strings.Repeat("a", 129) },
		"no scope":              func(n *NewKey) { n.Scopes = 0 },
		"a scope that is none":  func(n *NewKey) { n.Scopes = 1 << 5 },
		"an end now":            func(n *NewKey) { n.Expires = c.read() },
		"an end in the past":    func(n *NewKey) { n.Expires = c.read().Add(-1) },
		"an end too far away":   func(n *NewKey) { n.Expires = time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"an empty list":         func(n *NewKey) { n.Volumes = []string{} },
		"a volume's name":       func(n *NewKey) { n.Volumes = []string{"cache"} },
		"an upper-case id":      func(n *NewKey) { n.Volumes = []string{strings.ToUpper(vol1)} },
		"an id in braces":       func(n *NewKey) { n.Volumes = []string{"{" + vol1 + "}"} },
		"an id with a space":    func(n *NewKey) { n.Volumes = []string{vol1 + " "} },
		"too many volumes":      func(n *NewKey) { n.Volumes = slices.Repeat([]string{vol1}, maxVolumes+1) },
		"a format that is none": func(n *NewKey) { n.Format = "aws" },
	} {
		n := NewKey{Org: "acme", Name: "k", Scopes: Read}
		change(&n)
		if _, _, err := s.CreateKey(t.Context(), n); !errors.Is(err, driver.ErrInvalid) || len(err.Error()) > 250 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if any, err := s.HasAnyKey(t.Context()); any || err != nil {
		t.Errorf("a key was made: %v, %v", any, err)
	}
	most := NewKey{Org: strings.Repeat("a", 128), Name: strings.Repeat("ß", 64), CreatedBy: strings.Repeat("b", 128), Scopes: allScopes}
	for range maxVolumes {
		most.Volumes = append(most.Volumes, uuid.NewString())
	}
	if _, _, err := s.CreateKey(t.Context(), most); err != nil {
		t.Errorf("all at its most: %v", err)
	}
}

// refused checks that err is that of a secret or token, with a detail, and shows none.
func refused(t *testing.T, what string, err error, detail, secret string) {
	t.Helper()
	if !errors.Is(err, ErrUnauthenticated) || !strings.Contains(err.Error(), detail) {
		t.Errorf("%s: %v, want %q", what, err, detail)
	}
	if err != nil && len(secret) > 8 && strings.Contains(err.Error(), secret[5:]) {
		t.Errorf("%s: the error shows the secret", what)
	}
}

func TestSecretsThatAreNone(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{})
		_, secret := makeKey(t, s, NewKey{})
		_, e2b := makeKey(t, s, NewKey{Format: "e2b"})
		bad := []string{"", "vole_", "e2b_", newSecret(""), newSecret("e2b"), secret + "A", secret[1:], " " + secret, secret + "\n",
			strings.ToUpper(e2b), strings.Repeat("x", 1<<20), "vole_" + strings.Repeat("\x00", 43), "e2b_" + strings.Repeat("\xff", 40)}
		for _, good := range []string{secret, e2b} {
			if _, err := s.Authenticate(t.Context(), good); err != nil {
				t.Error(err)
			}
			for i := range good {
				b := []byte(good)
				b[i] ^= 1
				bad = append(bad, string(b), good[:i])
			}
		}
		for _, b := range bad {
			_, err := s.Authenticate(t.Context(), b)
			refused(t, fmt.Sprintf("%.60q", b), err, "unknown", b)
		}
	})
}

// TestExpiry moves the clock to the very end of a key, which the cache must not outlive.
func TestExpiry(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		s := openStore(t, database, Options{Clock: c.read, CacheFor: time.Hour})
		_, secret := makeKey(t, s, NewKey{Expires: c.read().Add(time.Minute)})
		for range 2 {
			if _, err := s.Authenticate(t.Context(), secret); err != nil {
				t.Error(err)
			}
			c.add(time.Minute - 1)
		}
		c.add(-(time.Minute - 1) + 1) // one minute after it was made
		_, err := s.Authenticate(t.Context(), secret)
		refused(t, "after its end", err, "expired at 2030-01-02T03:05:05Z", secret)
	})
}

func TestRevoke(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		here, there := openStore(t, database, Options{Clock: c.read}), openStore(t, database, Options{Clock: c.read})
		ctx := t.Context()
		k, secret := makeKey(t, here, NewKey{})
		var tokens [2]string
		for i, s := range []*Store{here, there} {
			p, err := s.Authenticate(ctx, secret)
			if err != nil {
				t.Fatal(err)
			}
			if tokens[i], err = s.VolumeToken(ctx, p, vol1, time.Hour); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.AuthenticateVolume(ctx, tokens[i]); err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range [][2]string{{"other", k.ID}, {"acme", vol1}, {"acme", ""}, {"acme", "x\x00"}, {"acme", strings.ToUpper(k.ID)}} {
			if _, _, err := here.RevokeKey(ctx, x[0], x[1], RevokeOptions{Force: true}); !errors.Is(err, driver.ErrNotExist) {
				t.Errorf("revoked %q: %v", x, err)
			}
		}
		if _, err := here.Authenticate(ctx, secret); err != nil {
			t.Errorf("the key, when others were to be revoked: %v", err)
		}
		first := c.read()
		for range 2 {
			got, _, err := here.RevokeKey(ctx, "acme", k.ID, RevokeOptions{Force: true})
			if err != nil || got.ID != k.ID || !got.Revoked.Equal(first) {
				t.Errorf("%+v, %v", got, err)
			}
			c.add(time.Second)
		}
		_, err := here.Authenticate(ctx, secret)
		refused(t, "on this Store", err, "revoked", secret)
		_, _, err = here.AuthenticateVolume(ctx, tokens[1])
		refused(t, "a token on this Store", err, "revoked", secret)
		c.add(5*time.Second - 2*time.Second)
		_, err = there.Authenticate(ctx, secret)
		refused(t, "on another Store after CacheFor", err, "revoked", secret)
		_, _, err = there.AuthenticateVolume(ctx, tokens[0])
		refused(t, "a token on another Store after CacheFor", err, "revoked", secret)
		if keys, err := there.Keys(ctx, "acme"); err != nil || len(keys) != 1 || !keys[0].Revoked.Equal(first) {
			t.Errorf("%+v, %v", keys, err)
		}
	})
}

// TestRevokeAtOnce authenticates without end while keys are revoked: once RevokeKey has
// returned none is accepted on that Store.
func TestRevokeAtOnce(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{CacheFor: time.Hour})
		for range 20 {
			k, secret := makeKey(t, s, NewKey{})
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							s.cache.mu.Lock()
							clear(s.cache.entries) // so that the database is asked
							s.cache.mu.Unlock()
							_, _ = s.Authenticate(t.Context(), secret)
						}
					}
				})
			}
			if _, _, err := s.RevokeKey(t.Context(), "acme", k.ID, RevokeOptions{Force: true}); err != nil {
				t.Error(err)
			}
			for range 10 {
				_, err := s.Authenticate(t.Context(), secret)
				refused(t, "a revoked key", err, "revoked", secret)
			}
			close(stop)
			wg.Wait()
			_, err := s.Authenticate(t.Context(), secret)
			refused(t, "a revoked key", err, "revoked", secret)
		}
	})
}

// TestNoSecrets looks for secrets in the files of the database and in what a Principal
// and a Key show.
func TestNoSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openStore(t, path, Options{})
	var secrets []string
	for _, format := range []string{"", "e2b"} {
		k, secret := makeKey(t, s, NewKey{Format: format})
		p, err := s.Authenticate(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.VolumeToken(t.Context(), p, vol1, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.AuthenticateVolume(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		shown, err := json.Marshal([]any{k, p})
		if err != nil || strings.Contains(fmt.Sprintf("%s %+v %+v", shown, k, p), secret[5:]) {
			t.Errorf("a secret is shown: %v", err)
		}
		secrets = append(secrets, secret, token)
	}
	has := func(what []byte) bool {
		found := false
		for _, suffix := range []string{"", "-wal", "-shm"} {
			b, err := os.ReadFile(path + suffix)
			if err != nil && suffix == "" {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(b), string(what))
		}
		return found
	}
	check := func() {
		t.Helper()
		for i, secret := range secrets {
			if has([]byte(secret[5:])) || has([]byte(secret[8:24])) {
				t.Errorf("secret %d is in the database", i)
			}
		}
		if hash := sha256.Sum256([]byte(secrets[0])); !has(hash[:]) {
			t.Error("the hash is not: the test looks in the wrong place")
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check()
}

func FuzzSecret(f *testing.F) {
	s := openStore(f, filepath.Join(f.TempDir(), "db"), Options{CacheFor: -1})
	_, native := makeKey(f, s, NewKey{})
	_, e2b := makeKey(f, s, NewKey{Format: "e2b"})
	for _, seed := range []string{"", native, e2b, newSecret(""), newSecret("e2b"), "vole_", "e2b_\x00", native + "=", native[:20], strings.ToUpper(e2b)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		p, err := s.Authenticate(t.Context(), secret)
		if good := secret == native || secret == e2b; good != (err == nil) || good != (p != nil) {
			t.Errorf("%q: %+v, %v", secret, p, err)
		} else if !good && !errors.Is(err, ErrUnauthenticated) {
			t.Error(err)
		}
	})
}
