package native

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

func (a *API) adminRoutes() []*core.Route {
	return []*core.Route{
		get(api.Prefix+"/keys", "listKeys", admin, a.listKeys),
		grave("POST", api.Prefix+"/keys", "createKey", admin, a.createKey),
		grave("DELETE", api.Prefix+"/keys/{key}", "revokeKey", admin, a.revokeKey),
		get(api.Prefix+"/audit", "listAudit", admin, a.listAudit),
		get(api.Prefix+"/orgs", "listOrgs", operator, a.listOrgs),
		grave("POST", api.Prefix+"/orgs", "createOrg", operator, whole(a.createOrg)),
		grave("DELETE", api.Prefix+"/orgs/{org}", "removeOrg", operator, whole(a.removeOrg)),
		grave("POST", api.Prefix+"/orgs/{org}/keys", "createOrgKey", operator, whole(a.createOrgKey)),
	}
}

func key(k accounts.Key) api.Key {
	return api.Key{ID: k.ID, Org: k.Org, Name: k.Name, Scopes: scopes(k.Scopes), Volumes: k.Volumes, Created: k.Created, CreatedBy: k.CreatedBy,
		Expires: k.Expires, Revoked: k.Revoked, LastUsed: k.LastUsed, Format: k.Format}
}

// whole refuses keys that are for some volumes only: what do does concerns all of them.
func whole(do func(w http.ResponseWriter, r *core.Request) error) func(w http.ResponseWriter, r *core.Request) error {
	return func(w http.ResponseWriter, r *core.Request) error {
		if r.Who.Volumes != nil {
			return core.ErrForbidden
		}
		return do(w, r)
	}
}

// governs reports whether the caller may know of a key and revoke it: a caller who is for
// some volumes only sees keys that are for no others.
func governs(r *core.Request, k accounts.Key) bool {
	if r.Who.Volumes == nil {
		return true
	}
	return k.Volumes != nil && !slices.ContainsFunc(k.Volumes, func(id string) bool { return !r.Who.Sees(id) })
}

