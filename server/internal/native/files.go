package native

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"net/http"
	"strconv"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// fileRoutes are the routes that act on paths in a volume. Those that move content or walk trees
// are bounded by the pace of the client instead of by a timeout.
func (a *API) fileRoutes() []*core.Route {
	const v = volumesPath + "/{volume}"
	content := readRoute(v+"/content", "readFile", readScope, a.readFile)
	content.Stream = true
	put := changeRoute("PUT", v+"/content", "writeFile", writeScope, a.writeFile)
	put.Stream, put.MaxBody = true, -1
	copy := changeRoute("POST", v+"/copy", "copy", writeScope, a.twoPathHandler("to", func(ctx context.Context, f *vole.FS, q *core.Query, from, to string) error {
		return f.Copy(ctx, from, to, vole.CopyOptions{NoReplace: q.Bool("no_replace")})
	}))
	remove := changeRoute("DELETE", v+"/files", "removeFile", writeScope, a.removeFile)
	// Trees may take long: bounded by the pace of the client instead of by the timeout.
	copy.Stream, remove.Stream = true, true // trees take their time
	return []*core.Route{
		content, put, copy, remove,
		readRoute(v+"/stat", "stat", readScope, a.statPath),
		{Method: "POST", Path: v + "/stat", Name: "statMany", Scope: readScope, MaxBody: 8 << 20, Handle: withBody(a.statMany)},
		readRoute(v+"/entries", "listEntries", readScope, a.listEntries),
		{Method: "DELETE", Path: v + "/entries", Name: "endListing", Scope: readScope, Handle: a.endListing},
		readRoute(v+"/readlink", "readlink", readScope, a.readSymlink),
		changeRoute("POST", v+"/mkdir", "mkdir", writeScope, a.makeDir),
		changeRoute("POST", v+"/rename", "rename", writeScope, a.twoPathHandler("to", func(ctx context.Context, f *vole.FS, q *core.Query, from, to string) error {
			return f.Rename(ctx, from, to, vole.RenameOptions{NoReplace: q.Bool("no_replace")})
		})),
		changeRoute("POST", v+"/link", "link", writeScope, a.twoPathHandler("target", func(ctx context.Context, f *vole.FS, _ *core.Query, path, target string) error {
			return f.Link(ctx, target, path)
		})),
		changeRoute("POST", v+"/symlink", "symlink", writeScope, a.twoPathHandler("target", func(ctx context.Context, f *vole.FS, _ *core.Query, path, target string) error {
			return f.Symlink(ctx, target, path)
		})),
		changeRoute("POST", v+"/mknod", "mknod", writeScope, a.makeNode),
		changeRoute("POST", v+"/chmod", "chmod", writeScope, a.changeMode),
		changeRoute("POST", v+"/chown", "chown", writeScope, a.changeOwner),
		changeRoute("POST", v+"/chtimes", "chtimes", writeScope, a.changeTimes),
		changeRoute("POST", v+"/truncate", "truncate", writeScope, a.truncateFile),
		changeRoute("POST", v+"/sync", "syncVolume", writeScope, a.syncVolume),
		readRoute(v+"/xattrs", "listXattrs", readScope, a.listXattrs),
		readRoute(v+"/xattr", "getXattr", readScope, a.getXattr),
		changeRoute("PUT", v+"/xattr", "setXattr", writeScope, a.setXattr),
		changeRoute("DELETE", v+"/xattr", "removeXattr", writeScope, a.removeXattr),
	}
}

// acquireFS returns the file system that the request acts on: the one of its session, if the
// header names it, or the one that requests share. done must be called with the error of its
// use.
func (a *API) acquireFS(r *core.Request, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	id := r.Header.Get(api.HeaderFilesystem)
	if id == "" {
		return r.AcquireFS(r.PathValue("volume"), readOnly)
	}
	s, err := a.findFilesystem(r, id)
	if err != nil {
		return nil, nil, err
	}
	if s.volume != r.PathValue("volume") {
		return nil, nil, driver.Errorf(vole.ErrInvalid, "the open file system belongs to volume %s", s.volume)
	}
	// findFilesystem has checked that the caller may see it.
	r.Audit.Volume, r.Audit.VolumeName = s.volume, s.name
	return s.fs, func(error) {}, nil
}

