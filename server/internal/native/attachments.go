package native

import (
	"context"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// attachmentRoutes are the routes of attachments.
func (a *API) attachmentRoutes() []*core.Route {
	return []*core.Route{
		readRoute(api.Prefix+"/attachments", "listAttachments", readScope, a.listAttachments),
		auditFirstRoute("POST", volumesPath+"/{volume}/attachments", "attach", readScope, withBody(a.attachVolume)),
		auditFirstRoute("DELETE", api.Prefix+"/attachments/{attachment}", "detach", readScope, a.detachAttachment),
	}
}

// attachmentMemory is what an attachment takes in an answer without its texts, in bytes.
const attachmentMemory = 512

// listAttachments answers with the attachments of one volume, or of all that the caller sees.
// Paths of the server's host are left out.
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
		if v, err = r.VisibleVolume(ref); err == nil {
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
		if r.Caller.Sees(i.VolumeID) {
			if err := r.ReserveMemory(int64(attachmentMemory + len(i.Holder) + len(i.Host) + len(i.Volume))); err != nil {
				return err
			}
			if i.HostPath {
				i.Host = "" // made on the server's own host, not through the API
			}
			out.Attachments = append(out.Attachments, api.FromAttachment(i))
		}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// attachVolume attaches a volume under a session: an existing one of the caller, or a new one
// that the answer names. The scope write is needed unless the attachment is read-only and
// shared.
func (a *API) attachVolume(w http.ResponseWriter, r *core.Request, in api.Attach) error {
	if (!in.ReadOnly || in.Exclusive) && !r.Caller.Scopes.Has(writeScope) {
		return core.NeedsScope(writeScope)
	}
	host, err := holderHost(r, in.Host)
	if err != nil {
		return err
	}
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return err
	}
	var s *session
	if in.Session == "" {
		s, err = a.beginSession(r)
	} else {
		s, err = a.findSession(r, in.Session)
	}
	if err != nil {
		return err
	}
	holder := in.Holder
	if holder == "" {
		holder = r.Caller.KeyName
	}
	// Counted before it is made, so that concurrent ones are bounded too.
	if err := a.countInSession(s, func() { s.attachments++ }); err != nil {
		if in.Session == "" {
			_ = a.endSession(s, false)
		}
		return err
	}
	// An open file system of requests would count as another user of a disk volume.
	r.EvictVolume(v.ID())
	// Attached through the session's store, so that the attachment belongs to the session.
	of, err := s.store.Get(r.Context(), v.ID())
	var att *vole.Attachment
	if err == nil {
		att, err = of.Attach(r.Context(), vole.AttachOptions{Holder: holder, ReadOnly: in.ReadOnly, Exclusive: in.Exclusive,
			Host: host, PID: in.Pid, Started: in.Started})
	}
	if err != nil {
		// A session that was opened for this attachment alone ends with its failure: its client
		// never learns its id.
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

// uncountAttachment undoes the counting of an attachment that was not made, or has ended.
func (a *API) uncountAttachment(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.attachments > 0 { // the session may have ended, or have been another server's
		s.attachments--
		a.uncountOpen(s.org, 1)
	}
}

// holderHost returns the checked name of the holder's host, by default the address of the
// client.
func holderHost(r *core.Request, name string) (string, error) {
	if name == "" {
		name = r.ClientAddr()
		name = name[:min(len(name), driver.MaxHostLen)] // X-Forwarded-For may be of any length
	}
	return name, driver.ValidateHost(name)
}

// detachAttachment ends an attachment of a session, after making durable what was written under
// it on this server.
func (a *API) detachAttachment(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	id := q.Required("session")
	if err := q.Err(); err != nil {
		return err
	}
	s, err := a.findSession(r, id)
	if err != nil {
		return err
	}
	r.Audit.Detail = r.PathValue("attachment")
	// Afterwards the exclusive right is gone, and a flush would fail.
	if err := a.syncAttachment(r.Context(), s, r.PathValue("attachment")); err != nil {
		return err
	}
	// Only a live attachment of this session is counted here. Detaching one that has ended
	// already succeeds.
	held, err := s.backend.Holds(r.Context(), r.PathValue("attachment"))
	if err == nil {
		err = s.backend.Detach(r.Context(), r.PathValue("attachment"))
	}
	if err != nil {
		return err
	}
	if held {
		a.uncountAttachment(s)
	}
	return core.AnswerNoContent(w, nil)
}

// syncAttachment makes durable what a session wrote through file systems opened under one of its
// attachments.
func (a *API) syncAttachment(ctx context.Context, s *session, attachment string) error {
	var list []*opened
	a.mu.Lock()
	for _, o := range a.opened {
		if o.session == s && o.file == nil && o.attachment == attachment {
			list = append(list, o)
		}
	}
	a.mu.Unlock()
	for _, f := range list {
		if err := ignoreErrors(f.fs.Sync(ctx), vole.ErrNotFound, vole.ErrClosed); err != nil {
			return err
		}
	}
	return nil
}
