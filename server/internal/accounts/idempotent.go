package accounts

import (
	"bytes"
	"cmp"
	"context"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// Idempotent is a request that must take effect at most once, even if it is sent several times
// and to several servers.
type Idempotent struct {
	Org         string
	Key         string // chosen by the client: 1 to 255 bytes
	Fingerprint string // identifies the content of the request, such as a hash: 1 to 256 bytes
	Result      string // the answer: up to 1 MiB
	Done        bool   // Result is set
	Created     time.Time
}

// BeginIdempotent claims a request before it is carried out. If prior is nil the caller has the
// claim, and ends it with FinishIdempotent or ForgetIdempotent. Otherwise prior is the earlier
// claim, done or not. driver.ErrInvalid: the key was used for another request. Only Org, Key,
// Fingerprint and Created (default: now) of r are used.
func (s *Store) BeginIdempotent(ctx context.Context, r Idempotent) (prior *Idempotent, err error) {
	err = cmp.Or(validateIdempotent(r.Org, r.Key), validateText("the fingerprint of a request", r.Fingerprint, 1, maxFingerprint))
	if err != nil {
		return nil, err
	}
	if r.Created.IsZero() {
		r.Created = s.clock()
	}
	mine := randomBytes(16)
	for {
		// The insert decides who wins. Who won is read from the row, by its claim: the answer to
		// the insert may be lost and the insert retried.
		_, err := s.exec(ctx, `INSERT INTO server_idempotency (org, key, fingerprint, claim, result, created)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (org, key) DO NOTHING`,
			r.Org, r.Key, r.Fingerprint, mine, []byte{}, catalog.Nanos(r.Created))
		if err != nil {
			return nil, err
		}
		have, claim, err := s.readIdempotent(ctx, r.Org, r.Key)
		switch {
		case err != nil:
			return nil, err
		case have == nil:
			continue // forgotten between insert and read: claim it again
		case bytes.Equal(claim, mine):
			return nil, nil
		case have.Fingerprint != r.Fingerprint:
			return nil, driver.Errorf(driver.ErrInvalid, "the idempotency key was used for another request; use a new one")
		}
		return have, nil
	}
}

// readIdempotent returns a record and the token of its claim, nil if there is none.
func (s *Store) readIdempotent(ctx context.Context, org, key string) (*Idempotent, []byte, error) {
	r := Idempotent{Org: org, Key: key}
	var claim, result []byte
	var done, created int64
	found, err := s.queryOne(ctx, []any{&r.Fingerprint, &claim, &result, &done, &created},
		`SELECT fingerprint, claim, result, done, created FROM server_idempotency WHERE org = $1 AND key = $2`, org, key)
	if err != nil || !found {
		return nil, nil, err
	}
	r.Result, r.Done, r.Created = string(result), done != 0, catalog.Time(created)
	return &r, claim, nil
}

// FinishIdempotent stores the result of a claimed request. driver.ErrNotExist: it was not
// claimed, or was forgotten; driver.ErrExists: it has another result already.
func (s *Store) FinishIdempotent(ctx context.Context, org, key, result string) error {
	if err := validateIdempotent(org, key); err != nil {
		return err
	}
	if len(result) > maxResult {
		return driver.Errorf(driver.ErrInvalid, "a result of %d bytes; the limit is %d", len(result), maxResult)
	}
	n, err := s.exec(ctx, `UPDATE server_idempotency SET result = $1, done = 1 WHERE org = $2 AND key = $3 AND done = 0`,
		append([]byte{}, result...), org, key)
	if err != nil || n > 0 {
		return err
	}
	have, _, err := s.readIdempotent(ctx, org, key)
	switch {
	case err != nil:
		return err
	case have == nil:
		return driver.Errorf(driver.ErrNotExist, "no request has the idempotency key %s", quoteClipped(key))
	case have.Result != result:
		return driver.Errorf(driver.ErrExists, "the request with the idempotency key %s has a result already", quoteClipped(key))
	}
	return nil
}

// ForgetIdempotent gives a claim up, so that the request can be sent again. A missing claim is
// no error.
func (s *Store) ForgetIdempotent(ctx context.Context, org, key string) error {
	if err := validateIdempotent(org, key); err != nil {
		return err
	}
	_, err := s.exec(ctx, `DELETE FROM server_idempotency WHERE org = $1 AND key = $2`, org, key)
	return err
}

// PruneIdempotent removes records created before olderThan; clients retry for less than a day.
func (s *Store) PruneIdempotent(ctx context.Context, olderThan time.Time) error {
	return s.deleteInBatches(ctx, `DELETE FROM server_idempotency WHERE (org, key) IN
		(SELECT org, key FROM server_idempotency WHERE created < $1 ORDER BY created LIMIT $2)`, olderThan)
}

// validateIdempotent checks the names of a record.
func validateIdempotent(org, key string) error {
	return cmp.Or(validateOrg(org), validateText("an idempotency key", key, 1, maxIdempotencyKey))
}