// withFS calls fn with the file system that the request acts on.
func (a *API) withFS(r *core.Request, readOnly bool, fn func(*vole.FS) error) error {
	fsys, done, err := a.acquireFS(r, readOnly)
	if err != nil {
		return err
	}
	err = fn(fsys)
	done(err)
	return err
}

// readFS is withFS for requests that change nothing. All parameters must have been read from q
// before, so that unknown ones are refused.
func (a *API) readFS(r *core.Request, q *core.Query, fn func(*vole.FS) error) error {
	if err := q.Err(); err != nil {
		return err
	}
	return a.withFS(r, true, fn)
}

// changePath runs fn, a change at path, records the path, and answers without content. All
// parameters must have been read from q before, so that unknown ones are refused before anything
// changes.
func (a *API) changePath(w http.ResponseWriter, r *core.Request, q *core.Query, path string, fn func(f *vole.FS) error) error {
	r.Audit.Path = path
	if err := q.Err(); err != nil {
		return err
	}
	return core.AnswerNoContent(w, a.withFS(r, false, fn))
}

// twoPathHandler returns the handler of a change with two paths: the parameter path, and another
// whose name is other.
func (a *API) twoPathHandler(other string, fn func(ctx context.Context, f *vole.FS, q *core.Query, path, other string) error) func(w http.ResponseWriter, r *core.Request) error {
	return func(w http.ResponseWriter, r *core.Request) error {
		q := r.Query()
		path, second := q.Required("path"), q.Required(other)
		if other == "to" {
			q.Bool("no_replace")
		}
		r.Audit.Detail = other + " " + second
		return a.changePath(w, r, q, path, func(f *vole.FS) error { return fn(r.Context(), f, q, path, second) })
	}
}

// toAPIEntry returns the wire form of an entry; files get an ETag.
func toAPIEntry(e vole.Entry) api.Entry {
	out := api.FromEntry(e)
	if e.Mode.IsRegular() {
		out.Etag = core.ContentETag(e)
	}
	return out
}

// statPath answers with the metadata of a path, of a symbolic link itself unless follow is set.
func (a *API) statPath(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, follow := q.Required("path"), q.Bool("follow")
	return a.readFS(r, q, func(f *vole.FS) error {
		e, err := statEntry(r.Context(), f, path, follow)
		return core.AnswerJSON(w, http.StatusOK, toAPIEntry(e), err)
	})
}

// statEntry is Stat or Lstat.
func statEntry(ctx context.Context, f *vole.FS, path string, follow bool) (vole.Entry, error) {
	if follow {
		return f.Stat(ctx, path)
	}
	return f.Lstat(ctx, path)
}

// statMany answers with the metadata of up to 1000 paths. A path that cannot be described has
// its error in the result; errors of the server or the volume fail the whole request.
func (a *API) statMany(w http.ResponseWriter, r *core.Request, in api.StatMany) error {
	if len(in.Paths) > 1000 {
		return driver.Errorf(vole.ErrInvalid, "%d paths; the limit is 1000", len(in.Paths))
	}
	if err := r.ReserveMemory(int64(len(in.Paths) * entryMemory)); err != nil {
		return err
	}
	out := api.StatResults{Results: make([]api.StatResult, len(in.Paths))}
	err := a.withFS(r, true, func(f *vole.FS) error {
		for i, path := range in.Paths {
			e, err := statEntry(r.Context(), f, path, in.Follow)
			switch status, code, message := core.Describe(err); {
			case err == nil:
				x := toAPIEntry(e)
				out.Results[i].Entry = &x
			// The volume is gone, the server failed, or the client left: no result would be
			// right.
			case errors.Is(err, vole.ErrNotFound) || status >= http.StatusInternalServerError || r.Context().Err() != nil:
				return err
			default:
				out.Results[i].Error = &api.Error{Code: code, Message: message}
			}
		}
		return nil
	})
	return core.AnswerJSON(w, http.StatusOK, out, err)
}

// readSymlink answers with the target of a symbolic link.
func (a *API) readSymlink(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	return a.readFS(r, q, func(f *vole.FS) error {
		target, err := f.Readlink(r.Context(), path)
		return writeBytes(w, []byte(target), err)
	})
}

