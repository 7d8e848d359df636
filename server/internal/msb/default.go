package msb

import (
	"errors"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/core"
)

// The default volume of an organisation.
const (
	defaultID    = "default"     // its alias in requests
	defaultName  = "msb-default" // outside this dialect
	defaultLabel = "msb.default" // tells it from one that somebody gave that name
)

var errDefaultTaken = &core.Error{Status: http.StatusConflict, Code: codeTaken,
	Message: "a volume other than the default one has the name " + defaultName + "; rename it"}

// isDefaultVolume reports whether a volume is the default one: name and label must both match,
// since users can have volumes of that name.
func isDefaultVolume(i vole.Info) bool {
	_, marked := i.Labels[defaultLabel]
	return marked && i.Name == defaultName
}

// defaultVolume returns the default volume, and creates it if it is missing, even for a key that
// may only read: to clients it has always existed. A key restricted to some volumes gets it only
// if it is one of them.
func (a *api) defaultVolume(r *core.Request) (*vole.Volume, error) {
	store, err := r.Store()
	if err != nil {
		return nil, err
	}
	v, err := store.Get(r.Context(), defaultName)
	if errors.Is(err, vole.ErrNotFound) && r.Caller.Volumes == nil {
		var created bool
		v, created, err = store.Ensure(r.Context(), defaultName, vole.Spec{Kind: vole.KindDir, Labels: vole.Labels{defaultLabel: "true"}})
		if created {
			a.core.Options().Log.Info("the default volume was made", "request", r.ID, "org", r.Caller.Org, "volume", v.ID())
		}
	}
	// Ensure found a volume of that name without the label.
	if errors.Is(err, vole.ErrExists) {
		return nil, errDefaultTaken
	}
	if err != nil {
		return nil, err
	}
	// A key restricted to other volumes must not learn whether the default one exists.
	if err := r.CheckVisible(v.ID(), v.Name()); err != nil {
		return nil, err
	}
	if !isDefaultVolume(v.Info()) {
		return nil, errDefaultTaken
	}
	return v, nil
}

// getDefaultVolume answers with the default volume.
func (a *api) getDefaultVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := a.defaultVolume(r)
	return answerVolume(w, v, err)
}
