package accounts

import (
	"bytes"
	"encoding/base64"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

// token makes a key and a token of it for vol1.
func token(t testing.TB, s *Store, n NewKey, ttl time.Duration) (Key, *Principal, string) {
	t.Helper()
	k, secret := makeKey(t, s, n)
	p, err := s.Authenticate(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := s.VolumeToken(t.Context(), p, vol1, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return k, p, tok
}

func TestVolumeToken(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		c := newClock()
		here, there := openStore(t, database, Options{Clock: c.read}), openStore(t, database, Options{Clock: c.read})
		for scopes, want := range map[Scope]Scope{
			Read: Read, Write: Read | Write, Admin: Read | Write, Admin | Operator: Read | Write, Operator | Read: Read,
		} {
			k, _, tok := token(t, here, NewKey{Scopes: scopes, Name: "t"}, time.Hour)
			wantP := &Principal{KeyID: k.ID, KeyName: "t", Org: "acme", Scopes: want, Volumes: []string{vol1}, Expires: c.read().Add(time.Hour)}
			for _, s := range []*Store{here, there} {
				for range 2 { // from the database, from the cache
					p, vol, err := s.AuthenticateVolume(t.Context(), tok)
					if err != nil || vol != vol1 || !reflect.DeepEqual(p, wantP) {
						t.Errorf("%+v, %s, %v; want %+v", p, vol, err, wantP)
					}
				}
				// It is no secret of a key, nor is the key's secret a token.
				_, err := s.Authenticate(t.Context(), tok)
				refused(t, "a token as a secret", err, "unknown", tok)
			}
		}
		_, secret := makeKey(t, here, NewKey{})
		_, _, err := here.AuthenticateVolume(t.Context(), secret)
		refused(t, "a secret as a token", err, "unknown", secret)
	})
}

func TestVolumeTokenIsChecked(t *testing.T) {
	c := newClock()
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{Clock: c.read})
	ctx := t.Context()
	_, p, _ := token(t, s, NewKey{Volumes: []string{vol1}, Expires: c.read().Add(time.Hour)}, time.Minute)
	operator := *p
	operator.Scopes = Operator
	for what, x := range map[string]struct {
		p    *Principal
		vol  string
		ttl  time.Duration
		kind error
	}{
		"another volume":       {p, vol2, time.Hour, driver.ErrPermission},
		"an operator":          {&operator, vol1, time.Hour, driver.ErrPermission},
		"no id of a volume":    {p, "cache", time.Hour, driver.ErrInvalid},
		"no time":              {p, vol1, 0, driver.ErrInvalid},
		"time that is over":    {p, vol1, -1, driver.ErrInvalid},
		"too much time":        {p, vol1, maxTokenTTL + 1, driver.ErrInvalid},
		"who has no key":       {&Principal{Org: "acme", Scopes: Read}, vol1, time.Hour, driver.ErrInvalid},
		"who has no org":       {&Principal{KeyID: p.KeyID, Scopes: Read}, vol1, time.Hour, driver.ErrInvalid},
		"a key that has ended": {&Principal{KeyID: p.KeyID, Org: "acme", Scopes: Read, Expires: c.read()}, vol1, time.Hour, ErrUnauthenticated},
	} {
		if _, err := s.VolumeToken(ctx, x.p, x.vol, x.ttl); !errors.Is(err, x.kind) {
			t.Errorf("%s: %v, want %v", what, err, x.kind)
		}
	}
}

func TestVolumeTokenEnds(t *testing.T) {
	c := newClock()
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{Clock: c.read, CacheFor: time.Hour})
	ctx := t.Context()
	end := c.read().Add(time.Hour)
	_, _, short := token(t, s, NewKey{}, time.Minute)
	_, _, long := token(t, s, NewKey{Expires: end}, 24*time.Hour)

	// A token made of a token lasts no longer.
	p, _, err := s.AuthenticateVolume(ctx, short)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.VolumeToken(ctx, p, vol1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.VolumeToken(ctx, p, vol2, time.Hour); !errors.Is(err, driver.ErrPermission) {
		t.Errorf("a token for another volume made of a token: %v", err)
	}
	c.add(time.Minute - 1)
	for _, tok := range []string{short, again, long} {
		if _, _, err := s.AuthenticateVolume(ctx, tok); err != nil {
			t.Errorf("before its end: %v", err)
		}
	}
	c.add(1)
	for _, tok := range []string{short, again} {
		_, _, err := s.AuthenticateVolume(ctx, tok)
		refused(t, "at its end", err, "the volume token expired at 2030-01-02T03:05:05Z", tok)
	}
	if _, _, err := s.AuthenticateVolume(ctx, long); err != nil {
		t.Error(err)
	}
	c.add(end.Sub(c.read()))
	_, _, err = s.AuthenticateVolume(ctx, long)
	refused(t, "at the end of its key", err, "expired at", long)
}

