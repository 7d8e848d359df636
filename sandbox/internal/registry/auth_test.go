package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
)

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dockerConfig writes a config.json as docker login does, and has it used.
func dockerConfig(t *testing.T, v any) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(mustJSON(t, v)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

const secret = "correct-horse"

func basicLogin(password string) string {
	return base64.StdEncoding.EncodeToString([]byte("me:" + password))
}

// TestLogins uses the logins that docker has stored, and tells nobody of them.
func TestLogins(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 1000, 1)
	h.push("x:1", img)
	basic := func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "me" && password == secret {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`)
		return true
	}
	bearer := func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if user, password, _ := r.BasicAuth(); user != "me" || password != secret {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			fmt.Fprint(w, `{"token":"the-token"}`)
			return true
		case r.Header.Get("Authorization") == "Bearer the-token":
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x",scope="repository:x:pull"`, h.addr))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	helper := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nread host; echo '{\"ServerURL\":\"'$host'\",\"Username\":\"me\",\"Secret\":%q}'\n", secret)
	if err := os.WriteFile(filepath.Join(helper, "docker-credential-voletest"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", helper+":"+os.Getenv("PATH"))
	good := map[string]any{"auths": map[string]any{h.addr: map[string]string{"auth": basicLogin(secret)}}}
	wrong := map[string]any{"auths": map[string]any{h.addr: map[string]string{"auth": basicLogin("wrong-" + secret)}}}
	helped := map[string]any{"credHelpers": map[string]string{h.addr: "voletest"}}
	for what, tt := range map[string]struct {
		answer answer
		config any
		ok     bool
	}{
		"basic": {basic, good, true}, "token": {bearer, good, true}, "helper": {basic, helped, true},
		"basic, wrong": {basic, wrong, false}, "token, wrong": {bearer, wrong, false}, "none": {basic, map[string]any{}, false},
	} {
		t.Run(what, func(t *testing.T) {
			dockerConfig(t, tt.config)
			h.setAnswer(tt.answer)
			defer h.setAnswer(nil)
			img, err := newCache(t, DefaultMax).Ensure(t.Context(), h.ref("x:1"), Missing, nil)
			if tt.ok {
				if err != nil {
					t.Fatal(err)
				}
				img.Release()
				return
			}
			if !errors.Is(err, vole.ErrPermission) || !strings.Contains(err.Error(), "docker login") {
				t.Errorf("%v, want ErrPermission and how to log in", err)
			}
			if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), basicLogin("wrong-"+secret))) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

// A registry that redirects to a store sends no login there, and errors do not tell the
// signature in the address.
func TestRedirect(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 1000, 1))
	dockerConfig(t, map[string]any{"auths": map[string]any{h.addr: map[string]string{"auth": basicLogin(secret)}}})
	var asked, told atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			told.Add(1)
		}
		http.Error(w, "gone", http.StatusGone)
	}))
	defer store.Close()
	// Another name of this host, as another port of the same is none to HTTP.
	at := strings.Replace(store.URL, "127.0.0.1", "localhost", 1)
	h.setAnswer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, at+"/blob?signature="+secret, http.StatusTemporaryRedirect)
		return true
	})
	_, err := newCache(t, DefaultMax).Ensure(t.Context(), h.ref("x:1"), Missing, nil)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the error: %v", err)
	}
	store.Close() // waits for the requests that were given up
	if asked.Load() == 0 || told.Load() > 0 {
		t.Errorf("the store was asked %d times, and told the login %d times", asked.Load(), told.Load())
	}
}

func TestOnlyLoopbackUnencrypted(t *testing.T) {
	tr := newTransport("127.0.0.1:5000")
	for _, host := range []string{"192.0.2.1:5000", "10.0.0.1", "registry.example", "localhost.example"} {
		r, err := http.NewRequest(http.MethodGet, "http://"+host+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.RoundTrip(r); !errors.Is(err, vole.ErrPermission) {
			t.Errorf("%s: %v, want ErrPermission", host, err)
		}
	}
	for host, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, "localhost": true, "a.localhost": true, "127.0.0.1.example": false, "": false} {
		if isLoopback(host) != want {
			t.Errorf("isLoopback(%q) = %v", host, !want)
		}
	}
}

// A registry that sends nothing more is given up.
func TestStall(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	s := newStallReader(r, time.Millisecond)
	if _, err := io.ReadAll(s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

// One that sends a byte now and then is, too; one that is read slowly is not.
func TestTrickle(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		for {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	s := newStallReader(r, 20*time.Millisecond)
	if n, err := io.Copy(io.Discard, s); !errors.Is(err, context.DeadlineExceeded) || n >= leastProgress {
		t.Errorf("%d bytes, %v, want DeadlineExceeded", n, err)
	}
	s = newStallReader(io.NopCloser(strings.NewReader(strings.Repeat("x", 100))), 20*time.Millisecond)
	for b := make([]byte, 1); ; time.Sleep(time.Millisecond) {
		if _, err := s.Read(b); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWithoutSecrets(t *testing.T) {
	err := error(&url.Error{Op: "Get", URL: "https://me:" + secret + "@host/x?sig=" + secret + "#" + secret, Err: io.ErrUnexpectedEOF})
	err = withoutSecrets(fmt.Errorf("outer: %w", err))
	if strings.Contains(err.Error(), secret) || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "https://host/x") {
		t.Error(err)
	}
}
