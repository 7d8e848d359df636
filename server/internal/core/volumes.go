package core

import (
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// volumeStep is how many volumes are read before their memory is accounted for.
const volumeStep = 32

// EachVolume calls fn for each volume that the caller sees, newest first. It reads in batches,
// whose memory counts in the budget of the organisation until fn has seen them.
func (r *Request) EachVolume(fn func(i vole.Info) error) error {
	store, err := r.Store()
	if err != nil {
		return err
	}
	filter := vole.Filter{Limit: volumeStep}
	for {
		page, err := store.List(r.Context(), filter)
		if err != nil {
			return err
		}
		if err := r.visitBatch(page.Volumes, fn); err != nil || page.Next == "" {
			return err
		}
		filter.Cursor = page.Next
	}
}

// visitBatch borrows memory for one batch while it passes the visible ones to fn.
func (r *Request) visitBatch(list []vole.Info, fn func(i vole.Info) error) error {
	size := int64(0)
	for _, i := range list {
		size += VolumeMemorySize(i)
	}
	release, err := r.BorrowMemory(size)
	if err != nil {
		return err
	}
	defer release()
	for _, i := range list {
		if r.Caller.Sees(i.ID) {
			if err := fn(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// VolumeMemorySize estimates how much memory a volume takes in an answer, in bytes: as a value
// and as JSON.
func VolumeMemorySize(i vole.Info) int64 {
	n := int64(1024)
	for k, v := range i.Labels {
		n += int64(2*len(k) + 2*len(v) + 64)
	}
	return n
}

// openOrg returns the organisation of the caller, opened at first use.
func (r *Request) openOrg() (*org, error) {
	if r.org == nil {
		o, err := r.Core.openOrg(r.Context(), r.Caller.Org)
		if err != nil {
			return nil, err
		}
		r.org = o
	}
	return r.org, nil
}

// Store returns the volumes of the caller's organisation. It does not filter: callers must check
// visibility with VisibleVolume, CheckVisible or Caller.Sees.
func (r *Request) Store() (*vole.Store, error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, err
	}
	return o.store, nil
}

// CallerID identifies the caller across organisations: a subject of an identity provider may
// belong to several.
func (r *Request) CallerID() string { return r.Caller.Org + " " + r.Caller.KeyID }

// Backend returns the backend below Store, without the guard of the server: its callers check
// limits and rights themselves.
func (r *Request) Backend() (driver.Backend, error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, err
	}
	return o.backend, nil
}

// VisibleVolume returns the volume with that id, or else that name, if the caller may see it. It
// notes the volume in the audit record.
func (r *Request) VisibleVolume(ref string) (*vole.Volume, error) {
	store, err := r.Store()
	if err != nil {
		return nil, err
	}
	r.Audit.Volume, r.Audit.VolumeName = ref, ""
	v, err := store.Get(r.Context(), ref)
	if err != nil {
		return nil, err
	}
	return v, r.CheckVisible(v.ID(), v.Name())
}

// VisibleVolumeByID is VisibleVolume for an id alone. What is no id is not found.
func (r *Request) VisibleVolumeByID(id string) (*vole.Volume, error) {
	if !driver.IsID(id) {
		return nil, vole.ErrNotFound // VisibleVolume would take it for a name
	}
	v, err := r.VisibleVolume(id)
	if err == nil && v.ID() != id {
		return nil, vole.ErrNotFound // its name looks like an id
	}
	return v, err
}

// CheckVisible returns ErrNotFound for a volume that the caller may not see, so that its
// existence stays hidden. It notes id and name (empty if unknown) in the audit record.
func (r *Request) CheckVisible(id, name string) error {
	r.Audit.Volume, r.Audit.VolumeName = id, name
	if !r.Caller.Sees(id) {
		return vole.ErrNotFound
	}
	return nil
}

// AcquireFS returns the shared open file system of a volume. The caller must call done with the
// error of its use: an error that says that the volume is gone evicts the file system from the
// cache.
func (r *Request) AcquireFS(ref string, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, nil, err
	}
	if driver.IsID(ref) && r.Caller.Sees(ref) {
		key := fsKey{ref, o.store.Caps().ReadOnly}
		if x := o.fsCache.acquireCached(key); x != nil {
			r.Audit.Volume, r.Audit.VolumeName = ref, x.name
			return x.fs, func(err error) { o.fsCache.releaseFS(key, x, err) }, nil
		}
	}
	v, err := r.VisibleVolume(ref)
	if err != nil {
		return nil, nil, err
	}
	// A writer of a disk volume excludes all others, so readers open it read-only. Dir volumes
	// need one handle for both.
	readOnly = readOnly && v.Info().Kind == vole.KindDisk || o.store.Caps().ReadOnly
	return o.fsCache.acquireOrOpen(r.Context(), v, readOnly)
}

// WithFS calls fn with the shared open file system of a volume.
func (r *Request) WithFS(ref string, readOnly bool, fn func(*vole.FS) error) error {
	fsys, done, err := r.AcquireFS(ref, readOnly)
	if err != nil {
		return err
	}
	err = fn(fsys)
	done(err)
	return err
}

// EvictVolume closes the shared file systems of a volume: now, or when their last user is done.
// Handlers that attach, open or remove a volume call it first, since an open file system counts
// as a user.
func (r *Request) EvictVolume(volume string) {
	if r.org != nil {
		r.org.fsCache.evictVolume(volume)
	}
}
