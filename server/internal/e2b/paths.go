package e2b

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/server/internal/core"
)

// wireEntry is a file, directory or link in answers.
type wireEntry struct {
	Name   string    `json:"name"`
	Path   string    `json:"path"`
	Type   string    `json:"type"` // file, directory, symlink or unknown
	Size   int64     `json:"size"`
	Mode   uint32    `json:"mode"` // permission bits only
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Atime  time.Time `json:"atime"`
	Mtime  time.Time `json:"mtime"`
	Ctime  time.Time `json:"ctime"`
	Target string    `json:"target,omitempty"` // of a link
}

// describeEntry returns the wire form of what Lstat found at path.
func describeEntry(ctx context.Context, f *vole.FS, path string, e vole.Entry) (wireEntry, error) {
	x := api.FromEntry(e) // times, among others, that JSON can hold
	out := wireEntry{Name: x.Name, Path: driver.RootedPath(path), Type: "unknown", Size: e.Size, Mode: filemode.Perm(e.Mode),
		UID: e.UID, GID: e.GID, Atime: x.Atime, Mtime: x.Mtime, Ctime: x.Ctime}
	if path == "." {
		out.Name = "/"
	}
	switch x.Type {
	case api.File, api.Directory:
		out.Type = string(x.Type)
	case api.Symlink:
		out.Type = "symlink"
		target, err := f.Readlink(ctx, path)
		if err != nil && !errors.Is(err, vole.ErrInvalid) { // ErrInvalid: it is no longer a link
			return out, err
		}
		out.Target = target
	}
	return out, nil
}

// answerEntry answers with the description of what is at path.
func answerEntry(w http.ResponseWriter, r *core.Request, f *vole.FS, status int, path string) error {
	e, err := f.Lstat(r.Context(), path)
	if err != nil {
		return notDirAsNotExist(err)
	}
	out, err := describeEntry(r.Context(), f, path, e)
	return core.AnswerJSON(w, status, out, err)
}

// metadata is the owner and mode that a client sets; nil keeps the old value.
type metadata struct {
	UID  *int64 `json:"uid"`
	GID  *int64 `json:"gid"`
	Mode *int64 `json:"mode"`
}

const (
	maxID   = math.MaxUint32 - 1 // chown(2) takes the next one for "keep"
	maxMode = 0o7777
)

// parseMetadata reads metadata from the query.
func parseMetadata(q *core.Query) metadata {
	var m metadata
	for name, p := range map[string]struct {
		to   **int64
		most int64
	}{"uid": {&m.UID, maxID}, "gid": {&m.GID, maxID}, "mode": {&m.Mode, maxMode}} {
		if q.Has(name) {
			n := q.Int(name, 0, 0, p.most)
			*p.to = &n
		}
	}
	return m
}

// checkRanges returns an error for values that cannot be set.
func (m metadata) checkRanges() error {
	for _, id := range []*int64{m.UID, m.GID} {
		if id != nil && (*id < 0 || *id > maxID) {
			return driver.Errorf(vole.ErrInvalid, "uid or gid %d: write a number from 0 to %d", *id, maxID)
		}
	}
	if m.Mode != nil && (*m.Mode < 0 || *m.Mode > maxMode) {
		return driver.Errorf(vole.ErrInvalid, "mode %d: write permission bits as a number from 0 to %d (octal 7777)", *m.Mode, maxMode)
	}
	return nil
}

// modeOrDefault returns the mode, or def if none is set.
func (m metadata) modeOrDefault(def fs.FileMode) fs.FileMode {
	if m.Mode == nil {
		return def
	}
	return filemode.Go(uint32(*m.Mode))
}

// setsOwner reports whether owner or group is set.
func (m metadata) setsOwner() bool { return m.UID != nil || m.GID != nil }

