// Package e2b speaks the dialect of E2B's volumes, so that the SDKs of E2B work against
// a Vole server: point E2B_API_URL and E2B_VOLUME_API_URL at it.
//
// There are two planes. /volumes creates, lists and removes volumes, with an API key in the
// header X-API-Key. Creating or getting a volume returns a token, which opens the files of that
// one volume under /volumecontent/{id}/... for a week, as long as the key lives. The token allows
// what the key allows at that moment: the token of a read-only key reads.
//
// volumeID is the id of the volume, never its name. Paths are absolute in the volume and
// modes are numbers: 420, not "0644". What stat, list and remove find at the end of a
// path is not followed when it is a symbolic link; reading a file follows.
package e2b

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

const (
	volumesPath = "/volumes"
	contentPath = "/volumecontent/"

	// tokenTTL is how long a volume token is good. SDKs keep it as long as their
	// Volume object and do not ask for another.
	tokenTTL = 7 * 24 * time.Hour
)

// Dialect returns the routes of both planes.
func Dialect() *core.Dialect {
	return &core.Dialect{Name: "e2b", Routes: append(volumeRoutes(), contentRoutes()...),
		Prefixes: []string{volumesPath, volumesPath + "/", contentPath}, WriteError: writeError}
}

// contentRoutes are the routes of files, which need a volume token.
func contentRoutes() []*core.Route {
	const v = contentPath + "{volume}"
	get := &core.Route{Method: "GET", Path: v + "/file", Name: "readFile", Scope: accounts.Read, Stream: true, Handle: readContent}
	put := &core.Route{Method: "PUT", Path: v + "/file", Name: "writeFile", Scope: accounts.Write, Changes: true, Stream: true, MaxBody: -1, Handle: writeContent}
	// On large trees these two take long.
	list := &core.Route{Method: "GET", Path: v + "/dir", Name: "listEntries", Scope: accounts.Read, Stream: true, Handle: listEntries}
	remove := &core.Route{Method: "DELETE", Path: v + "/path", Name: "removeFile", Scope: accounts.Write, Changes: true, Stream: true, Handle: removePath}
	routes := []*core.Route{
		get, put, list, remove,
		{Method: "POST", Path: v + "/dir", Name: "mkdir", Scope: accounts.Write, Changes: true, Handle: makeDirectory},
		{Method: "GET", Path: v + "/path", Name: "stat", Scope: accounts.Read, Handle: statPath},
		{Method: "PATCH", Path: v + "/path", Name: "setMetadata", Scope: accounts.Write, Changes: true, Handle: setMetadata},
	}
	for _, rt := range routes {
		rt.Auth = core.VolumeAuth
	}
	return routes
}

// writeError answers with an error in the form of its plane: code is the HTTP status as a number
// for volumes, and text for content.
func writeError(w http.ResponseWriter, r *core.Request, err error) {
	status, code, message := core.Describe(err)
	// The plane of content has textual codes.
	if strings.HasPrefix(r.URL.Path, contentPath) {
		_ = core.WriteJSON(w, status, struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}{code, message})
		return
	}
	_ = core.WriteJSON(w, status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
}

// withVolumeFS calls fn with the files of the volume of the token.
func withVolumeFS(r *core.Request, readOnly bool, fn func(f *vole.FS) error) error {
	id := r.PathValue("volume")
	// Checked first: WithFS also resolves names, and would tell by its error which exist.
	if !r.Caller.Sees(id) {
		return driver.Errorf(accounts.ErrUnauthenticated, "the token is for another volume")
	}
	return r.WithFS(id, readOnly, fn)
}

// lenientQuery returns the query without complaints about unknown parameters: SDKs of other
// versions send some, such as recursive with a removal.
func lenientQuery(r *core.Request) *core.Query {
	q := r.Query()
	for name := range r.URL.Query() {
		q.String(name)
	}
	return q
}

// pathParameter returns the parameter path, cleaned. It is noted for the audit log before it is
// checked, so that refused paths are recorded too.
func pathParameter(r *core.Request, q *core.Query) (string, error) {
	path := q.Required("path")
	r.Audit.Path = path
	if err := q.Err(); err != nil {
		return "", err
	}
	if path == "" {
		return "", driver.Errorf(vole.ErrInvalid, "the path is empty; write / for the root of the volume")
	}
	return driver.CleanPath(path)
}

// withPath calls fn with the files of the volume of the token, and with the parameter path. The
// other parameters must have been read from q before.
func withPath(r *core.Request, q *core.Query, readOnly bool, fn func(f *vole.FS, path string) error) error {
	path, err := pathParameter(r, q)
	if err != nil {
		return err
	}
	return withVolumeFS(r, readOnly, func(f *vole.FS) error { return fn(f, path) })
}

// notDirAsNotExist maps ErrNotDir to ErrNotExist: SDKs test for status 404.
func notDirAsNotExist(err error) error {
	if errors.Is(err, vole.ErrNotDir) {
		return driver.Errorf(vole.ErrNotExist, "no such file or directory: a parent is not a directory")
	}
	return err
}

// wrongTypeError refuses to read a directory as a file, or to list a file.
func wrongTypeError(code, message string) error {
	return &core.Error{Status: http.StatusBadRequest, Code: code, Message: message}
}
