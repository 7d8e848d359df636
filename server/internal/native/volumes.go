package native

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

const volumesPath = api.Prefix + "/volumes"

// volumeRoutes are the routes of volumes and their events.
func (a *API) volumeRoutes() []*core.Route {
	create := auditFirstRoute("POST", volumesPath, "createVolume", writeScope, withBody(a.createVolume))
	clone := auditFirstRoute("POST", volumesPath+"/{volume}/clone", "cloneVolume", writeScope, withBody(a.cloneVolume))
	create.AnyServer, clone.AnyServer = true, true
	watch := readRoute(api.Prefix+"/events", "watch", readScope, a.streamEvents)
	watch.Endless, watch.Stream = true, true
	return []*core.Route{
		create, clone, watch,
		readRoute(volumesPath, "listVolumes", readScope, a.listVolumes),
		readRoute(volumesPath+"/{volume}", "getVolume", readScope, a.getVolume),
		auditFirstRoute("PATCH", volumesPath+"/{volume}", "updateVolume", writeScope, withBody(a.updateVolume)),
		auditFirstRoute("DELETE", volumesPath+"/{volume}", "removeVolume", writeScope, a.removeVolume),
		changeRoute("POST", volumesPath+"/{volume}/measure", "measureVolume", writeScope, a.measureVolume),
		readRoute(volumesPath+"/{volume}/usage", "getUsage", readScope, a.getUsage),
	}
}

// listVolumes answers with one page of the volumes that the caller sees, newest first, filtered
// by kind and labels.
func (a *API) listVolumes(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	filter := vole.Filter{Kind: vole.Kind(q.String("kind")), Cursor: q.String("cursor"), Limit: int(q.Int("limit", 0, 1, 1000))}
	selector, err := vole.ParseSelector(q.String("selector"))
	if err := errors.Join(err, q.Err()); err != nil {
		return err
	}
	if k := filter.Kind; k != "" && k != vole.KindDir && k != vole.KindDisk {
		return driver.Errorf(vole.ErrInvalid, "unknown kind %q; use %q or %q", k, vole.KindDir, vole.KindDisk)
	}
	filter.Selector = selector
	store, err := r.Store()
	if err != nil {
		return err
	}
	out := api.VolumePage{Volumes: []api.Volume{}}
	err = appendVolumePage(r, store, filter, &out)
	return core.AnswerJSON(w, http.StatusOK, out, err)
}

// appendVolumePage adds the visible volumes of one page to out. It reads in steps, accounts for
// the memory of each, and ends the page early when its labels are large.
func appendVolumePage(r *core.Request, store *vole.Store, filter vole.Filter, out *api.VolumePage) error {
	size := int64(0)
	for left := cmp.Or(filter.Limit, maxPageVolumes); left > 0 && size < maxPageMemory; {
		filter.Limit = min(left, volumeStep)
		page, err := store.List(r.Context(), filter)
		if err != nil {
			return err
		}
		// Accounted for after decoding: a page of one step may exceed the budget briefly.
		step := int64(0)
		for _, i := range page.Volumes {
			if r.Caller.Sees(i.ID) {
				out.Volumes = append(out.Volumes, api.FromVolume(i))
				step += core.VolumeMemorySize(i)
			}
		}
		if err := r.ReserveMemory(step); err != nil {
			return err
		}
		size, left = size+step, left-len(page.Volumes)
		filter.Cursor, out.Next = page.Next, page.Next
		if page.Next == "" {
			return nil
		}
	}
	return nil
}

const (
	maxPageVolumes = 1000    // of a page
	volumeStep     = 100     // volumes read before their memory is accounted for
	maxPageMemory  = 2 << 20 // bytes after which a page ends early
)

// volumeOfPath returns the volume that the URL names. The parameter by restricts the match to
// ids or names: without it a name that looks like an id could be taken for one.
func volumeOfPath(r *core.Request, by string) (*vole.Volume, error) {
	ref := r.PathValue("volume")
	switch by {
	case "", "id", "name":
	default:
		return nil, driver.Errorf(vole.ErrInvalid, "by=%q: write id or name", by)
	}
	v, err := r.VisibleVolume(ref)
	if err == nil && (by == "id" && v.ID() != ref || by == "name" && v.Name() != ref) {
		return nil, vole.ErrNotFound
	}
	return v, err
}

// getVolume answers with one volume.
func (a *API) getVolume(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	by := q.String("by")
	if err := q.Err(); err != nil {
		return err
	}
	v, err := volumeOfPath(r, by)
	return answerVolume(w, http.StatusOK, v, err)
}

