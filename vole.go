// Package vole gives sandboxes storage that outlives them: named volumes.
//
// A [Store] is an open backend: a local home, or an organisation's volumes behind a
// server; [Options] says which. It makes, finds, lists, changes and removes volumes:
//
//	store, err := vole.Open(ctx, vole.Options{})
//	vol, err := store.Create(ctx, "pip-cache", vole.Spec{Quota: 2 * vole.GiB})
//
// A [Volume] is one volume, held by its id: when its name is given to another, the
// Volume still means the old one, and once that is removed every call returns
// [ErrNotFound]. Its files are reached in one of two ways. [Volume.FS] opens them for
// the program itself, on every kind and backend alike:
//
//	fsys, err := vol.FS(ctx)
//	err = fsys.WriteFile(ctx, "a/b.txt", data, 0o644) // atomic, durable, parents made
//
// [Volume.Attach] takes the right to hand them to a consumer (a sandbox, a virtual
// machine) for as long as that lives; a volume that is attached cannot be removed:
//
//	att, err := vol.Attach(ctx, vole.AttachOptions{Holder: "sandbox-7", HostPath: true})
//	defer att.Detach(ctx)
//
// Sizes are bytes, times are UTC. A call that returned nil survives a power cut (see
// [FSOptions].Batch for the exception). Every call takes a context and ends when it
// does; a wait for a lock then says who held it. Every error is an [*Error] that
// matches one of the sentinels of this package under [errors.Is].
//
// Everything but Close and Detach may be called from any number of goroutines, and
// from any number of processes on one home.
package vole

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/drivers/local"
)

// New returns a Store over a backend. The Store closes it.
func New(b driver.Backend) *Store { return &Store{b: b} }

// Store is an open backend: a set of volumes.
type Store struct {
	b driver.Backend
}

// Caps tells what the backend can do.
func (s *Store) Caps() Caps { return s.b.Caps() }

// Local returns the home on this host that s keeps its volumes in; nil if it is another
// backend. It is for packages of this module that keep their own in a home.
func (s *Store) Local() *local.Backend {
	b, _ := s.b.(*local.Backend)
	return b
}

// Cloud returns the client of the server that keeps the volumes of s; nil if it is another
// backend. It has what only servers have: keys, organisations, the audit log, events.
func (s *Store) Cloud() *cloud.Backend {
	b, _ := s.b.(*cloud.Backend)
	return b
}

// Close closes the backend; its attachments end, its FSes are closed.
func (s *Store) Close() error { return wrapError("close", "", "", s.b.Close()) }

// Create makes an empty volume. ErrExists: the name is taken; ErrInvalid: the name
// or the spec breaks a rule, and the error says which; ErrUnsupported: the backend
// cannot keep to a limit or kind.
func (s *Store) Create(ctx context.Context, name string, spec Spec) (*Volume, error) {
	if spec.Kind == "" {
		spec.Kind = KindDir
	}
	if err := errors.Join(driver.ValidateName(name), spec.Validate()); err != nil {
		return nil, wrapError("create", name, "", err)
	}
	if spec.From != "" && !s.b.Caps().Clones {
		return nil, wrapError("create", name, "", driver.Errorf(ErrUnsupported, "this backend cannot clone volumes; create an empty one and copy the files"))
	}
	info, err := s.b.Create(ctx, name, spec)
	if err != nil {
		return nil, wrapError("create", name, "", err)
	}
	return s.newVolume(info), nil
}

// Ensure returns the volume of that name, and makes it when there is none; created
// tells which. An existing volume is never changed: when its kind, a limit that
// spec sets or a label that spec has differs, Ensure returns ErrExists and says what.
func (s *Store) Ensure(ctx context.Context, name string, spec Spec) (v *Volume, created bool, err error) {
	for {
		v, err = s.Create(ctx, name, spec)
		if err == nil || !errors.Is(err, ErrExists) {
			return v, err == nil, err
		}
		v, err = s.getByName(ctx, "ensure", name)
		if errors.Is(err, ErrNotFound) { // removed in between, or being built
			select {
			case <-ctx.Done():
				return nil, false, wrapError("ensure", name, "", driver.Errorf(ctx.Err(), "another is still making the volume: %v", ctx.Err()))
			case <-time.After(ensurePause):
				continue
			}
		}
		if err != nil {
			return nil, false, err
		}
		if err := spec.Fits(v.Info()); err != nil {
			return nil, false, wrapError("ensure", name, "", err)
		}
		return v, false, nil
	}
}

// ensurePause is how long to wait for a volume that another is making.
const ensurePause = 5 * time.Millisecond

