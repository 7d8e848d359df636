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

// adminRoutes are the routes of keys, the audit log and organisations.
func (a *API) adminRoutes() []*core.Route {
	return []*core.Route{
		readRoute(api.Prefix+"/keys", "listKeys", adminScope, a.listKeys),
		auditFirstRoute("POST", api.Prefix+"/keys", "createKey", adminScope, a.createKey),
		auditFirstRoute("DELETE", api.Prefix+"/keys/{key}", "revokeKey", adminScope, a.revokeKey),
		readRoute(api.Prefix+"/audit", "listAudit", adminScope, a.listAudit),
		readRoute(api.Prefix+"/orgs", "listOrgs", operatorScope, a.listOrgs),
		auditFirstRoute("POST", api.Prefix+"/orgs", "createOrg", operatorScope, requireAllVolumes(withBody(a.createOrg))),
		auditFirstRoute("DELETE", api.Prefix+"/orgs/{org}", "removeOrg", operatorScope, requireAllVolumes(a.removeOrg)),
		auditFirstRoute("POST", api.Prefix+"/orgs/{org}/keys", "createOrgKey", operatorScope, requireAllVolumes(a.createOrgKey)),
	}
}

// APIKey returns the wire form of a key.
func APIKey(k accounts.Key) api.Key {
	return api.Key{ID: k.ID, Org: k.Org, Name: k.Name, Scopes: apiScopes(k.Scopes), Volumes: k.Volumes, Created: k.Created, CreatedBy: k.CreatedBy,
		Expires: k.Expires, Revoked: k.Revoked, LastUsed: k.LastUsed, Format: k.Format}
}

// requireAllVolumes wraps a handler that concerns all volumes: keys restricted to some of them
// are refused.
func requireAllVolumes(do handler) handler {
	return func(w http.ResponseWriter, r *core.Request) error {
		if r.Caller.Volumes != nil {
			return core.ErrForbidden
		}
		return do(w, r)
	}
}

// mayManageKey reports whether the caller may see and revoke a key. A caller restricted to some
// volumes manages the keys that reach none beyond those.
func mayManageKey(r *core.Request, k accounts.Key) bool {
	if r.Caller.Volumes == nil {
		return true
	}
	return k.Volumes != nil && !slices.ContainsFunc(k.Volumes, func(id string) bool { return !r.Caller.Sees(id) })
}

