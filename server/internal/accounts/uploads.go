package accounts

import (
	"cmp"
	"context"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/sqldb"
)

// Upload is a file that is being uploaded in pieces.
type Upload struct {
	ID, Org   string // the id is 1 to 128 bytes, checked as the name of a volume is
	KeyID     string
	Volume    string // its id
	Path      string // where the file goes, in the volume
	Staging   string // where the bytes are until then
	Size      int64  // in bytes; -1: not known
	Mode      uint32 // of the file
	Exclusive bool   // the file must not be there
	Created   time.Time
	Expires   time.Time // when it may be removed
}

// validate returns an error that matches driver.ErrInvalid for an upload that cannot be stored.
func (u *Upload) validate() error {
	if err := cmp.Or(validateOrg(u.Org), validateVolume(u.Volume)); err != nil {
		return err
	}
	switch {
	case driver.ValidateName(u.ID) != nil:
		return driver.Errorf(driver.ErrInvalid, "%s is not the id of an upload", quoteClipped(u.ID))
	case len(u.KeyID) > maxTextLen || !isPrintable(u.KeyID):
		return driver.Errorf(driver.ErrInvalid, "%s is not the id of an API key", quoteClipped(u.KeyID))
	case u.Path == "" || len(u.Path) > driver.MaxPathLen || len(u.Staging) > driver.MaxPathLen:
		return driver.Errorf(driver.ErrInvalid, "the path of an upload is 1 to %d bytes", driver.MaxPathLen)
	case u.Size < -1:
		return driver.Errorf(driver.ErrInvalid, "size %d of an upload: must be 0 or more, or -1 when it is not known", u.Size)
	case !u.Expires.After(u.Created) || u.Expires.After(latestTime):
		return driver.Errorf(driver.ErrInvalid, "an upload expires after it is made, and before %d", latestTime.Year())
	}
	return nil
}

const uploadColumns = `org, id, key_id, volume, path, staging, size, mode, exclusive, created, expires`

// scanUpload reads a row of uploadColumns.
func scanUpload(scan sqldb.Scanner) (u Upload, err error) {
	var path, staging []byte
	var mode, exclusive, created, expires int64
	err = scan(&u.Org, &u.ID, &u.KeyID, &u.Volume, &path, &staging, &u.Size, &mode, &exclusive, &created, &expires)
	u.Path, u.Staging, u.Mode, u.Exclusive = string(path), string(staging), uint32(mode), exclusive != 0
	u.Created, u.Expires = catalog.Time(created), catalog.Time(expires)
	return u, err
}

// maxOrgUploads bounds the concurrent uploads of an organisation. Those whose staging file is
// gone use no quota, so their rows need a bound of their own until they expire.
const maxOrgUploads = 10_000

// CreateUpload stores an upload; a zero Created means now. driver.ErrExists: the organisation
// has one with that id; driver.ErrQuota: it has too many; driver.ErrInvalid.
func (s *Store) CreateUpload(ctx context.Context, u Upload) error {
	if u.Created.IsZero() {
		u.Created = s.clock()
	}
	if err := u.validate(); err != nil {
		return err
	}
	have, err := queryAll(ctx, s, func(scan sqldb.Scanner) (n int64, err error) { err = scan(&n); return n, err },
		`SELECT count(*) FROM server_uploads WHERE org = $1`, u.Org)
	if err != nil {
		return err
	}
	if have[0] >= s.maxUploads {
		return driver.Errorf(driver.ErrQuota, "the organisation has %d unfinished uploads, which is the limit; finish or cancel some", have[0])
	}
	exclusive := int64(0)
	if u.Exclusive {
		exclusive = 1
	}
	err = s.runTx(ctx, sqldb.TxOptions{AtMostOnce: true}, func(tx sqldb.Tx) error {
		tx.QueueExec(`INSERT INTO server_uploads (`+uploadColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			u.Org, u.ID, u.KeyID, u.Volume, []byte(u.Path), append([]byte{}, u.Staging...), u.Size, int64(u.Mode), exclusive,
			catalog.Nanos(u.Created), catalog.Nanos(u.Expires))
		return nil
	})
	if s.db.IsUniqueViolation(err) {
		return driver.Errorf(driver.ErrExists, "an upload %s already exists", quoteClipped(u.ID))
	}
	return err
}

// Upload returns an upload. driver.ErrNotExist: it does not exist, or has expired.
func (s *Store) Upload(ctx context.Context, org, id string) (Upload, error) {
	missing := driver.Errorf(driver.ErrNotExist, "there is no upload %s", quoteClipped(id))
	if validateOrg(org) != nil || driver.ValidateName(id) != nil {
		return Upload{}, missing
	}
	list, err := queryAll(ctx, s, scanUpload, `SELECT `+uploadColumns+` FROM server_uploads WHERE org = $1 AND id = $2`, org, id)
	switch {
	case err != nil:
		return Upload{}, err
	case len(list) == 0:
		return Upload{}, missing
	case !s.clock().Before(list[0].Expires):
		return Upload{}, driver.Errorf(driver.ErrNotExist, "the upload %s expired at %s", quoteClipped(id), list[0].Expires.Format(time.RFC3339))
	}
	return list[0], nil
}

// DeleteUpload forgets an upload. A missing one is no error.
func (s *Store) DeleteUpload(ctx context.Context, org, id string) error {
	if validateOrg(org) != nil || driver.ValidateName(id) != nil {
		return nil
	}
	_, err := s.exec(ctx, `DELETE FROM server_uploads WHERE org = $1 AND id = $2`, org, id)
	return err
}

// ExpiredUploads returns expired uploads of all organisations, oldest first: at most limit
// (capped at 1000; 100 if it is 0 or less). They stay until DeleteUpload.
func (s *Store) ExpiredUploads(ctx context.Context, limit int) ([]Upload, error) {
	return queryAll(ctx, s, scanUpload, `SELECT `+uploadColumns+` FROM server_uploads WHERE expires <= $1 ORDER BY expires, org, id LIMIT $2`,
		catalog.Nanos(s.clock()), clampLimit(limit, 1000))
}
