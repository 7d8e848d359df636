package cloud

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/url"
	"strings"

	"github.com/volehq/vole/internal/api"
)

// Keys lists the organisation's keys, newest first. The key must be an administrator's.
func (b *Backend) Keys(ctx context.Context) ([]api.Key, error) {
	out, err := requestJSON[api.Keys](ctx, b, call{method: "GET", path: "/keys", repeatable: true}, nil)
	return out.Keys, err
}

// CreateKey makes a key. The secret in its result cannot be read again.
func (b *Backend) CreateKey(ctx context.Context, in api.CreateKey) (api.NewKey, error) {
	return requestJSON[api.NewKey](ctx, b, call{method: "POST", path: "/keys"}, in)
}

// CreateOrgKey makes a key of any organisation. The key of the Backend must be an operator's.
func (b *Backend) CreateOrgKey(ctx context.Context, org string, in api.CreateKey) (api.NewKey, error) {
	return requestJSON[api.NewKey](ctx, b, call{method: "POST", path: "/orgs/" + url.PathEscape(org) + "/keys"}, in)
}

// RevokeKey revokes a key for good. ErrNoSuch; ErrInUse: it is the last admin key of the
// organisation or the last operator key of the server, and force is not set.
func (b *Backend) RevokeKey(ctx context.Context, id string, force bool) (api.Key, error) {
	q := withParams(url.Values{}, "force", formatFlag(force))
	return requestJSON[api.Key](ctx, b, call{method: "DELETE", path: "/keys/" + url.PathEscape(id), query: q, repeatable: true}, nil)
}

// Orgs lists the organisations. The key must be an operator's.
func (b *Backend) Orgs(ctx context.Context) ([]string, error) {
	out, err := requestJSON[api.Orgs](ctx, b, call{method: "GET", path: "/orgs", repeatable: true}, nil)
	return out.Orgs, err
}

// CreateOrg makes an organisation and its first key.
func (b *Backend) CreateOrg(ctx context.Context, name string) (api.NewKey, error) {
	return requestJSON[api.NewKey](ctx, b, call{method: "POST", path: "/orgs"}, api.CreateOrg{Name: name})
}

// RemoveOrg removes an organisation and revokes its keys. ErrNoSuch; ErrNotEmpty: it has
// volumes, and force is not set; ErrInUse: one of them is attached.
func (b *Backend) RemoveOrg(ctx context.Context, name string, force bool) error {
	q := withParams(url.Values{}, "force", formatFlag(force))
	return b.sendDiscard(ctx, call{method: "DELETE", path: "/orgs/" + url.PathEscape(name), query: q})
}

// Audit returns a page of the organisation's audit log, newest first.
func (b *Backend) Audit(ctx context.Context, cursor string, limit int) (api.AuditPage, error) {
	q := withParams(url.Values{}, "cursor", cursor, "limit", formatFrom(1, limit))
	out, err := requestJSON[api.AuditPage](ctx, b, call{method: "GET", path: "/audit", query: q, repeatable: true}, nil)
	if err == nil && out.Next != "" && out.Next == cursor {
		err = errNoAdvance
	}
	return out, err
}

// Watch calls fn for every change of the volumes, or of one, until ctx ends, fn returns
// an error, or the server ends the stream, which is nil.
func (b *Backend) Watch(ctx context.Context, volume string, fn func(api.Event) error) error {
	q := withParams(url.Values{}, "volume", volume)
	res, err := b.sendRetrying(ctx, call{method: "GET", path: "/events", query: q, repeatable: true, unbounded: true})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, api.MaxJSON)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var ev api.Event
		if err := api.Decode(strings.NewReader(data), &ev); err != nil {
			return err
		}
		if err := fn(ev); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return unreachable(b.baseURL, err)
	}
	return nil
}