// answerVolume answers with a volume, unless err is set, which it returns.
func answerVolume(w http.ResponseWriter, status int, v *vole.Volume, err error) error {
	if err != nil {
		return err
	}
	return core.WriteJSON(w, status, api.FromVolume(v.Info()))
}

// cloneVolume creates a volume with the content of the one in the URL.
func (a *API) cloneVolume(w http.ResponseWriter, r *core.Request, in api.CreateVolume) error {
	if in.From != "" {
		return driver.Errorf(vole.ErrInvalid, "the volume to clone is the one of the URL; leave out \"from\"")
	}
	in.From = r.PathValue("volume")
	return a.createVolume(w, r, in)
}

// createVolume creates a volume, or a draft that belongs to a session, at most once for each
// idempotency key even if the client retries on another server. Keys restricted to some volumes may not create any: they could not
// see the result.
func (a *API) createVolume(w http.ResponseWriter, r *core.Request, in api.CreateVolume) error {
	r.Audit.Volume = in.Name
	if r.Caller.Volumes != nil {
		return core.ErrForbidden // it could not see the new volume
	}
	store, err := a.storeOfSession(r, in.DraftOf)
	if err != nil {
		return err
	}
	spec := vole.Spec{Kind: vole.Kind(in.Kind), Quota: vole.Size(in.Quota), Capacity: vole.Size(in.Capacity), Labels: vole.Labels(in.Labels), Draft: in.DraftOf != ""}
	if in.From != "" {
		from, err := r.VisibleVolume(in.From)
		if err != nil {
			return err
		}
		spec.From = from.ID()
	}
	var v *vole.Volume
	if key := r.Header.Get(api.HeaderIdempotencyKey); key == "" {
		v, err = store.Create(r.Context(), in.Name, spec)
	} else {
		// The fingerprint is of the decoded body: retries may order its fields differently.
		text, _ := json.Marshal(in)
		claim := accounts.Idempotent{Org: r.Caller.Org, Key: key, Fingerprint: fmt.Sprintf("%x", sha256.Sum256(text))}
		v, err = a.createIdempotent(r, store, in.Name, spec, claim)
	}
	if err != nil {
		return err
	}
	r.Audit.Volume, r.Audit.VolumeName = v.ID(), v.Name()
	return answerVolume(w, http.StatusCreated, v, nil)
}

// claimWait is how long a server waits for another one that carries out the same request, before
// it takes the request over.
const claimWait = 5 * time.Second

// createIdempotent creates a volume unless a request with the same idempotency key did. The
// claim lies in the accounts database, which all servers share: the first server to insert it
// creates the volume; another waits for its result, or takes over from one that died.
func (a *API) createIdempotent(r *core.Request, store *vole.Store, name string, spec vole.Spec, claim accounts.Idempotent) (*vole.Volume, error) {
	acc := a.core.Options().Accounts
	var prior *accounts.Idempotent
	for start := time.Now(); ; {
		var err error
		if prior, err = acc.BeginIdempotent(r.Context(), claim); err != nil {
			return nil, err
		}
		// Take over from a server that has had the claim for long: it is dead or very slow.
		if prior == nil || prior.Done || time.Since(prior.Created) > claimWait || time.Since(start) > claimWait {
			break
		}
		// Another server carries it out now.
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if prior != nil && prior.Done {
		return store.Get(r.Context(), prior.Result)
	}
	v, err := store.Create(r.Context(), name, spec)
	// The volume may be the result of this very request, made by a server that died before it
	// recorded it.
	if errors.Is(err, vole.ErrExists) {
		v, err = a.adoptExisting(r, store, name, spec, claim, prior, err)
	}
	a.finishIdempotent(r, claim.Key, v, err)
	return v, err
}

// adoptExisting decides whether the volume that has the wanted name already is the result of
// this very request. It is if the request was taken over and finished elsewhere, or if it was
// made after the claim and fits the specification: then the server with the claim died before it
// could record the result. Otherwise it returns errExists.
func (a *API) adoptExisting(r *core.Request, store *vole.Store, name string, spec vole.Spec, claim accounts.Idempotent, prior *accounts.Idempotent, errExists error) (*vole.Volume, error) {
	if prior == nil {
		// This server was so slow that another took the request over.
		now, err := a.core.Options().Accounts.BeginIdempotent(r.Context(), claim)
		if err == nil && now != nil && now.Done {
			return store.Get(r.Context(), now.Result)
		}
		return nil, errExists
	}
	// The server that had the request died, perhaps after it had made the volume.
	have, err := store.Get(r.Context(), name)
	if err == nil && !have.Info().Created.Before(prior.Created.Add(-time.Second)) && spec.Fits(have.Info()) == nil {
		return have, nil
	}
	return nil, errExists
}

// finishIdempotent records the result of a request, or gives its claim up if it failed. A
// failure to record is only logged: the volume exists, and a retry adopts it.
func (a *API) finishIdempotent(r *core.Request, key string, v *vole.Volume, err error) {
	acc, ctx := a.core.Options().Accounts, a.core.Lifetime()
	if err == nil {
		err = acc.FinishIdempotent(ctx, r.Caller.Org, key, v.ID())
	} else {
		err = acc.ForgetIdempotent(ctx, r.Caller.Org, key)
	}
	if err != nil {
		a.core.Options().Log.Warn("idempotency: the outcome was not recorded", "request", r.ID, "error", err)
	}
}

// updateVolume renames, resizes, labels or publishes a volume.
func (a *API) updateVolume(w http.ResponseWriter, r *core.Request, in api.UpdateVolume) error {
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return err
	}
	err = v.Update(r.Context(), vole.Update{Name: in.Name, Quota: vole.Size(in.Quota), ClearQuota: in.ClearQuota, Capacity: vole.Size(in.Capacity),
		SetLabels: vole.Labels(in.SetLabels), RemoveLabels: in.RemoveLabels, Publish: in.Publish})
	return answerVolume(w, http.StatusOK, v, err)
}