// TestVolumeTokenRestricted takes rights away from a key after a token was made of it.
func TestVolumeTokenRestricted(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s := openStore(t, database, Options{CacheFor: -1})
		for what, x := range map[string]struct{ change, detail string }{
			"other volumes": {`volumes = '` + vol2 + `'`, "not use the volume any more"},
			"no rights":     {`scopes = 8`, "not use the volume any more"},
			"another org":   {`org = 'other'`, "not use the volume any more"},
			"revoked":       {`revoked = 1`, "revoked"},
			"expired":       {`expires = 1`, "expired"},
			"gone":          {`id = 'x'`, "unknown"},
		} {
			k, _, tok := token(t, s, NewKey{}, time.Hour)
			if _, err := s.exec(t.Context(), `UPDATE server_keys SET `+x.change+` WHERE id = $1`, k.ID); err != nil {
				t.Fatal(err)
			}
			_, _, err := s.AuthenticateVolume(t.Context(), tok)
			refused(t, what, err, x.detail, tok)
			if _, err := s.exec(t.Context(), `DELETE FROM server_keys`); err != nil {
				t.Fatal(err)
			}
		}
		k, _, tok := token(t, s, NewKey{Scopes: Write}, time.Hour)
		if _, err := s.exec(t.Context(), `UPDATE server_keys SET scopes = 1 WHERE id = $1`, k.ID); err != nil {
			t.Fatal(err)
		}
		if p, _, err := s.AuthenticateVolume(t.Context(), tok); err != nil || p.Scopes != Read {
			t.Errorf("a token of a key that may only read now: %+v, %v", p, err)
		}
	})
}

// TestTamper changes each byte of a token in every way, and its length.
func TestTamper(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"), Options{})
	_, _, good := token(t, s, NewKey{}, time.Hour)
	check := func(tok string) {
		t.Helper()
		if _, ok := parseSignedToken(s.signingSecret, tok); ok {
			t.Errorf("accepted:\n%q for\n%q", tok, good)
		}
	}
	for i := range good {
		for c := range 256 {
			if b := []byte(good); b[i] != byte(c) {
				b[i] = byte(c)
				check(string(b))
			}
		}
		check(good[:i])
		check(good[:i] + "\n" + good[i:])
		check(good[:i] + "A" + good[i:])
	}
	for _, tok := range []string{good + "=", good + "A", good + "\n", " " + good, strings.ToUpper(good), good + good, strings.Repeat(good, 1000)} {
		check(tok)
		_, _, err := s.AuthenticateVolume(t.Context(), tok)
		refused(t, "a changed token", err, "unknown", tok)
	}
	// What it says, changed before it is encoded, with the old signature.
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, tokenPrefix))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		b := bytes.Clone(raw)
		b[bit/8] ^= 1 << (bit % 8)
		check(tokenPrefix + base64.RawURLEncoding.EncodeToString(b))
	}
	other := openStore(t, filepath.Join(t.TempDir(), "db"), Options{})
	_, _, err = other.AuthenticateVolume(t.Context(), good)
	refused(t, "a token of another server", err, "unknown", good)
	c, _ := parseSignedToken(s.signingSecret, good)
	c.org = ""
	check(c.signToken(s.signingSecret))
}

func FuzzToken(f *testing.F) {
	secret := bytes.Repeat([]byte{7}, signingSecretLen)
	good := tokenClaims{key: uuid.MustParse(vol1), volume: uuid.MustParse(vol2), expires: time.Unix(1e9, 5).UTC(), org: "acme"}.signToken(secret)
	for _, seed := range []string{"", tokenPrefix, good, good[:40], good + "=", strings.ToUpper(good), tokenPrefix + strings.Repeat("A", 200), "vvt_\x00\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, tok string) {
		c, ok := parseSignedToken(secret, tok)
		if ok != (tok == good) {
			t.Errorf("%q: %v", tok, ok)
		}
		if ok && c.signToken(secret) != tok {
			t.Errorf("%q is not what %+v is signed as", tok, c)
		}
	})
}
