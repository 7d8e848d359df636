// Package msb answers in the dialect of the microsandbox cloud, /v1/volumes and
// /v1/volumes/{id}/files, so that its published SDKs keep their volumes on a Vole server.
//
// A volume of that cloud is a volume of Vole: its capacity, in GiB, is the quota of a dir
// volume (or the capacity of a disk volume), its labels are the labels. Requests name
// volumes by id; clients find the id of a name in the list.
//
// Every organisation has one volume more, the default one, which has no name there and
// is not removed. Here it is an ordinary volume too, with a reserved name and a label
// that marks it, made when it is first asked for.
//
// A file is a file or a directory: that dialect knows no links. They are shown as what
// they lead to, and as an empty file when that is nothing; removing and renaming act on
// the link itself.
package msb

import (
	"errors"
	"net/http"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	voleapi "github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

// Dialect returns the routes.
func Dialect(c *core.Core) *core.Dialect {
	const volumes, volume = "/v1/volumes", "/v1/volumes/{id}"
	const files = volume + "/files"
	a := &api{core: c}
	list := readRoute(files, "listFiles", a.listFiles)
	content := readRoute(files+"/content", "readFile", a.readFile)
	put := changeRoute("PUT", files+"/content", "writeFile", a.writeFile)
	remove := changeRoute("DELETE", files, "removeFile", a.removeFile)
	copy := changeRoute("POST", files+"/copy", "copy", a.copyFile)
	// Bounded by the pace of the client: content, large directories and trees take long.
	for _, rt := range []*core.Route{list, content, put, remove, copy} {
		rt.Stream = true
	}
	put.MaxBody = -1
	return &core.Dialect{
		Name: "msb", Prefixes: []string{"/v1/"}, WriteError: writeError,
		Routes: []*core.Route{
			readRoute(volumes, "listVolumes", a.listVolumes),
			changeRoute("POST", volumes, "createVolume", createVolume),
			readRoute(volumes+"/"+defaultID, "getDefaultVolume", a.getDefaultVolume),
			changeRoute("PATCH", volume, "updateVolume", a.updateVolume),
			changeRoute("DELETE", volume, "removeVolume", a.removeVolume),
			list, content, put, remove, copy,
			readRoute(files+"/stat", "stat", a.statFile),
			readRoute(files+"/exists", "exists", a.fileExists),
			changeRoute("POST", files+"/mkdir", "mkdir", a.makeDir),
			changeRoute("POST", files+"/rename", "rename", a.renameFile),
		},
	}
}

// api is the receiver of handlers that need the core.
type api struct{ core *core.Core }

type handler = func(w http.ResponseWriter, r *core.Request) error

// readRoute returns a route that changes nothing.
func readRoute(path, name string, do handler) *core.Route {
	return &core.Route{Method: "GET", Path: path, Name: name, Auth: core.BearerAuth, Scope: accounts.Read, Handle: do}
}

// changeRoute returns a route that changes something. Changes of volumes are in the audit log
// before their answer; changes of files are recorded behind it.
func changeRoute(method, path, name string, do handler) *core.Route {
	// Changes of files are too many to wait for the audit log.
	return &core.Route{Method: method, Path: path, Name: name, Auth: core.BearerAuth, Scope: accounts.Write, Changes: true, AuditFirst: !strings.Contains(path, "/files"), Handle: do}
}

// errorBody is the answer to a failed request.
type errorBody struct {
	Error wireError `json:"error"`
}

type wireError struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Details errorDetails `json:"details"`
}

type errorDetails struct {
	RequestID string `json:"request_id"`
}

// writeError answers with an error as this dialect has it.
func writeError(w http.ResponseWriter, r *core.Request, err error) {
	status, code, message := core.Describe(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vole"`)
	}
	_ = core.WriteJSON(w, status, errorBody{wireError{dialectCode(code, err), message, errorDetails{r.ID}}})
}

// dialectCode maps a code of Vole to that of the dialect. Codes without a counterpart are kept.
func dialectCode(code string, err error) string {
	switch code {
	case voleapi.CodeUnauthenticated:
		return "invalid_api_key"
	case voleapi.CodeFileNotFound:
		return "volume_file_not_found"
	case voleapi.CodePathEscape:
		return codePath
	case voleapi.CodeInvalidRequest:
		// If a file operation has an invalid argument, it is the path.
		if e := (*driver.Error)(nil); errors.As(err, &e) && e.Path != "" {
			return codePath
		}
	}
	return code
}

const (
	codePath  = "invalid_volume_path"
	codeTaken = "name_already_exists"
)

// invalidRequest returns an error that matches vole.ErrInvalid.
func invalidRequest(format string, args ...any) error {
	return driver.Errorf(vole.ErrInvalid, format, args...)
}