func (a *API) listKeys(w http.ResponseWriter, r *core.Request) error {
	list, err := a.core.Options().Accounts.Keys(r.Context(), r.Who.Org)
	if err != nil {
		return err
	}
	out := api.Keys{Keys: []api.Key{}}
	for _, k := range list {
		if governs(r, k) {
			out.Keys = append(out.Keys, key(k))
		}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

func (a *API) createKey(w http.ResponseWriter, r *core.Request) error {
	n, in, err := newKey(r, r.Who.Org)
	if err != nil {
		return err
	}
	if !r.Who.Scopes.Has(n.Scopes) {
		return &core.Error{Status: http.StatusForbidden, Code: "forbidden", Message: "a key cannot give rights that it does not have"}
	}
	if r.Who.Volumes != nil && in.Volumes == nil {
		in.Volumes = r.Who.Volumes
	}
	for _, ref := range in.Volumes {
		v, err := r.Volume(ref)
		if err != nil {
			return driver.Errorf(err, "volume %s: %v", ref, err)
		}
		n.Volumes = append(n.Volumes, v.ID())
	}
	return a.answerKey(w, r, n, in)
}

// newKey reads what key is to be made, but for its volumes.
func newKey(r *core.Request, org string) (n accounts.NewKey, in api.CreateKey, err error) {
	if err := r.ReadJSON(&in, false); err != nil {
		return n, in, err
	}
	var names []string
	for _, s := range in.Scopes {
		names = append(names, string(s))
	}
	scope, err := accounts.ParseScopes(names)
	if err != nil {
		return n, in, err
	}
	if in.Format == "vole" {
		in.Format = ""
	}
	expires, err := lifeOf(r.Who, in.Expires)
	return accounts.NewKey{Org: org, Name: in.Name, Scopes: scope, Expires: expires, CreatedBy: r.Who.KeyID, Format: in.Format}, in, err
}

// answerKey makes a key and shows its secret.
func (a *API) answerKey(w http.ResponseWriter, r *core.Request, n accounts.NewKey, in api.CreateKey) error {
	if in.Volumes != nil && len(n.Volumes) == 0 {
		return driver.Errorf(vole.ErrInvalid, "\"volumes\" is empty; leave it out for a key to all volumes")
	}
	k, secret, err := a.core.Options().Accounts.CreateKey(r.Context(), n)
	if err != nil {
		return err
	}
	r.Record.Volume, r.Record.VolumeName, r.Record.Detail = "", "", strings.TrimSpace(r.Record.Detail+" "+k.ID+" "+k.Name)
	return core.WriteJSON(w, http.StatusCreated, api.NewKey{Key: key(k), Secret: secret})
}

// createOrgKey lets an operator into an organisation. It is in the audit log of that, too.
func (a *API) createOrgKey(w http.ResponseWriter, r *core.Request) error {
	org := r.PathValue("org")
	r.Record.Detail = org
	n, in, err := newKey(r, org)
	if err != nil {
		return err
	}
	if n.Scopes.Has(accounts.Operator) && !r.Who.Scopes.Has(accounts.Operator) {
		return core.NeedsScope(operator)
	}
	store, err := a.core.Org(r.Context(), org)
	if errors.Is(err, vole.ErrNoSuch) {
		return noOrg(org)
	}
	if err != nil {
		return err
	}
	for _, ref := range in.Volumes {
		v, err := store.Get(r.Context(), ref)
		if err != nil {
			return driver.Errorf(err, "volume %s: %v", ref, err)
		}
		n.Volumes = append(n.Volumes, v.ID())
	}
	if err := a.recordFor(r, org, in.Name); err != nil {
		return err
	}
	return a.answerKey(w, r, n, in)
}

func noOrg(org string) error {
	return core.NotFound("there is no organisation " + strconv.Quote(org))
}

// recordFor notes in the audit log of another organisation what an operator does to it,
// before it is done. Who the operator is and where, is in the operator's own.
func (a *API) recordFor(r *core.Request, org, detail string) error {
	if org == r.Who.Org {
		return nil
	}
	return a.core.Options().Accounts.RecordNow(r.Context(), accounts.AuditRecord{At: time.Now(), Org: org, KeyName: "operator of the server",
		Action: r.Action(), Detail: detail, RequestID: r.ID, Status: http.StatusAccepted})
}

// removeOrg removes an organisation with all its keys.
func (a *API) removeOrg(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	force := q.Bool("force")
	if err := q.Err(); err != nil {
		return err
	}
	org := r.PathValue("org")
	r.Record.Detail = org
	if org == r.Who.Org {
		return driver.Errorf(vole.ErrInUse, "%q is the organisation of this key, which would end with it; use an operator key of another one", org)
	}
	err := a.core.Options().Space.RemoveOrg(r.Context(), org, force)
	if errors.Is(err, vole.ErrNoSuch) {
		// A first try may have come so far.
		if err := a.core.Options().Accounts.RevokeOrg(r.Context(), org); err != nil {
			return err
		}
		return noOrg(org)
	}
	if err != nil {
		return err
	}
	a.core.ForgetOrg(org)
	if err := a.core.Options().Accounts.RevokeOrg(r.Context(), org); err != nil {
		return err
	}
	a.core.RecheckRights()
	return noContent(w)
}

// lifeOf is when a new key ends: a key that ends makes none that outlives it. A token of
// the identity provider is no key; its person makes keys that last.
func lifeOf(who *accounts.Principal, wanted time.Time) (time.Time, error) {
	if who.Expires.IsZero() || strings.HasPrefix(who.KeyID, "oidc:") {
		return wanted, nil
	}
	if wanted.IsZero() {
		return who.Expires, nil
	}
	if wanted.After(who.Expires) {
		return wanted, &core.Error{Status: http.StatusForbidden, Code: "forbidden",
			Message: "a key cannot make one that outlives it; this one ends at " + who.Expires.UTC().Format(time.RFC3339)}
	}
	return wanted, nil
}

func (a *API) revokeKey(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	force := q.Bool("force")
	if err := q.Err(); err != nil {
		return err
	}
	id := r.PathValue("key")
	r.Record.Detail = id
	if r.Who.Volumes != nil {
		list, err := a.core.Options().Accounts.Keys(r.Context(), r.Who.Org)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(k accounts.Key) bool { return k.ID == id && governs(r, k) }) {
			return core.NotFound("there is no such key")
		}
	}
	o := a.core.Options()
	opts := accounts.RevokeOptions{Force: force}
	if o.OIDC != nil {
		opts.Provider = o.OIDC.Gives(r.Who.Org)
	}
	k, loss, err := o.Accounts.RevokeKey(r.Context(), r.Who.Org, id, opts)
	if last := (*accounts.LastKeyError)(nil); errors.As(err, &last) {
		return &core.Error{Status: http.StatusConflict, Code: "last_key", Message: last.Error() + "; make another first, or force it"}
	}
	if driver.Classify(err).Err == driver.ErrNotExist {
		return core.NotFound("there is no such key")
	}
	if err != nil {
		return err
	}
	a.core.RecheckRights()
	r.Record.Detail += " " + k.Name
	out := key(k)
	if loss.Any() {
		out.Warning = loss.Text(r.Who.Org)
		r.Record.Detail += ": " + out.Warning
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

func (a *API) listAudit(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	limit, from := int(q.Int("limit", 100, 1, 1000)), q.String("cursor")
	if err := q.Err(); err != nil {
		return err
	}
	var before int64
	if from != "" {
		var err error
		if before, err = strconv.ParseInt(from, 10, 64); err != nil || before <= 0 {
			return driver.Errorf(vole.ErrInvalid, "this is no cursor of the audit log")
		}
	}
	list, err := a.core.Options().Accounts.Audit(r.Context(), r.Who.Org, before, limit)
	if err != nil {
		return err
	}
	out := api.AuditPage{Records: []api.AuditRecord{}}
	for _, x := range list {
		if r.Who.Volumes != nil && !r.Who.Sees(x.Volume) {
			continue
		}
		out.Records = append(out.Records, api.AuditRecord{ID: x.ID, At: x.At, Key: x.KeyID, KeyName: x.KeyName, Org: x.Org, Action: x.Action, Volume: x.Volume,
			VolumeName: x.VolumeName, Path: x.Path, Detail: x.Detail, Addr: x.Addr, RequestID: x.RequestID, Status: x.Status})
	}
	if len(list) == limit {
		out.Next = strconv.FormatInt(list[len(list)-1].ID, 10)
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

func (a *API) listOrgs(w http.ResponseWriter, r *core.Request) error {
	list, err := a.core.Options().Space.Orgs(r.Context())
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, api.Orgs{Orgs: append([]string{}, list...)})
}

func (a *API) createOrg(w http.ResponseWriter, r *core.Request) error {
	var in api.CreateOrg
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	r.Record.Detail = in.Name
	if err := a.core.Options().Space.CreateOrg(r.Context(), in.Name); err != nil {
		return err
	}
	k, secret, err := a.core.Options().Accounts.CreateKey(r.Context(), accounts.NewKey{Org: in.Name, Name: "first", Scopes: admin, CreatedBy: r.Who.KeyID})
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusCreated, api.NewKey{Key: key(k), Secret: secret})
}
