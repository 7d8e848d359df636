package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

const (
	tokenPrefix      = "vvt_"
	tokenVersion     = 1
	signingSecretLen = 32                   // bytes of the secret that tokens are signed with
	maxTokenTTL      = 366 * 24 * time.Hour // longest life of a token

	// What a token has before the name of the organisation: version, key, volume, expiry.
	tokenHeadLen = 1 + 16 + 16 + 8
)

// tokenClaims is the content of a volume token.
type tokenClaims struct {
	key, volume uuid.UUID
	expires     time.Time
	org         string
}

// signToken returns a token: base64url of the claims followed by their HMAC-SHA256.
func (c tokenClaims) signToken(secret []byte) string {
	b := append([]byte{tokenVersion}, c.key[:]...)
	b = append(b, c.volume[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(catalog.Nanos(c.expires)))
	b = append(b, c.org...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, hmacSHA256(secret, b)...))
}

func hmacSHA256(secret, b []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(b)
	return h.Sum(nil)
}

// parseSignedToken returns the claims of a token that was signed with secret. It accepts only
// what signToken returns, not other encodings of the same bytes.
func parseSignedToken(secret []byte, token string) (tokenClaims, bool) {
	body, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(body) > base64.RawURLEncoding.EncodedLen(tokenHeadLen+driver.MaxNameLen+sha256.Size) {
		return tokenClaims{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	// base64 ignores line breaks, even in strict mode.
	if err != nil || len(b) <= tokenHeadLen+sha256.Size || strings.ContainsAny(body, "\r\n") {
		return tokenClaims{}, false
	}
	b, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(sum, hmacSHA256(secret, b)) || b[0] != tokenVersion {
		return tokenClaims{}, false
	}
	return tokenClaims{
		key: uuid.UUID(b[1:17]), volume: uuid.UUID(b[17:33]),
		expires: catalog.Time(int64(binary.BigEndian.Uint64(b[33:tokenHeadLen]))), org: string(b[tokenHeadLen:]),
	}, true
}

// VolumeToken returns a token that passes p's rights to read and write one volume on for a time:
// at most 366 days, and never past the expiry of p. It gives no other rights.
// driver.ErrPermission: p may not read the volume.
func (s *Store) VolumeToken(_ context.Context, p *Principal, volumeID string, ttl time.Duration) (string, error) {
	if s.closed.Load() {
		return "", driver.ErrClosed
	}
	if err := validateVolume(volumeID); err != nil {
		return "", err
	}
	if ttl <= 0 || ttl > maxTokenTTL {
		return "", driver.Errorf(driver.ErrInvalid, "a volume token lasts up to %v, not %v", maxTokenTTL, ttl)
	}
	if !p.Sees(volumeID) || !p.Scopes.Has(Read) {
		return "", driver.Errorf(driver.ErrPermission, "the API key may not read volume %s", volumeID)
	}
	key, err := parseCanonicalID(p.KeyID)
	if err != nil || validateOrg(p.Org) != nil {
		return "", driver.Errorf(driver.ErrInvalid, "a volume token can only be made with an API key")
	}
	now := s.clock()
	expires := now.Add(ttl)
	if !p.Expires.IsZero() && p.Expires.Before(expires) {
		expires = p.Expires
	}
	if !now.Before(expires) {
		return "", driver.Errorf(ErrUnauthenticated, "the API key expired at %s", p.Expires.Format(time.RFC3339))
	}
	return tokenClaims{key: key, volume: uuid.MustParse(volumeID), expires: expires, org: p.Org}.signToken(s.signingSecret), nil
}

// AuthenticateVolume returns the principal of a volume token, restricted to its volume and to
// what the key may do now, and the id of the volume. Errors are those of Authenticate.
func (s *Store) AuthenticateVolume(ctx context.Context, token string) (*Principal, string, error) {
	c, ok := parseSignedToken(s.signingSecret, token)
	if !ok {
		return nil, "", driver.Errorf(ErrUnauthenticated, "the volume token is unknown")
	}
	if !s.clock().Before(c.expires) {
		return nil, "", driver.Errorf(ErrUnauthenticated, "the volume token expired at %s", c.expires.Format(time.RFC3339))
	}
	id, volume := c.key.String(), c.volume.String()
	k, err := s.findUsableKey(ctx, id, `id = $1`, id, nil)
	if err != nil {
		return nil, "", err
	}
	p := k.newPrincipal()
	p.Scopes = p.Scopes.withImplied() & (Read | Write)
	if k.Org != c.org || !p.Sees(volume) || p.Scopes == 0 {
		return nil, "", driver.Errorf(ErrUnauthenticated, "the API key of the volume token may not use the volume any more")
	}
	p.Volumes = []string{volume}
	if p.Expires.IsZero() || c.expires.Before(p.Expires) {
		p.Expires = c.expires
	}
	return p, volume, nil
}
