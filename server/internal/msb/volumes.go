package msb

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server/internal/core"
)

// wireVolume is a volume in answers.
type wireVolume struct {
	ID            string            `json:"id"`
	Name          *string           `json:"name"` // null: the default volume
	Kind          string            `json:"kind"`
	Storage       string            `json:"storage"`
	Status        string            `json:"status"`
	UsedBytes     *int64            `json:"used_bytes"`     // null: not known
	CapacityBytes *int64            `json:"capacity_bytes"` // null: no limit
	Labels        map[string]string `json:"labels"`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
}

// toWireVolume returns the wire form of a volume.
func toWireVolume(i vole.Info) wireVolume {
	v := wireVolume{ID: i.ID, Name: &i.Name, Kind: "managed", Storage: "block", Status: "active",
		Labels: map[string]string{}, CreatedAt: i.Created.UTC(), UpdatedAt: i.Updated.UTC()}
	if isDefaultVolume(i) {
		v.Name, v.Kind = nil, "host"
	}
	if i.State == driver.StateRemoving {
		v.Status = "deleting"
	}
	if used := int64(i.Used); !i.UsedStale {
		v.UsedBytes = &used
	}
	if limit := int64(max(i.Quota, i.Capacity)); limit > 0 { // a volume has one of them at most
		v.CapacityBytes = &limit
	}
	maps.Copy(v.Labels, i.Labels)
	delete(v.Labels, defaultLabel)
	return v
}

// answerVolume answers with a volume, unless err is set, which it returns.
func answerVolume(w http.ResponseWriter, v *vole.Volume, err error) error {
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, toWireVolume(v.Info()))
}

// gibCapacity is a number of GiB in a body, which may be missing or null.
type gibCapacity struct {
	set  bool
	size vole.Size // 0: null
}

// UnmarshalJSON accepts a positive number, perhaps with a fraction, or null.
func (g *gibCapacity) UnmarshalJSON(b []byte) error {
	g.set, g.size = true, 0
	if string(b) == "null" {
		return nil
	}
	var n float64
	if err := json.Unmarshal(b, &n); err != nil {
		return errors.New("capacity_gib is not a number")
	}
	// A float64 has 53 bits, so sizes beyond 8 PiB lose their last bytes.
	bytes := math.Round(n * float64(vole.GiB))
	if bytes < 1 || bytes >= math.MaxInt64 {
		return errors.New("capacity_gib is out of range; write a positive number of GiB, or null for no limit")
	}
	g.size = vole.Size(bytes)
	return nil
}

// refuseDefaultLabel refuses the label that marks the default volume.
func refuseDefaultLabel(labels map[string]string) error {
	if _, ok := labels[defaultLabel]; ok {
		return invalidRequest("the label %q is reserved; use another", defaultLabel)
	}
	return nil
}

// listVolumes answers with all volumes that the key sees, newest first. The default volume is
// always in the list of an unrestricted key; it is made if need be.
func (a *api) listVolumes(w http.ResponseWriter, r *core.Request) error {
	list, found := []wireVolume{}, r.Caller.Volumes != nil
	err := r.EachVolume(func(i vole.Info) error {
		list = append(list, toWireVolume(i))
		found = found || isDefaultVolume(i)
		return r.ReserveMemory(core.VolumeMemorySize(i))
	})
	if err != nil {
		return err
	}
	if !found {
		v, err := a.defaultVolume(r)
		switch {
		case err == nil:
			list = append([]wireVolume{toWireVolume(v.Info())}, list...)
		case !errors.Is(err, errDefaultTaken) && !errors.Is(err, vole.ErrReadOnly):
			return err
		}
	}
	return core.WriteJSON(w, http.StatusOK, list)
}

