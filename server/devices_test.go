//go:build unix

package server

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/internal/api"
	"golang.org/x/sys/unix"
)

// tarOfDevice is an archive of one node that everybody may open.
func tarOfDevice(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDevicesOfHome: a server of a home makes device nodes by no route, and multiplies and
// opens up none that is there, unless it was told to.
func TestDevicesOfHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes device nodes")
	}
	for name, allow := range map[string]bool{"refused": false, "allowed": true} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			w := startTestServerWith(t, Options{Home: home, AllowDevices: allow})
			var v api.Volume
			w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"v"}`}, &v)
			w.mustCall(t, w.root, "mkdir", apiCall{path: map[string]string{"volume": "v"}, query: url.Values{"path": {"d"}}}, nil)
			data := filepath.Join(home, "volumes", v.ID, "data")
			if err := unix.Mknod(filepath.Join(data, "d", "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
				t.Skip("root may not make device nodes here: ", err)
			}
			l := &limited{testServer: w, v: v.ID}
			native := api.Prefix + "/volumes/v/"
			for way, send := range map[string]func() int{
				"mknod":          func() int { return l.send(t, "POST", native+"mknod?path=made&type=char-device&rdev=259", nil) },
				"tar":            func() int { return l.send(t, "PUT", native+"archive", bytes.NewReader(tarOfDevice(t, "made"))) },
				"copy":           func() int { return l.send(t, "POST", native+"copy?path=d/null&to=made", nil) },
				"copy of a tree": func() int { return l.send(t, "POST", native+"copy?path=d&to=made", nil) },
				"link":           func() int { return l.send(t, "POST", native+"link?path=made&target=d/null", nil) },
				"chmod":          func() int { return l.send(t, "POST", native+"chmod?path=d/null&mode=666", nil) },
				"msb's copy": func() int {
					return l.send(t, "POST", "/v1/volumes/"+v.ID+"/files/copy", strings.NewReader(`{"from":"d/null","to":"made"}`))
				},
			} {
				status := send()
				want := http.StatusNotImplemented
				if way == "tar" {
					want = http.StatusOK // which tells how much was lost
				}
				if allow && status >= 300 || !allow && status != want {
					t.Errorf("%s: %d", way, status)
				}
				if _, err := os.Lstat(filepath.Join(data, "made")); err == nil != (allow && way != "chmod") {
					t.Errorf("%s: made: %v", way, err)
				}
				if err := os.RemoveAll(filepath.Join(data, "made")); err != nil {
					t.Fatal(err)
				}
			}
			st, err := os.Lstat(filepath.Join(data, "d", "null"))
			if err != nil || st.Mode().Perm() == 0o666 != allow {
				t.Errorf("%v, %v", st.Mode(), err)
			}
			var s api.Server
			a := w.callOperation(t, w.operation(t, "getServer"), apiCall{}, w.root)
			if err := json.Unmarshal([]byte(a.body), &s); err != nil || s.Caps.Devices != allow {
				t.Errorf("the server claims devices: %v, %v", s.Caps.Devices, err)
			}
		})
	}
}
