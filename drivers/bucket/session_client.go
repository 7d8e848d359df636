package bucket

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
)

// Client opens an organisation for one client of a server: attachments and drafts that are
// made through it belong to the session id (a UUID), which lasts for lease after it was
// last renewed, be it by another server with the same id. With resume the session must
// be there, and be owner's, a name of the caller's choice. ErrNotFound: there is no such
// organisation, or no such session of it and of owner.
//
// Close ends the session, Leave only this server's part in it.
func (ns *Namespace) Client(ctx context.Context, org, id, owner string, lease time.Duration, resume bool) (*Client, error) {
	row, err := uuid.Parse(id)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "session %q is no UUID", id)
	}
	b, err := ns.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	b.session.client, b.session.lease, b.session.row = true, lease, row[:]
	c := &Client{b}
	if resume {
		err = c.resume(ctx, owner)
	} else {
		err = c.begin(ctx, owner)
	}
	if err != nil {
		return nil, errors.Join(err, c.Leave())
	}
	return c, nil
}

// Client is an organisation as a client's session has it.
type Client struct{ *Backend }

func (c *Client) begin(ctx context.Context, owner string) error {
	s := &c.session
	if err := c.writable(ctx); err != nil {
		return err
	}
	host, _ := os.Hostname()
	return c.ns.freeing(ctx, nil, func(t tx) error { // who removes something has one, too
		var found bool
		// A second try, after the answer to the first was lost, finds its row.
		if err := t.run(one(&found, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1`, s.row)); err != nil || found {
			return err
		}
		t.later(`INSERT INTO sessions (id, org, owner, host, pid, created, expires) VALUES ($1, $2, $3, $4, $5, {now}, {now} + $6)`,
			s.row, c.org, owner, host, os.Getpid(), int64(s.lease))
		return nil
	})
}

func (c *Client) resume(ctx context.Context, owner string) error {
	var found bool
	err := c.ns.db.read(ctx, one(&found, []any{new(int)}, `SELECT 1 FROM sessions WHERE id = $1 AND org = $2 AND owner = $3 AND expires > {now}`, c.session.row, c.org, owner))
	if err == nil && !found {
		err = driver.Errorf(driver.ErrNotFound, "the session has ended")
	}
	return err
}

// Renew puts the end of the session off. ErrClosed: it has ended.
func (c *Client) Renew(ctx context.Context) error {
	row := c.session.present()
	if row == nil {
		return driver.ErrClosed
	}
	alive, err := c.ns.renew(ctx, row, c.session.lease)
	if err == nil && !alive {
		err = driver.ErrClosed
	}
	return err
}

// Leave closes what this server has open for the session, which goes on.
func (c *Client) Leave() error {
	c.session.mu.Lock()
	c.session.halt()
	c.session.mu.Unlock()
	return c.Close()
}

// Holds reports whether an attachment is the session's, whichever server made it.
func (c *Client) Holds(ctx context.Context, id string) (found bool, err error) {
	if err := c.usable(ctx); err != nil {
		return false, err
	}
	row, att := c.session.present(), idBytes(id)
	if row == nil || att == nil {
		return false, nil
	}
	err = c.ns.db.read(ctx, one(&found, []any{new(int)}, `SELECT 1 FROM attachments WHERE id = $1 AND org = $2 AND session = $3`, att, c.org, row))
	return found, err
}

// Detach ends an attachment of the session, whichever server made it. None is no error.
func (c *Client) Detach(ctx context.Context, id string) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	row, att := c.session.present(), idBytes(id)
	if row == nil || att == nil {
		return nil
	}
	return c.ns.db.write(ctx, nil, false, func(t tx) error {
		t.later(`UPDATE volumes SET writer = CASE WHEN writer = $2 THEN NULL ELSE writer END, `+usedNow+`
			WHERE org = $1 AND id = (SELECT vol FROM attachments WHERE id = $2 AND org = $1 AND session = $3)`, c.org, att, row)
		t.later(`DELETE FROM attachments WHERE id = $1 AND org = $2 AND session = $3`, att, c.org, row)
		return nil
	})
}
