package server

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/server/internal/core"
)

// DefaultOrg is the organisation of a server that has only one, and the first of others.
const DefaultOrg = "default"

// homeOrganisation serves a local home as the only organisation.
type homeOrganisation struct{ backend *local.Backend }

func (h homeOrganisation) Orgs(context.Context) ([]string, error) { return []string{DefaultOrg}, nil }

func (h homeOrganisation) CreateOrg(context.Context, string) error {
	return driver.Errorf(driver.ErrUnsupported, "a local home has one organisation, %q; serve a bucket to have more", DefaultOrg)
}

func (h homeOrganisation) RemoveOrg(context.Context, string, bool) error {
	return driver.Errorf(driver.ErrUnsupported, "a local home has one organisation, %q, which stays", DefaultOrg)
}

func (h homeOrganisation) Org(_ context.Context, name string) (driver.Backend, error) {
	if name != DefaultOrg {
		return nil, driver.Errorf(driver.ErrNoSuch, "there is no organisation %q", name)
	}
	return sharedBackend{h.backend}, nil
}

func (h homeOrganisation) OpenSession(ctx context.Context, org, _, _ string, _ time.Duration, resume bool) (core.Session, error) {
	if resume {
		return nil, driver.Errorf(driver.ErrNotFound, "the session has ended")
	}
	b, err := h.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	return &homeSession{Backend: b, attached: map[string]driver.Attachment{}, drafts: map[string]struct{}{}}, nil
}

func (h homeOrganisation) Ping(ctx context.Context) error {
	_, err := h.backend.List(ctx, driver.Filter{Limit: 1})
	return err
}

func (h homeOrganisation) Close() error { return h.backend.Close() }

// sharedBackend is a backend that its users cannot close.
type sharedBackend struct{ driver.Backend }

func (sharedBackend) Close() error { return nil }

// homeSession keeps the attachments and drafts of one session in memory: they end with this
// process. A call that finishes after Close undoes its own effect.
type homeSession struct {
	driver.Backend

	mu       sync.Mutex // guards what follows
	closed   bool
	attached map[string]driver.Attachment
	drafts   map[string]struct{} // by id of the volume
}

// hold calls put under the lock, or if the session has ended undo, and returns ErrClosed then.
func (h *homeSession) hold(ctx context.Context, put func(), undo func(ctx context.Context) error) error {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		put()
	}
	h.mu.Unlock()
	if !closed {
		return nil
	}
	return cmp.Or(undo(context.WithoutCancel(ctx)), error(driver.ErrClosed))
}

func (h *homeSession) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	info, err := h.Backend.Create(ctx, name, spec)
	if err != nil || !spec.Draft {
		return info, err
	}
	return info, h.hold(ctx, func() { h.drafts[info.ID] = struct{}{} }, func(ctx context.Context) error {
		return h.removeDraft(ctx, info.ID)
	})
}

func (h *homeSession) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	a, err := h.Backend.Attach(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	if err := h.hold(ctx, func() { h.attached[a.Info().ID] = a }, a.Detach); err != nil {
		return nil, err
	}
	return a, nil
}

func (h *homeSession) Holds(_ context.Context, id string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.attached[id] != nil, nil
}

func (h *homeSession) Detach(ctx context.Context, id string) error {
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	if a == nil {
		return nil
	}
	if err := a.Detach(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.attached, id)
	return nil
}

func (h *homeSession) Renew(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return driver.ErrClosed
	}
	return nil
}

func (h *homeSession) Leave() error { return h.Close() }

// Close ends the attachments and removes the drafts that were not published.
func (h *homeSession) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, a := range h.attached {
		errs = append(errs, a.Detach(ctx))
	}
	for id := range h.drafts {
		errs = append(errs, h.removeDraft(ctx, id))
	}
	return errors.Join(errs...)
}

// removeDraft removes a volume if it is still a draft.
func (h *homeSession) removeDraft(ctx context.Context, id string) error {
	info, err := h.Get(ctx, driver.ByID(id))
	if err == nil && info.State == driver.StateCreating {
		_, err = h.Remove(ctx, driver.ByID(id))
	}
	if driver.Classify(err).Err == driver.ErrNotFound {
		return nil
	}
	return err
}

// bucketOrganisations serves the organisations of a namespace, whose sessions are rows that
// outlive this process.
type bucketOrganisations struct{ *bucket.Namespace }

func (o bucketOrganisations) Org(ctx context.Context, name string) (driver.Backend, error) {
	return o.Namespace.Org(ctx, name)
}

func (o bucketOrganisations) OpenSession(ctx context.Context, org, session, key string, lease time.Duration, resume bool) (core.Session, error) {
	return o.Client(ctx, org, session, key, lease, resume)
}
