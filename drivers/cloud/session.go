package cloud

import (
	"context"
	"errors"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/internal/proc"
	"github.com/volehq/vole/internal/profile"
)

// session is what the Backend has open at a server: attachments, drafts, file systems and handles
// live in it and end with it.
type session struct {
	id     string
	server *url.URL // the address that the server advertised for it; nil: Options.URL
	lease  time.Duration

	mu    sync.Mutex // guards stale
	stale bool       // the server does not know it any more, or cannot be reached
}

func (s *session) ownerSession() *session { return s }

func (s *session) isStale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale
}

func (s *session) markStale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = true
}

// ensureSession returns the session. It begins one if there is none yet or if it is stale.
// sessionMu keeps concurrent callers from beginning several.
func (b *Backend) ensureSession(ctx context.Context) (*session, error) {
	b.sessionMu.Lock()
	defer b.sessionMu.Unlock()
	b.mu.Lock()
	s, closed := b.session, b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return nil, driver.ErrClosed
	case s != nil && !s.isStale():
		return s, nil
	}
	var out api.Session
	if err := b.sendJSON(ctx, call{method: "POST", path: "/sessions", repeatable: true}, nil, &out); err != nil {
		return nil, err
	}
	s = &session{id: out.ID, lease: time.Duration(out.LeaseSeconds * float64(time.Second))}
	if out.URL != "" {
		u, err := profile.ServerURL(out.URL, b.opts.InsecureHTTP, b.baseURL)
		if err != nil {
			return nil, driver.Errorf(driver.ErrUnsupported, "the server at %s advertises an address to which this client does not send the key: %s", b.baseURL.Host, api.PlainText(err.Error()))
		}
		s.server = u
	}
	b.mu.Lock()
	b.session, closed = s, b.closed
	if !closed {
		b.goroutines.Go(func() { b.renewSession(s) })
	}
	b.mu.Unlock()
	if closed {
		return nil, driver.ErrClosed
	}
	return s, nil
}

// renewSession renews a session after each third of its lease, until the
// Backend is closed or the server does not know the session any more. Other errors are left to
// the next renewal.
func (b *Backend) renewSession(s *session) {
	for range periodic.Ticks(b.lifetime, s.lease/3) {
		ctx, cancel := context.WithTimeout(b.lifetime, s.lease/3)
		err := b.sendDiscard(ctx, call{method: "POST", path: "/sessions/" + s.id + "/renew", server: s.server, repeatable: true})
		cancel()
		if errors.Is(err, api.ErrStale) {
			s.markStale()
			return
		}
	}
}

// Attach implements driver.Backend.
func (b *Backend) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	if err := b.checkOpen(ctx); err != nil {
		return nil, err
	}
	if opts.HostPath {
		return nil, driver.Errorf(driver.ErrUnsupported, "the files of this volume are at the server and have no path on this host; copy them with 'vole cp', or use a local home")
	}
	if err := b.checkWritable(ctx); err != nil && !opts.ReadOnly {
		return nil, err
	}
	host, _ := os.Hostname()
	in := api.Attach{Holder: opts.Holder, ReadOnly: opts.ReadOnly, Exclusive: opts.Exclusive, Host: host, Pid: os.Getpid(), Started: proc.Start()}
	var out api.Attachment
	var s *session
	err := b.withSession(ctx, func(have *session) error {
		s, in.Session = have, have.id
		return b.sendJSON(ctx, call{method: "POST", path: volumePath(id, "attachments"), server: s.server, keyed: true}, in, &out)
	})
	if err != nil {
		return nil, err
	}
	return &attachment{b: b, session: s, info: out.Info()}, nil
}

// withSession runs fn with the session, begun again if need be.
func (b *Backend) withSession(ctx context.Context, fn func(s *session) error) error {
	begin := func(stale *session) (*session, error) {
		if stale != nil {
			stale.markStale()
		}
		return b.ensureSession(ctx)
	}
	return withRemote(nil, begin, fn)
}

// isUnreachable reports whether err says that the server cannot be reached at the address
// that it advertised for the session. Another server may be found at the URL of the options.
func (s *session) isUnreachable(err error) bool {
	return s.server != nil && hadNoEffect(err)
}

// attachment is a volume that is attached in a session.
type attachment struct {
	b       *Backend
	session *session
	info    driver.AttachmentInfo

	mu       sync.Mutex // guards detached; held during the request
	detached bool
}

func (a *attachment) Info() driver.AttachmentInfo { return a.info }
func (a *attachment) Path() string                { return "" }
func (a *attachment) Hold() *os.File              { return nil }

// Detach implements driver.Attachment.
func (a *attachment) Detach(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.detached || a.b.isClosed() || a.session.isStale() {
		return nil
	}
	q := url.Values{"session": {a.session.id}}
	err := a.b.sendDiscard(ctx, call{method: "DELETE", path: "/attachments/" + url.PathEscape(a.info.ID), query: q, server: a.session.server, repeatable: true})
	if errors.Is(err, api.ErrStale) {
		err = nil // it ended with its session
	}
	a.detached = err == nil
	return err
}