// Build makes a volume that holds what fill puts into it, through the Volume that it
// gets. The name is taken at once, but the volume is not visible to others before fill has
// returned nil; when it fails, or this process dies, there is none. Errors are those of
// Create and of fill; ErrUnsupported: the backend has no drafts.
func (s *Store) Build(ctx context.Context, name string, spec Spec, fill func(v *Volume) error) (*Volume, error) {
	spec.Draft = true
	v, err := s.Create(ctx, name, spec)
	if err != nil {
		return nil, err
	}
	err = fill(v)
	if err == nil {
		err = v.applyUpdate(ctx, "create", Update{Publish: true})
	}
	if err == nil {
		return v, nil
	}
	err = wrapError("create", name, "", err)
	if _, rerr := s.b.Remove(context.WithoutCancel(ctx), driver.ByID(v.ID())); rerr != nil {
		err = errors.Join(err, wrapError("create", name, "", rerr))
	}
	return nil, err
}

// Get returns the volume with that id, or else that name.
func (s *Store) Get(ctx context.Context, ref string) (*Volume, error) {
	if driver.IsID(ref) {
		info, err := s.b.Get(ctx, driver.ByID(ref))
		if !errors.Is(err, ErrNotFound) {
			if err != nil {
				return nil, wrapError("get", ref, "", err)
			}
			return s.newVolume(info), nil
		}
	}
	return s.getByName(ctx, "get", ref)
}

func (s *Store) getByName(ctx context.Context, op, name string) (*Volume, error) {
	if err := driver.ValidateName(name); err != nil {
		return nil, wrapError(op, name, "", err)
	}
	info, err := s.b.Get(ctx, driver.ByName(name))
	if err != nil {
		return nil, wrapError(op, name, "", err)
	}
	return s.newVolume(info), nil
}

// Volumes yields the volumes that filter selects, newest first, in bounded memory.
// filter.Limit bounds how many, filter.Cursor says where to begin.
func (s *Store) Volumes(ctx context.Context, filter Filter) iter.Seq2[*Volume, error] {
	return func(yield func(*Volume, error) bool) {
		left, bounded := filter.Limit, filter.Limit > 0
		for {
			page, err := s.List(ctx, filter)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, info := range page.Volumes {
				if !yield(s.newVolume(info), nil) {
					return
				}
			}
			left -= len(page.Volumes)
			if page.Next == "" || bounded && left <= 0 {
				return
			}
			filter.Cursor = page.Next
			if bounded {
				filter.Limit = left
			}
		}
	}
}

// List returns one page of the volumes that filter selects, newest first.
func (s *Store) List(ctx context.Context, filter Filter) (Page, error) {
	if err := refuseNegative("limit", int64(filter.Limit)); err != nil {
		return Page{}, wrapError("list", "", "", err)
	}
	page, err := s.b.List(ctx, filter)
	return page, wrapError("list", "", "", err)
}

// Remove removes the volume with that id, or else that name, and all it holds.
// ErrInUse: it is attached; the error names a holder.
func (s *Store) Remove(ctx context.Context, ref string) error {
	if driver.IsID(ref) {
		_, err := s.b.Remove(ctx, driver.ByID(ref))
		if !errors.Is(err, ErrNotFound) {
			return wrapError("remove", ref, "", err)
		}
	}
	err := driver.ValidateName(ref)
	if err == nil {
		_, err = s.b.Remove(ctx, driver.ByName(ref))
	}
	return wrapError("remove", ref, "", err)
}

// Rename gives the volume with that id, or else that name, another name.
func (s *Store) Rename(ctx context.Context, ref, newName string) (*Volume, error) {
	v, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := driver.ValidateName(newName); err != nil {
		return nil, wrapError("rename", ref, "", err)
	}
	return v, v.applyUpdate(ctx, "rename", Update{Name: newName})
}

// Attachments lists the live attachments of all volumes, oldest first.
func (s *Store) Attachments(ctx context.Context) ([]AttachmentInfo, error) {
	list, err := s.b.Attachments(ctx, "")
	return list, wrapError("list attachments", "", "", err)
}

// Check looks for inconsistencies between catalog, storage and usage, calls report
// for each, and repairs them if opts.Fix is set. An error of report ends it.
func (s *Store) Check(ctx context.Context, opts CheckOptions, report func(Finding) error) error {
	return wrapError("check", "", "", s.b.Check(ctx, opts, report))
}

// wrapError is the boundary of the package: it names the operation and its object, once.
func wrapError(op, volume, path string, err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Volume: volume, Path: path, Err: err}
}
