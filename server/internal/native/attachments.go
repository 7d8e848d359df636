package native

import (
	"context"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

func (a *API) attachmentRoutes() []*core.Route {
	return []*core.Route{
		get(api.Prefix+"/attachments", "listAttachments", read, a.listAttachments),
		grave("POST", volumes+"/{volume}/attachments", "attach", read, a.attach),
		grave("DELETE", api.Prefix+"/attachments/{attachment}", "detach", read, a.detach),
	}
}

// attachmentSize is what an attachment takes in a list beside its texts, in bytes.
const attachmentSize = 512

func (a *API) listAttachments(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	ref := q.String("volume")
	if err := q.Err(); err != nil {
		return err
	}
	var list []vole.AttachmentInfo
	var err error
	if ref != "" {
		var v *vole.Volume
		if v, err = r.Volume(ref); err == nil {
			list, err = v.Attachments(r.Context())
		}
	} else {
		var store *vole.Store
		if store, err = r.Store(); err == nil {
			list, err = store.Attachments(r.Context())
		}
	}
	if err != nil {
		return err
	}
	out := api.Attachments{Attachments: []api.Attachment{}}
	for _, i := range list {
		if r.Who.Sees(i.VolumeID) {
			if err := r.Hold(int64(attachmentSize + len(i.Holder) + len(i.Host) + len(i.Volume))); err != nil {
				return err
			}
			if i.HostPath {
				i.Host = "" // no client of the API made it: that is the server's
			}
			out.Attachments = append(out.Attachments, api.FromAttachment(i))
		}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

func (a *API) attach(w http.ResponseWriter, r *core.Request) error {
	var in api.Attach
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if (!in.ReadOnly || in.Exclusive) && !r.Who.Scopes.Has(write) {
		return core.NeedsScope(write)
	}
	host, err := hostOf(r, in.Host)
	if err != nil {
		return err
	}
	v, err := r.Volume(r.PathValue("volume"))
	if err != nil {
		return err
	}
	var s *session
	if in.Session == "" {
		s, err = a.newSession(r)
	} else {
		s, err = a.session(r, in.Session)
	}
	if err != nil {
		return err
	}
	holder := in.Holder
	if holder == "" {
		holder = r.Who.KeyName
	}
	if err := a.countAttachment(s); err != nil {
		if in.Session == "" {
			_ = a.endSession(s, false)
		}
		return err
	}
	r.Forget(v.ID())
	of, err := s.store.Get(r.Context(), v.ID())
	var att *vole.Attachment
	if err == nil {
		att, err = of.Attach(r.Context(), vole.AttachOptions{Holder: holder, ReadOnly: in.ReadOnly, Exclusive: in.Exclusive,
			Host: host, PID: in.Pid, Started: in.Started})
	}
	if err != nil {
		a.uncountAttachment(s)
		if in.Session == "" {
			_ = a.endSession(s, false)
		}
		return err
	}
	out := api.FromAttachment(att.Info())
	out.Session, out.LeaseSeconds = s.id, a.opts.Lease.Seconds()
	return core.WriteJSON(w, http.StatusCreated, out)
}

// countAttachment counts an attachment among what its organisation has open.
func (a *API) countAttachment(s *session) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errNoSession
	}
	err := a.count(s.org)
	if err == nil {
		s.attached++
	}
	return err
}

func (a *API) uncountAttachment(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.attached > 0 { // the session may have ended, or have been another server's
		s.attached--
		a.uncount(s.org, 1)
	}
}

// hostOf checks the name of the holder's host, which is that of the client by default.
func hostOf(r *core.Request, name string) (string, error) {
	if name == "" {
		name = r.Addr()
		name = name[:min(len(name), driver.MaxHostLen)] // a proxy may have been told anything
	}
	return name, driver.ValidateHost(name)
}

func (a *API) detach(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	id := q.Required("session")
	if err := q.Err(); err != nil {
		return err
	}
	s, err := a.session(r, id)
	if err != nil {
		return err
	}
	r.Record.Detail = r.PathValue("attachment")
	// What was written under it may still become durable.
	if err := a.syncUnder(r.Context(), s, r.PathValue("attachment")); err != nil {
		return err
	}
	held, err := s.hold.Holds(r.Context(), r.PathValue("attachment"))
	if err == nil {
		err = s.hold.Detach(r.Context(), r.PathValue("attachment"))
	}
	if err != nil {
		return err
	}
	if held {
		a.uncountAttachment(s)
	}
	return noContent(w)
}

// syncUnder makes durable what a session wrote under one of its attachments.
func (a *API) syncUnder(ctx context.Context, s *session, attachment string) error {
	var list []*filesystem
	a.mu.Lock()
	for _, f := range a.systems {
		if f.sess == s && f.attachment == attachment {
			list = append(list, f)
		}
	}
	a.mu.Unlock()
	for _, f := range list {
		if err := ignore(f.fs.Sync(ctx), vole.ErrNotFound, vole.ErrClosed); err != nil {
			return err
		}
	}
	return nil
}
