package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/volehq/vole"
)

// redirectTo sends the requests of paths with part elsewhere in the registry, where nothing
// but the answer at that place is.
func redirectTo(to string, part string, at answer) answer {
	return func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == to:
			return at(w, r)
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, part):
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
}

// Registries keep layers in stores whose paths say nothing of blobs.
func TestRedirectedLayer(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 5<<20, 1)
	h.push("x:1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	body, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	if _, err := content.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	h.setAnswer(redirectTo("/store/0001", "/blobs/"+m.Layers[0].Digest.String(), serve("", "application/octet-stream", content.Bytes())))
	newCache(t, DefaultMax).ensure(t, h.ref("x:1"), Missing)
}

// What a request was for decides of the bounds of its answer, not where it is sent.
func TestRedirectedManifest(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 1000, 1))
	for _, to := range []string{"/store/1", "/v2/y/blobs/1"} {
		many := `{"layers":[` + strings.Repeat("{},", 1<<19) + "{}]}"
		h.setAnswer(redirectTo(to, "/manifests/", serve("", string(types.OCIManifestSchema1), []byte(many))))
		_, err := newCache(t, DefaultMax).Ensure(t.Context(), h.ref("x:1"), Missing, nil)
		if !errors.Is(err, vole.ErrCorrupt) || !strings.Contains(err.Error(), "values") {
			t.Errorf("%s: %.200v", to, err)
		}
	}
}

// A kind of manifest that nobody knows, and one of megabytes, do not spoil the index.
func TestLongMediaType(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 1000, 1)
	h.push("good:1", img)
	h.push("evil:1", randomImage(t, 1000, 1))
	c := newCache(t, DefaultMax)
	c.ensure(t, h.ref("good:1"), Missing)
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	h.setAnswer(serve("/manifests/", "x/"+strings.Repeat("y", 5<<20), raw))
	if img, err := c.Ensure(t.Context(), h.ref("evil:1"), Missing, nil); err == nil {
		img.Release()
	}
	h.setAnswer(nil)
	c.ensure(t, h.ref("good:1"), Never)
}

// What a registry says in an error is bounded, on one line.
func TestLongMessages(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 1000, 1))
	long := strings.Repeat("y", 1<<19)
	challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, h.addr)
	for what, a := range map[string]answer{
		"token": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				fmt.Fprintf(w, `{"refresh_token": %q}`, long)
				return true
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"challenge": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer service="`+long+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"kind": func(w http.ResponseWriter, r *http.Request) bool {
			return serve("/manifests/", string(types.OCIManifestSchema1), []byte(`{"schemaVersion":2,"config":{"mediaType":"`+long+`","size":2,"digest":"sha256:`+strings.Repeat("0", 64)+`"},"layers":[]}`))(w, r)
		},
		"status": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, `{"errors":[{"code":"X","message":%q}]}`, long)
			return true
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			http.Redirect(w, r, "http://192.0.2.1/"+long, http.StatusFound)
			return true
		},
	} {
		h.setAnswer(a)
		_, err := newCache(t, DefaultMax).Ensure(t.Context(), h.ref("x:1"), Missing, nil)
		if err == nil || len(err.Error()) > 2000 {
			t.Errorf("%s: %d bytes: %.300v", what, len(fmt.Sprint(err)), err)
		}
	}
}

// A registry elsewhere sends nobody to this host, nor to a name of this host that is
// elsewhere.
func TestOnlyLoopbackRedirectsUnencrypted(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer s.Close()
	for _, registry := range []string{"registry.example", "192.0.2.1:5000", "localhost.example:80"} {
		for _, to := range []string{s.URL, strings.Replace(s.URL, "127.0.0.1", "localhost", 1)} {
			r, err := http.NewRequest(http.MethodGet, to+"/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newTransport(registry).RoundTrip(r); !errors.Is(err, vole.ErrPermission) || asked.Load() > 0 {
				t.Errorf("from %s to %s: %v, %d requests; want ErrPermission", registry, to, err, asked.Load())
			}
		}
	}
	for addr, want := range map[string]bool{"127.0.0.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "192.0.2.1:80": false, "[2001:db8::1]:80": false} {
		if err := refuseNonLoopback("tcp", addr, nil); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// A registry that redirects for ever is given up.
func TestRedirectLoop(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 1000, 1))
	for _, part := range []string{"/manifests/", "/blobs/"} {
		var asked atomic.Int64
		h.setAnswer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			if asked.Add(1) > 1000 { // of the tries of several blobs
				w.WriteHeader(http.StatusGone)
				return true
			}
			http.Redirect(w, r, fmt.Sprintf("%s?%d", r.URL.Path, asked.Load()), http.StatusTemporaryRedirect)
			return true
		})
		_, err := newCache(t, DefaultMax).Ensure(t.Context(), h.ref("x:1"), Missing, nil)
		if !errors.Is(err, vole.ErrCorrupt) || asked.Load() > 1000 {
			t.Errorf("%s: %v, after %d requests", part, err, asked.Load())
		}
	}
}
