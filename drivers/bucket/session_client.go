package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// Client opens an organisation for one client of a server. Attachments and drafts made through
// it belong to the session id, a UUID. The session ends when it was not renewed for lease, by
// this server or another. With resume the session must exist and belong to owner, a name of
// the caller's choice. ErrNotFound: there is no such organisation, or no such session of it
// and of owner.
//
// Close ends the session. Leave closes only what this server has open for it.
func (ns *Namespace) Client(ctx context.Context, org, id, owner string, lease time.Duration, resume bool) (*Client, error) {
	row, err := uuid.Parse(id)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "session %q is not a UUID", id)
	}
	b, err := ns.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	b.session.renewedByClient, b.session.clientLease, b.session.rowID = true, lease, row[:]
	c := &Client{b}
	if resume {
		err = c.checkSession(ctx, owner)
	} else if err = c.checkWritable(ctx); err == nil {
		err = ns.insertSession(ctx, row[:], b.org, owner, lease)
	}
	if err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	return c, nil
}

// Client is an organisation as a client's session sees it.
type Client struct{ *Backend }

// checkSession returns ErrNotFound unless the session is alive, of this organisation and of
// owner.
func (c *Client) checkSession(ctx context.Context, owner string) error {
	ended := driver.Errorf(driver.ErrNotFound, "the session has ended")
	return c.ns.db.RunQueries(ctx, sqldb.SelectRow(ended, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1 AND org = $2 AND owner = $3 AND expires > {now}`, c.session.rowID, c.org, owner))
}

// Renew renews the lease of the session. ErrClosed: it has ended.
func (c *Client) Renew(ctx context.Context) error {
	row := c.session.currentID()
	if row == nil {
		return driver.ErrClosed
	}
	alive, err := c.ns.renewLease(ctx, row, c.session.clientLease)
	if err == nil && !alive {
		err = driver.ErrClosed
	}
	return err
}

// Leave closes what this server has open for the session, which goes on.
func (c *Client) Leave() error {
	c.session.mu.Lock()
	c.session.stopRenewal()
	c.session.mu.Unlock()
	return c.Close()
}

// Holds reports whether an attachment is the session's, whichever server made it.
func (c *Client) Holds(ctx context.Context, id string) (found bool, err error) {
	if err := c.checkOpen(ctx); err != nil {
		return false, err
	}
	row, att := c.session.currentID(), parseID(id)
	if row == nil || att == nil {
		return false, nil
	}
	err = c.ns.db.RunQueries(ctx, sqldb.SelectOne(&found, []any{new(int)}, `SELECT 1 FROM attachments WHERE id = $1 AND org = $2 AND session = $3`, att, c.org, row))
	return found, err
}

// Detach ends an attachment of the session, whichever server made it. It is no error if there
// is none.
func (c *Client) Detach(ctx context.Context, id string) error {
	if err := c.checkOpen(ctx); err != nil {
		return err
	}
	row, att := c.session.currentID(), parseID(id)
	if row == nil || att == nil {
		return nil
	}
	return sqldb.Exec(ctx, c.ns.db, sqldb.TxOptions{},
		sqldb.Statement(`UPDATE volumes SET writer = CASE WHEN writer = $2 THEN NULL ELSE writer END, `+usedNow+`
			WHERE org = $1 AND id = (SELECT vol FROM attachments WHERE id = $2 AND org = $1 AND session = $3)`, c.org, att, row),
		sqldb.Statement(`DELETE FROM attachments WHERE id = $1 AND org = $2 AND session = $3`, att, c.org, row))
}