// writeBytes answers with bytes, unless err is set.
func writeBytes(w http.ResponseWriter, b []byte, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", api.TypeBytes)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return err
}

// removeFile removes a file or an empty directory; with recursive a tree, whose absence is no
// error.
func (a *API) removeFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, recursive := q.Required("path"), q.Bool("recursive")
	return a.changePath(w, r, q, path, func(f *vole.FS) error {
		if recursive {
			return f.RemoveAll(r.Context(), path)
		}
		return f.Remove(r.Context(), path)
	})
}

// queryMode returns the permission bits of the parameter mode, or def.
func queryMode(q *core.Query, def fs.FileMode) (fs.FileMode, error) {
	s := q.String("mode")
	if !q.Has("mode") {
		return def, nil
	}
	return api.ParseMode(s)
}

// makeDir makes a directory; with parents also missing parents, and one that exists is no error.
func (a *API) makeDir(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, parents := q.Required("path"), q.Bool("parents")
	perm, err := queryMode(q, 0o755)
	if err != nil {
		return err
	}
	return a.changePath(w, r, q, path, func(f *vole.FS) error {
		if parents {
			return f.MkdirAll(r.Context(), path, perm)
		}
		return f.Mkdir(r.Context(), path, perm)
	})
}

// makeNode makes a special file of the given type.
func (a *API) makeNode(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, kind, rdev := q.Required("path"), q.Required("type"), q.Int("rdev", 0, 0, math.MaxInt64)
	perm, err := queryMode(q, 0o644)
	if err != nil {
		return err
	}
	bits, ok := api.EntryType(kind).TypeBits()
	if !ok {
		return driver.Errorf(vole.ErrInvalid, "unknown type %q", kind)
	}
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Mknod(r.Context(), path, bits|perm, uint64(rdev)) })
}

// changeMode sets permission bits.
func (a *API) changeMode(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	perm, err := api.ParseMode(q.Required("mode"))
	if err := errors.Join(q.Err(), err); err != nil {
		return err
	}
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Chmod(r.Context(), path, perm) })
}

// changeOwner sets owner and group; a missing parameter keeps the old one. The highest id is
// excluded: chown(2) takes it for "keep".
func (a *API) changeOwner(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	uid, gid := q.Int("uid", -1, 0, math.MaxUint32-1), q.Int("gid", -1, 0, math.MaxUint32-1)
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Chown(r.Context(), path, int(uid), int(gid)) })
}

// changeTimes sets access and modification time; a missing one stays.
func (a *API) changeTimes(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, atime, mtime := q.Required("path"), q.Time("atime"), q.Time("mtime")
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Chtimes(r.Context(), path, atime, mtime) })
}

// truncateFile sets the size of a file.
func (a *API) truncateFile(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	size := q.RequiredInt("size", math.MaxInt64)
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Truncate(r.Context(), path, size) })
}

// syncVolume makes all earlier changes of the volume durable.
func (a *API) syncVolume(w http.ResponseWriter, r *core.Request) error {
	return a.changePath(w, r, r.Query(), "", func(f *vole.FS) error { return f.Sync(r.Context()) })
}

// listXattrs answers with the names of a path's extended attributes.
func (a *API) listXattrs(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path := q.Required("path")
	return a.readFS(r, q, func(f *vole.FS) error {
		names, err := f.Listxattr(r.Context(), path)
		return core.AnswerJSON(w, http.StatusOK, api.XattrNames{Names: append([]string{}, names...)}, err)
	})
}

// getXattr answers with the value of an extended attribute.
func (a *API) getXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	return a.readFS(r, q, func(f *vole.FS) error {
		value, err := f.Getxattr(r.Context(), path, name)
		return writeBytes(w, value, err)
	})
}

// setXattr sets an extended attribute to the body.
func (a *API) setXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	// Bounded more tightly than a body of JSON.
	value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, driver.MaxXattrLen))
	if err != nil {
		return err
	}
	r.Audit.Detail = name
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Setxattr(r.Context(), path, name, value) })
}

// removeXattr removes an extended attribute.
func (a *API) removeXattr(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, name := q.Required("path"), q.Required("name")
	r.Audit.Detail = name
	return a.changePath(w, r, q, path, func(f *vole.FS) error { return f.Removexattr(r.Context(), path, name) })
}