// listKeys answers with the keys of the organisation that the caller may manage, without
// secrets.
func (a *API) listKeys(w http.ResponseWriter, r *core.Request) error {
	list, err := a.core.Options().Accounts.Keys(r.Context(), r.Caller.Org)
	if err != nil {
		return err
	}
	out := api.Keys{Keys: []api.Key{}}
	for _, k := range list {
		if mayManageKey(r, k) {
			out.Keys = append(out.Keys, APIKey(k))
		}
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// createKey makes a key in the caller's organisation. A key cannot give more than its maker has:
// scopes, volumes and expiry are bounded by the caller's.
func (a *API) createKey(w http.ResponseWriter, r *core.Request) error {
	n, in, err := parseNewKey(r, r.Caller.Org)
	if err != nil {
		return err
	}
	if !r.Caller.Scopes.Has(n.Scopes) {
		return &core.Error{Code: api.CodeForbidden, Message: "a key cannot grant rights that it lacks"}
	}
	// A restricted key makes keys with its own restriction by default.
	if r.Caller.Volumes != nil && in.Volumes == nil {
		in.Volumes = r.Caller.Volumes
	}
	for _, ref := range in.Volumes {
		v, err := r.VisibleVolume(ref)
		if err != nil {
			return driver.Errorf(err, "volume %s: %v", ref, err)
		}
		n.Volumes = append(n.Volumes, v.ID())
	}
	return a.createAndReturnKey(w, r, n, in)
}

// parseNewKey reads from the body which key to make, except for its volumes.
func parseNewKey(r *core.Request, org string) (n accounts.NewKey, in api.CreateKey, err error) {
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
	expires, err := boundKeyExpiry(r.Caller, in.Expires)
	return accounts.NewKey{Org: org, Name: in.Name, Scopes: scope, Expires: expires, CreatedBy: r.Caller.KeyID, Format: in.Format}, in, err
}

// createAndReturnKey makes a key and answers with its secret, which is shown only this once.
func (a *API) createAndReturnKey(w http.ResponseWriter, r *core.Request, n accounts.NewKey, in api.CreateKey) error {
	if in.Volumes != nil && len(n.Volumes) == 0 {
		return driver.Errorf(vole.ErrInvalid, "\"volumes\" is empty; leave it out for a key to all volumes")
	}
	k, secret, err := a.core.Options().Accounts.CreateKey(r.Context(), n)
	if err != nil {
		return err
	}
	r.Audit.Volume, r.Audit.VolumeName, r.Audit.Detail = "", "", strings.TrimSpace(r.Audit.Detail+" "+k.ID+" "+k.Name)
	return core.WriteJSON(w, http.StatusCreated, api.NewKey{Key: APIKey(k), Secret: secret})
}

// createOrgKey makes a key in any organisation, for operators. That organisation's audit log
// records it too, before it happens.
func (a *API) createOrgKey(w http.ResponseWriter, r *core.Request) error {
	org := r.PathValue("org")
	r.Audit.Detail = org
	// The operator's own rights bound only the scope operator: an operator key has none in the
	// organisation.
	n, in, err := parseNewKey(r, org)
	if err != nil {
		return err
	}
	if n.Scopes.Has(accounts.Operator) && !r.Caller.Scopes.Has(accounts.Operator) {
		return core.NeedsScope(operatorScope)
	}
	store, err := a.core.Org(r.Context(), org)
	if errors.Is(err, vole.ErrNoSuch) {
		return orgNotFound(org)
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
	if err := a.auditInOrg(r, org, in.Name); err != nil {
		return err
	}
	return a.createAndReturnKey(w, r, n, in)
}

// orgNotFound returns the error for an organisation that does not exist.
func orgNotFound(org string) error {
	return core.NotFound("there is no organisation " + strconv.Quote(org))
}

// auditInOrg records in the audit log of another organisation what an operator is about to do to
// it. It names neither the operator nor their address: those are in the operator's own audit
// log.
func (a *API) auditInOrg(r *core.Request, org, detail string) error {
	if org == r.Caller.Org {
		return nil
	}
	return a.core.Options().Accounts.RecordNow(r.Context(), accounts.AuditRecord{At: time.Now(), Org: org, KeyName: "operator of the server",
		Action: r.Operation(), Detail: detail, RequestID: r.ID, Status: http.StatusAccepted})
}

// removeOrg removes an organisation and revokes its keys. A retry after a lost answer finds no
// organisation and still revokes the keys.
func (a *API) removeOrg(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	force := q.Bool("force")
	if err := q.Err(); err != nil {
		return err
	}
	org := r.PathValue("org")
	r.Audit.Detail = org
	if org == r.Caller.Org {
		return driver.Errorf(vole.ErrInUse, "%q is the organisation of this key, which would be revoked with it; use an operator key of another organisation", org)
	}
	err := a.core.Options().Organisations.RemoveOrg(r.Context(), org, force)
	if errors.Is(err, vole.ErrNoSuch) {
		// A first try may have removed it already.
		if err := a.core.Options().Accounts.RevokeOrg(r.Context(), org); err != nil {
			return err
		}
		return orgNotFound(org)
	}
	if err != nil {
		return err
	}
	// The organisation is gone: now end what this server has open, its keys, and the rights that
	// rest on them.
	a.core.ForgetOrg(org)
	if err := a.core.Options().Accounts.RevokeOrg(r.Context(), org); err != nil {
		return err
	}
	a.core.RecheckRights()
	return core.AnswerNoContent(w, nil)
}

// boundKeyExpiry returns when a new key expires: not after the key that makes it. Tokens of the
// identity provider are short-lived and do not count: their person may make keys that last.
func boundKeyExpiry(who *accounts.Principal, wanted time.Time) (time.Time, error) {
	if who.Expires.IsZero() || strings.HasPrefix(who.KeyID, "oidc:") {
		return wanted, nil
	}
	if wanted.IsZero() {
		return who.Expires, nil
	}
	if wanted.After(who.Expires) {
		return wanted, &core.Error{Code: api.CodeForbidden,
			Message: "a key cannot create one that outlives it; this key expires at " + who.Expires.UTC().Format(time.RFC3339)}
	}
	return wanted, nil
}

// revokeKey ends a key, its volume tokens, its sessions and its running requests. Without force,
// the last key that can administer the organisation, or the last operator key, is kept.
func (a *API) revokeKey(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	force := q.Bool("force")
	if err := q.Err(); err != nil {
		return err
	}
	id := r.PathValue("key")
	r.Audit.Detail = id
	if r.Caller.Volumes != nil {
		list, err := a.core.Options().Accounts.Keys(r.Context(), r.Caller.Org)
		if err != nil {
			return err
		}
		// Keys that the caller may not manage do not exist for it.
		if !slices.ContainsFunc(list, func(k accounts.Key) bool { return k.ID == id && mayManageKey(r, k) }) {
			return core.NotFound("there is no such key")
		}
	}
	o := a.core.Options()
	// Rights that the identity provider gives are not lost with a key.
	opts := accounts.RevokeOptions{Force: force}
	if o.OIDC != nil {
		opts.Provider = o.OIDC.Gives(r.Caller.Org)
	}
	k, loss, err := o.Accounts.RevokeKey(r.Context(), r.Caller.Org, id, opts)
	if last := (*accounts.LastKeyError)(nil); errors.As(err, &last) {
		return &core.Error{Code: api.CodeLastKey, Message: last.Error() + "; create another first, or force it"}
	}
	if driver.Classify(err).Err == driver.ErrNotExist {
		return core.NotFound("there is no such key")
	}
	if err != nil {
		return err
	}
	a.core.RecheckRights()
	r.Audit.Detail += " " + k.Name
	out := APIKey(k)
	if loss.Any() {
		out.Warning = loss.Text(r.Caller.Org)
		r.Audit.Detail += ": " + out.Warning
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// listAudit answers with one page of the audit log, newest first; a caller restricted to some
// volumes gets the records of those.
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
			return driver.Errorf(vole.ErrInvalid, "invalid cursor of the audit log; use the one of the previous page")
		}
	}
	// Ids grow with time, so the id of the last record is the cursor.
	list, err := a.core.Options().Accounts.Audit(r.Context(), r.Caller.Org, before, limit)
	if err != nil {
		return err
	}
	out := api.AuditPage{Records: []api.AuditRecord{}}
	for _, x := range list {
		// Left out after the query, so a page may be shorter than limit; Next still leads on.
		if r.Caller.Volumes != nil && !r.Caller.Sees(x.Volume) {
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

// listOrgs answers with the names of all organisations.
func (a *API) listOrgs(w http.ResponseWriter, r *core.Request) error {
	list, err := a.core.Options().Organisations.Orgs(r.Context())
	return core.AnswerJSON(w, http.StatusOK, api.Orgs{Orgs: append([]string{}, list...)}, err)
}

// createOrg makes an organisation and answers with its first admin key.
func (a *API) createOrg(w http.ResponseWriter, r *core.Request, in api.CreateOrg) error {
	r.Audit.Detail = in.Name
	if err := a.core.Options().Organisations.CreateOrg(r.Context(), in.Name); err != nil {
		return err
	}
	k, secret, err := a.core.Options().Accounts.CreateKey(r.Context(), accounts.NewKey{Org: in.Name, Name: "first", Scopes: adminScope, CreatedBy: r.Caller.KeyID})
	return core.AnswerJSON(w, http.StatusCreated, api.NewKey{Key: APIKey(k), Secret: secret}, err)
}
