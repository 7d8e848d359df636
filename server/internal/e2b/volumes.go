package e2b

import (
	"net/http"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

func volumeRoutes() []*core.Route {
	routes := []*core.Route{
		{Method: "POST", Path: volumes, Name: "createVolume", Scope: accounts.Write, Changes: true, Grave: true, Do: createVolume},
		{Method: "GET", Path: volumes, Name: "listVolumes", Scope: accounts.Read, Do: listVolumes},
		{Method: "GET", Path: volumes + "/{volume}", Name: "getVolume", Scope: accounts.Read, Do: getVolume},
		{Method: "DELETE", Path: volumes + "/{volume}", Name: "removeVolume", Scope: accounts.Write, Changes: true, Grave: true, Do: removeVolume},
	}
	for _, rt := range routes {
		rt.Auth = core.HeaderAuth
	}
	return routes
}

// volume is a volume as clients see it.
type volume struct {
	ID    string `json:"volumeID"`
	Name  string `json:"name"`
	Token string `json:"token,omitempty"` // not in lists
}

func createVolume(w http.ResponseWriter, r *core.Request) error {
	var in struct {
		Name string `json:"name"`
	}
	if err := r.ReadJSON(&in, true); err != nil {
		return err
	}
	r.Record.Volume = in.Name
	if r.Who.Volumes != nil {
		return core.ErrForbidden // it could not see what it made
	}
	store, err := r.Store()
	if err != nil {
		return err
	}
	v, err := store.Create(r.Context(), in.Name, vole.Spec{})
	if err != nil {
		return err
	}
	r.Record.Volume, r.Record.VolumeName = v.ID(), v.Name()
	return answerVolume(w, r, http.StatusCreated, v)
}

func getVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := find(r)
	if err != nil {
		return err
	}
	return answerVolume(w, r, http.StatusOK, v)
}

// answerVolume describes a volume, with a new token for its files.
func answerVolume(w http.ResponseWriter, r *core.Request, status int, v *vole.Volume) error {
	token, err := r.Core.Options().Accounts.VolumeToken(r.Context(), r.Who, v.ID(), tokenTime)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, status, volume{v.ID(), v.Name(), token})
}

// find returns the volume whose id the URL has. What cannot be an id is not there, as
// SDKs expect.
func find(r *core.Request) (*vole.Volume, error) {
	id := r.PathValue("volume")
	if uuid.Validate(id) != nil {
		return nil, vole.ErrNotFound
	}
	v, err := r.Volume(id)
	if err == nil && v.ID() != id {
		return nil, vole.ErrNotFound // that was its name
	}
	return v, err
}

func listVolumes(w http.ResponseWriter, r *core.Request) error {
	out := newArray(w)
	if err := r.EachVolume(func(i vole.Info) error { return out.add(volume{ID: i.ID, Name: i.Name}) }); err != nil {
		return err
	}
	return out.end()
}

func removeVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := find(r)
	if err != nil {
		return err
	}
	r.Forget(v.ID())
	if err := v.Remove(r.Context()); err != nil {
		return err
	}
	return noContent(w)
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
