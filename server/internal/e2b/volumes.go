package e2b

import (
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

// volumeRoutes are the routes of volumes, which need an API key. They take ids alone: SDKs expect
// 404 for what is no id.
func volumeRoutes() []*core.Route {
	routes := []*core.Route{
		{Method: "POST", Path: volumesPath, Name: "createVolume", Scope: accounts.Write, Changes: true, AuditFirst: true, Handle: createVolume},
		{Method: "GET", Path: volumesPath, Name: "listVolumes", Scope: accounts.Read, Handle: listVolumes},
		{Method: "GET", Path: volumesPath + "/{volume}", Name: "getVolume", Scope: accounts.Read, Handle: getVolume},
		{Method: "DELETE", Path: volumesPath + "/{volume}", Name: "removeVolume", Scope: accounts.Write, Changes: true, AuditFirst: true, Handle: removeVolume},
	}
	for _, rt := range routes {
		rt.Auth = core.HeaderAuth
	}
	return routes
}

// wireVolume is a volume in answers.
type wireVolume struct {
	ID    string `json:"volumeID"`
	Name  string `json:"name"`
	Token string `json:"token,omitempty"` // not in lists
}

// createVolume creates a volume and answers with a token for its files.
func createVolume(w http.ResponseWriter, r *core.Request) error {
	var in struct {
		Name string `json:"name"`
	}
	if err := r.ReadJSON(&in, true); err != nil {
		return err
	}
	r.Audit.Volume = in.Name
	if r.Caller.Volumes != nil {
		return core.ErrForbidden // it could not see the new volume
	}
	store, err := r.Store()
	if err != nil {
		return err
	}
	v, err := store.Create(r.Context(), in.Name, vole.Spec{})
	if err != nil {
		return err
	}
	r.Audit.Volume, r.Audit.VolumeName = v.ID(), v.Name()
	return answerVolume(w, r, http.StatusCreated, v)
}

// getVolume answers with a volume and a token for its files.
func getVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := r.VisibleVolumeByID(r.PathValue("volume"))
	if err != nil {
		return err
	}
	return answerVolume(w, r, http.StatusOK, v)
}

// answerVolume answers with a volume and a new token for its files.
func answerVolume(w http.ResponseWriter, r *core.Request, status int, v *vole.Volume) error {
	token, err := r.Core.Options().Accounts.VolumeToken(r.Context(), r.Caller, v.ID(), tokenTTL)
	return core.AnswerJSON(w, status, wireVolume{v.ID(), v.Name(), token}, err)
}

// listVolumes answers with the volumes that the key sees, without tokens.
func listVolumes(w http.ResponseWriter, r *core.Request) error {
	out := core.NewJSONArray(w, "[", "]")
	if err := r.EachVolume(func(i vole.Info) error { return out.Add(wireVolume{ID: i.ID, Name: i.Name}) }); err != nil {
		return err
	}
	return out.Close()
}

// removeVolume removes a volume with its files.
func removeVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := r.VisibleVolumeByID(r.PathValue("volume"))
	if err != nil {
		return err
	}
	// An open file system of requests would keep the volume in use.
	r.EvictVolume(v.ID())
	return core.AnswerNoContent(w, v.Remove(r.Context()))
}