// removeVolume removes a volume; with unused_since only if nothing has used it since then.
func (a *API) removeVolume(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	by, since := q.String("by"), q.Time("unused_since")
	if err := q.Err(); err != nil {
		return err
	}
	v, err := volumeOfPath(r, by)
	if err != nil {
		return err
	}
	r.EvictVolume(v.ID())
	if q.Has("unused_since") {
		err = v.RemoveUnused(r.Context(), since)
	} else {
		err = v.Remove(r.Context())
	}
	return answerVolume(w, http.StatusOK, v, err)
}

// measureVolume counts the usage of a volume again.
func (a *API) measureVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := r.VisibleVolume(r.PathValue("volume"))
	if err != nil {
		return err
	}
	info, err := v.Measure(r.Context())
	return core.AnswerJSON(w, http.StatusOK, api.FromVolume(info), err)
}

// getUsage answers with the usage and limits of a volume's file system.
func (a *API) getUsage(w http.ResponseWriter, r *core.Request) error {
	return a.withFS(r, true, func(f *vole.FS) error {
		s, err := f.Statfs(r.Context())
		return core.AnswerJSON(w, http.StatusOK, api.FromUsage(s), err)
	})
}

// maxOrgWatchers bounds the streams of events of one organisation on one server.
const maxOrgWatchers = 500

// streamEvents sends events as text/event-stream until the client leaves, the rights of its key
// end, or the server drains. A comment line every 15 seconds keeps proxies from closing the
// connection.
func (a *API) streamEvents(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	ref := q.String("volume")
	if err := q.Err(); err != nil {
		return err
	}
	// Captured at the beginning; the rights are checked again before each batch.
	want := r.Caller.Sees
	if ref != "" {
		v, err := r.VisibleVolume(ref)
		if err != nil {
			return err
		}
		want = func(id string) bool { return id == v.ID() }
	}
	if a.core.Events.Subscribed(r.Caller.Org) >= maxOrgWatchers {
		return errTooManyOpen
	}
	sub := a.core.Events.Subscribe(r.Caller.Org, r.ID, want)
	defer a.core.Events.Unsubscribe(r.Caller.Org, sub)
	// Ready means that every later change is reported: clients list the volumes after that.
	select {
	case <-sub.Ready:
	case err := <-sub.Failed:
		return err
	case <-r.Context().Done():
		return r.Context().Err()
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil // its client has the whole answer, and may ask for more on this connection
	}
	core.DisableWriteDeadline(w)
	out := http.NewResponseController(w)
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	line := []byte(": ready\n\n")
	for err := error(nil); ; {
		if _, err := w.Write(line); err != nil {
			return nil // the client has gone
		}
		if err := out.Flush(); err != nil {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-alive.C:
			if r.Reauthorize() != nil {
				return nil
			}
			line = []byte(": alive\n\n")
		case list, ok := <-sub.C:
			if !ok || r.Reauthorize() != nil {
				return nil
			}
			if line, err = formatEvents(list, want); err != nil {
				return err
			}
		}
	}
}

// formatEvents encodes the events of wanted volumes.
func formatEvents(list []api.Event, want func(volumeID string) bool) (lines []byte, err error) {
	for _, ev := range list {
		if !want(ev.VolumeID) {
			continue
		}
		b, err := json.Marshal(ev)
		if err != nil {
			return nil, err
		}
		lines = append(append(append(lines, "event: "+ev.Type+"\ndata: "...), b...), "\n\n"...)
	}
	return lines, nil
}
