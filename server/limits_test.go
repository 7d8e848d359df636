package server

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// limitFile is --max-file in these tests.
const limitFile = 1000

// limited is a server with the limit, a volume "v", and one that has a file "old/large" from
// before, beyond it.
type limited struct {
	*testServer
	v, e2b, fs string // ids of the volume and of an open file system; a token
}

func startLimited(t *testing.T, opts Options) *limited {
	t.Helper()
	opts.MaxFile = limitFile
	w := &limited{testServer: startTestServerWith(t, opts)}
	var v api.Volume
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"v"}`}, &v)
	w.v = v.ID
	b, err := w.organisations.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.OpenFS(t.Context(), v.ID, driver.FSOptions{})
	if err == nil {
		_, err = f.WriteFile(t.Context(), "old/large", strings.NewReader(strings.Repeat("x", limitFile+1)), driver.WriteOptions{})
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	status, _, body := sendRequest(t, "GET", w.url+"/volumes/"+v.ID, nil, "X-API-Key", w.root)
	var made e2bVolume
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != http.StatusOK {
		t.Fatal(status, body)
	}
	w.e2b = made.Token
	var s api.Session
	w.mustCall(t, w.root, "openSession", apiCall{}, &s)
	var fs api.Filesystem
	w.mustCall(t, w.root, "openFilesystem", apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {v.ID}}}, &fs)
	w.fs = fs.ID
	return w
}

// send makes a request and returns its status.
func (w *limited) send(t *testing.T, method, path string, body io.Reader, header ...string) int {
	t.Helper()
	status, _, _ := sendRequest(t, method, w.url+path, body, append([]string{"Authorization", "Bearer " + w.root}, header...)...)
	return status
}

// handle opens a file for writing and returns the path of its routes.
func (w *limited) handle(t *testing.T, path, how string) string {
	t.Helper()
	var h api.Handle
	w.mustCall(t, w.root, "openFile", apiCall{path: map[string]string{"filesystem": w.fs},
		query: url.Values{"path": {path}, "create": {"true"}, how: {"true"}}}, &h)
	return api.Prefix + "/handles/" + h.ID
}

func ones(n int) io.Reader { return strings.NewReader(strings.Repeat("1", n)) }

// unknown hides the length of a body.
func unknown(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

func msbPath(p string) string { return base64.RawURLEncoding.EncodeToString([]byte(p)) }

// sparseBody is one byte at the end of a sparse file of n bytes.
func sparseBody(n int) io.Reader {
	b := binary.BigEndian.AppendUint64(nil, uint64(n-1))
	b = append(binary.BigEndian.AppendUint64(b, 1), '1')
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	return bytes.NewReader(binary.BigEndian.AppendUint64(b, 0))
}

// waysToGrow make a file of n bytes at path, each in another way, and return the status of
// what did, or did not.
var waysToGrow = map[string]func(t *testing.T, w *limited, path string, n int) int{
	"PUT": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", api.Prefix+"/volumes/v/content?path="+path, ones(n))
	},
	"PUT of unknown length": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", api.Prefix+"/volumes/v/content?path="+path, unknown(ones(n)))
	},
	"PUT of a sparse file": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", fmt.Sprintf("%s/volumes/v/content?path=%s&size=%d", api.Prefix, path, n), sparseBody(n), "Content-Type", api.TypeSparse)
	},
	"PUT through a session": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", api.Prefix+"/volumes/"+w.v+"/content?path="+path, ones(n), api.HeaderFilesystem, w.fs)
	},
	"truncate": func(t *testing.T, w *limited, path string, n int) int {
		w.send(t, "PUT", api.Prefix+"/volumes/v/content?path="+path, ones(1))
		return w.send(t, "POST", fmt.Sprintf("%s/volumes/v/truncate?path=%s&size=%d", api.Prefix, path, n), nil)
	},
	"upload in parts": func(t *testing.T, w *limited, path string, n int) int {
		var u api.Upload
		w.mustCall(t, w.root, "startUpload", apiCall{path: map[string]string{"volume": "v"}, query: url.Values{"path": {path}}}, &u)
		w.send(t, "PUT", api.Prefix+"/uploads/"+u.ID+"?offset=0", ones(600))
		if status := w.send(t, "PUT", api.Prefix+"/uploads/"+u.ID+"?offset=600", ones(n-600)); status != http.StatusOK {
			w.send(t, "DELETE", api.Prefix+"/uploads/"+u.ID, nil)
			return status
		}
		return w.send(t, "POST", api.Prefix+"/uploads/"+u.ID+"/finish", nil)
	},
	"upload that is announced": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "POST", fmt.Sprintf("%s/volumes/v/uploads?path=%s&size=%d", api.Prefix, path, n), nil)
	},
	"handle": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", w.handle(t, path, "write")+"/data?offset=0", ones(n))
	},
	"handle, far off": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", fmt.Sprintf("%s/data?offset=%d", w.handle(t, path, "write"), n-1), ones(1))
	},
	"append": func(t *testing.T, w *limited, path string, n int) int {
		h := w.handle(t, path, "append")
		w.send(t, "POST", h+"/data", ones(600))
		return w.send(t, "POST", h+"/data", ones(n-600))
	},
	"truncate by handle": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "POST", fmt.Sprintf("%s/truncate?size=%d", w.handle(t, path, "write"), n), nil)
	},
	"tar": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", api.Prefix+"/volumes/v/archive", bytes.NewReader(tarOf(path, n)))
	},
	"msb": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", "/v1/volumes/"+w.v+"/files/content", ones(n), "X-Msb-File-Path", msbPath(path))
	},
	"msb, of unknown length": func(t *testing.T, w *limited, path string, n int) int {
		return w.send(t, "PUT", "/v1/volumes/"+w.v+"/files/content", unknown(ones(n)), "X-Msb-File-Path", msbPath(path))
	},
	"e2b": func(t *testing.T, w *limited, path string, n int) int {
		status, _, _ := sendRequest(t, "PUT", w.url+"/volumecontent/"+w.v+"/file?path=/"+path, ones(n), "Authorization", "Bearer "+w.e2b)
		return status
	},
}

// TestMaxFile: no way leads to a file beyond the limit, and each leads to one at it.
func TestMaxFile(t *testing.T) {
	for name, opts := range map[string]Options{"bucket": {Bucket: &bucket.Options{Dir: t.TempDir()}}, "home": {Home: t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			w := startLimited(t, opts)
			i := 0
			for way, grow := range waysToGrow {
				i++
				fits, large := fmt.Sprintf("fits%d", i), fmt.Sprintf("large%d", i)
				if status := grow(t, w, fits, limitFile); status >= 300 {
					t.Errorf("%s: a file at the limit: %d", way, status)
				}
				if status := grow(t, w, large, limitFile+1); status != http.StatusRequestEntityTooLarge {
					t.Errorf("%s: a file beyond the limit: %d", way, status)
				}
				var e api.Entry
				a := w.callOperation(t, w.operation(t, "stat"), apiCall{path: map[string]string{"volume": "v"}, query: url.Values{"path": {large}}}, w.root)
				if a.status == http.StatusOK {
					_ = json.Unmarshal([]byte(a.body), &e)
				}
				if e.Size > limitFile {
					t.Errorf("%s: made a file of %d bytes", way, e.Size)
				}
			}
			w.copies(t)
			w.bindsNothingElse(t)
		})
	}
}

// copies tries to copy a file beyond the limit.
func (w *limited) copies(t *testing.T) {
	t.Helper()
	for _, from := range []string{"old/large", "old"} {
		if status := w.send(t, "POST", api.Prefix+"/volumes/v/copy?path="+from+"&to=copy", nil); status != http.StatusRequestEntityTooLarge {
			t.Errorf("copy of %s: %d", from, status)
		}
		if status := w.send(t, "POST", "/v1/volumes/"+w.v+"/files/copy", strings.NewReader(`{"from":"`+from+`","to":"copy"}`)); status != http.StatusRequestEntityTooLarge {
			t.Errorf("msb's copy of %s: %d", from, status)
		}
	}
	if status := w.send(t, "POST", api.Prefix+"/volumes/v/truncate?path=old/large&size=1000", nil); status >= 300 {
		t.Errorf("shrinking a file to the limit: %d", status)
	}
	if status := w.send(t, "POST", api.Prefix+"/volumes/v/copy?path=old&to=copy", nil); status >= 300 {
		t.Errorf("copy of files at the limit: %d", status)
	}
}

// bindsNothingElse does what is larger than a file may be and is none.
func (w *limited) bindsNothingElse(t *testing.T) {
	t.Helper()
	if status := w.send(t, "PUT", api.Prefix+"/volumes/v/archive?path=many", bytes.NewReader(tarOf("a", 900, "b", 900, "c/d", 900))); status != http.StatusOK {
		t.Errorf("an archive of small files: %d", status)
	}
	paths, _ := json.Marshal(map[string]any{"paths": strings.Split(strings.Repeat("many/a ", 300)+"x", " ")})
	if status := w.send(t, "POST", api.Prefix+"/volumes/v/stat", bytes.NewReader(paths)); status != http.StatusOK {
		t.Errorf("a question about many files: %d", status)
	}
	if status := w.send(t, "PUT", api.Prefix+"/volumes/v/xattr?path=many/a&name=user.a", ones(2000)); status >= 300 && status != http.StatusInsufficientStorage && status != http.StatusNotImplemented {
		t.Errorf("an attribute: %d", status)
	}
}

// TestRateByEveryDoor: what a key may ask for by one door counts at all others.
func TestRateByEveryDoor(t *testing.T) {
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, Rate: 0.001, Burst: 6})
	id, key, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "k", Scopes: accounts.Write})
	if err != nil {
		t.Fatal(err)
	}
	var v api.Volume
	w.mustCall(t, key, "createVolume", apiCall{body: `{"name":"v"}`}, &v)
	token, err := w.accounts.VolumeToken(t.Context(), &accounts.Principal{KeyID: id.ID, Org: DefaultOrg, Scopes: accounts.Write}, v.ID, 1e12)
	if err != nil {
		t.Fatal(err)
	}
	doors := map[string]func() int{
		"native": func() int {
			s, _, _ := sendRequest(t, "GET", w.url+api.Prefix+"/volumes", nil, "Authorization", "Bearer "+key)
			return s
		},
		"msb": func() int {
			s, _, _ := sendRequest(t, "GET", w.url+"/v1/volumes", nil, "Authorization", "Bearer "+key)
			return s
		},
		"e2b": func() int { s, _, _ := sendRequest(t, "GET", w.url+"/volumes", nil, "X-API-Key", key); return s },
		"content": func() int {
			s, _, _ := sendRequest(t, "GET", w.url+"/volumecontent/"+v.ID+"/dir?path=/", nil, "Authorization", "Bearer "+token)
			return s
		},
		"archive": func() int {
			s, _, _ := sendRequest(t, "GET", w.url+api.Prefix+"/volumes/v/archive", nil, "Authorization", "Bearer "+key)
			return s
		},
	}
	for name, ask := range doors { // with the volume made, this is the burst
		if s := ask(); s != http.StatusOK {
			t.Errorf("%s: %d", name, s)
		}
	}
	for name, ask := range doors {
		if s := ask(); s != http.StatusTooManyRequests {
			t.Errorf("%s: %d when the key has asked often enough", name, s)
		}
	}
	if s := w.callOperation(t, w.operation(t, "listVolumes"), apiCall{}, w.root).status; s != http.StatusOK {
		t.Errorf("another key: %d", s)
	}
}