// createVolume creates a dir volume; its capacity is the quota.
func createVolume(w http.ResponseWriter, r *core.Request) error {
	var in struct {
		Name     string            `json:"name"`
		Labels   map[string]string `json:"labels"`
		Capacity gibCapacity       `json:"capacity_gib"`
	}
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if err := refuseDefaultLabel(in.Labels); err != nil {
		return err
	}
	if r.Caller.Volumes != nil {
		return core.ErrForbidden // it could not see the new volume
	}
	taken := &core.Error{Status: http.StatusConflict, Code: codeTaken, Message: "a volume with that name already exists"}
	if in.Name == defaultName {
		return taken // even if the default volume is not made yet
	}
	store, err := r.Store()
	if err != nil {
		return err
	}
	v, err := store.Create(r.Context(), in.Name, vole.Spec{Quota: in.Capacity.size, Labels: in.Labels})
	if errors.Is(err, vole.ErrExists) {
		return taken
	}
	if err != nil {
		return err
	}
	r.Audit.Volume, r.Audit.VolumeName = v.ID(), v.Name()
	return answerVolume(w, v, nil)
}

// resolveVolumeID returns the id of the volume in the URL, where "default" stands for the
// default volume.
func (a *api) resolveVolumeID(r *core.Request) (string, error) {
	id := strings.ToLower(r.PathValue("id"))
	if id == defaultID {
		v, err := a.defaultVolume(r)
		if err != nil {
			return "", err
		}
		return v.ID(), nil
	}
	if !driver.IsID(id) {
		return "", vole.ErrNotFound // it would be taken for a name
	}
	return id, nil
}

// findVolumeByID returns the volume in the URL.
func (a *api) findVolumeByID(r *core.Request) (*vole.Volume, error) {
	id, err := a.resolveVolumeID(r)
	if err != nil {
		return nil, err
	}
	return r.VisibleVolumeByID(id)
}

// updateVolume changes the capacity, replaces all labels, or both in one step. What is missing
// in the body stays.
func (a *api) updateVolume(w http.ResponseWriter, r *core.Request) error {
	var in struct {
		Labels   map[string]string `json:"labels"`
		Capacity gibCapacity       `json:"capacity_gib"`
	}
	if err := r.ReadJSON(&in, false); err != nil {
		return err
	}
	if err := refuseDefaultLabel(in.Labels); err != nil {
		return err
	}
	v, err := a.findVolumeByID(r)
	if err != nil {
		return err
	}
	// A missing capacity stays, null removes the quota of a dir volume.
	var change vole.Update
	switch {
	case !in.Capacity.set:
	case in.Capacity.size == 0:
		change.ClearQuota = true
	case v.Info().Kind == vole.KindDisk:
		change.Capacity = in.Capacity.size
	default:
		change.Quota = in.Capacity.size
	}
	change.SetLabels = in.Labels
	// A concurrent request may add labels between reading and changing them. Then those are
	// removed too: the result is the labels of one request, never a mixture.
	for {
		change.RemoveLabels = nil
		if in.Labels != nil {
			change.RemoveLabels = keysNotIn(v.Info().Labels, in.Labels)
		}
		if err := v.Update(r.Context(), change); err != nil {
			return err
		}
		if in.Labels == nil || len(keysNotIn(v.Info().Labels, in.Labels)) == 0 {
			return answerVolume(w, v, nil)
		}
		change = vole.Update{SetLabels: in.Labels}
	}
}

// keysNotIn returns the keys of have that are not in want, except the label of the default
// volume.
func keysNotIn(have, want map[string]string) []string {
	var list []string
	for k := range have {
		if _, ok := want[k]; !ok && k != defaultLabel {
			list = append(list, k)
		}
	}
	return list
}

// removeVolume removes a volume. The default volume cannot be removed.
func (a *api) removeVolume(w http.ResponseWriter, r *core.Request) error {
	v, err := a.findVolumeByID(r)
	if err != nil {
		return err
	}
	if isDefaultVolume(v.Info()) {
		return &core.Error{Status: http.StatusConflict, Code: "default_volume", Message: "the default volume cannot be removed; remove the files in it"}
	}
	// An open file system of requests would keep the volume in use.
	r.EvictVolume(v.ID())
	return core.AnswerJSON(w, http.StatusOK, map[string]string{"message": "volume removed"}, v.Remove(r.Context()))
}