// applyToPath sets owner and mode of what is at path. The owner comes first: changing it clears the
// setuid bits.
func (m metadata) applyToPath(ctx context.Context, f *vole.FS, path string) error {
	if m.setsOwner() {
		// -1 keeps the old value.
		uid, gid := -1, -1
		if m.UID != nil {
			uid = int(*m.UID)
		}
		if m.GID != nil {
			gid = int(*m.GID)
		}
		if err := f.Chown(ctx, path, uid, gid); err != nil {
			return err
		}
	}
	if m.Mode != nil {
		return f.Chmod(ctx, path, m.modeOrDefault(0))
	}
	return nil
}

// statPath answers with the metadata of a path, of a symbolic link itself.
func statPath(w http.ResponseWriter, r *core.Request) error {
	return withPath(r, lenientQuery(r), true, func(f *vole.FS, path string) error { return answerEntry(w, r, f, http.StatusOK, path) })
}

// setMetadata sets owner and mode of a path and answers with its new metadata.
func setMetadata(w http.ResponseWriter, r *core.Request) error {
	path, err := pathParameter(r, lenientQuery(r))
	if err != nil {
		return err
	}
	var m metadata
	if err := r.ReadJSON(&m, true); err != nil {
		return err
	}
	if err := m.checkRanges(); err != nil {
		return err
	}
	return withVolumeFS(r, false, func(f *vole.FS) error {
		e, err := f.Lstat(r.Context(), path)
		if err != nil {
			return notDirAsNotExist(err)
		}
		if m.Mode != nil && e.Mode.Type() == fs.ModeSymlink {
			// Chmod would follow it.
			return driver.Errorf(vole.ErrInvalid, "a symbolic link has no mode of its own; set that of its target")
		}
		if err := m.applyToPath(r.Context(), f, path); err != nil {
			return err
		}
		return answerEntry(w, r, f, http.StatusOK, path)
	})
}

// removePath removes a file, a link, or a directory with everything in it: SDKs have no other
// way to remove a tree.
func removePath(w http.ResponseWriter, r *core.Request) error {
	return withPath(r, lenientQuery(r), false, func(f *vole.FS, path string) error {
		e, err := f.Lstat(r.Context(), path)
		if err == nil && e.Mode.IsDir() {
			err = f.RemoveAll(r.Context(), path)
		} else if err == nil {
			err = f.Remove(r.Context(), path)
		}
		return core.AnswerNoContent(w, notDirAsNotExist(err))
	})
}

// makeDirectory makes a directory. With force it also makes missing parents, with the same owner and
// mode, and leaves an existing directory as it is.
func makeDirectory(w http.ResponseWriter, r *core.Request) error {
	q := lenientQuery(r)
	force, m := q.Bool("force"), parseMetadata(q)
	return withPath(r, q, false, func(f *vole.FS, path string) (err error) {
		made := []string{path}
		if force {
			made, err = makeDirAll(r.Context(), f, path, m)
		} else {
			err = f.Mkdir(r.Context(), path, m.modeOrDefault(0o755))
		}
		for _, dir := range made {
			if err == nil && m.setsOwner() {
				err = m.applyToPath(r.Context(), f, dir)
			}
		}
		if err != nil {
			return err
		}
		return answerEntry(w, r, f, http.StatusCreated, path)
	})
}

// makeDirAll makes a directory and its missing parents, and returns those it made, parents
// first, if they shall get an owner.
func makeDirAll(ctx context.Context, f *vole.FS, dir string, m metadata) (made []string, err error) {
	// MkdirAll would accept a link to a directory.
	e, err := f.Lstat(ctx, dir)
	if err == nil && !e.Mode.IsDir() {
		return nil, vole.ErrExists
	}
	// Only needed for the owner: MkdirAll sets the mode.
	for p := dir; m.setsOwner() && errors.Is(err, vole.ErrNotExist); {
		made = append(made, p)
		p = path.Dir(p)
		_, err = f.Lstat(ctx, p)
	}
	slices.Reverse(made)
	return made, f.MkdirAll(ctx, dir, m.modeOrDefault(0o755))
}
