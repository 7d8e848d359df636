package cloud_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/server"
)

// What answers, but is no server that can be used, is told apart from one that is away.
func TestOpenRefuses(t *testing.T) {
	page := func(status int, kind, body string) string {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(hs.Close)
		return hs.URL
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := "http://" + ln.Addr().String()
	ln.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	good := startServer(t, server.Options{Home: filepath.Join(t.TempDir(), "home")})
	for what, c := range map[string]struct {
		url, key string
		want     error
		says     string
	}{
		"nobody there":       {away, "k", vole.ErrUnavailable, "does not answer"},
		"nobody speaks":      {"http://" + mute.Addr().String(), "k", vole.ErrUnavailable, "nothing came"},
		"nobody has TLS":     {strings.Replace(good.url, "http:", "https:", 1), "k", vole.ErrUnavailable, "does not speak TLS"},
		"a page":             {page(200, "text/html", "<html>"), "k", vole.ErrUnsupported, "not as a Vole server"},
		"no such page":       {page(404, "text/html", "<html>"), "k", vole.ErrUnsupported, "not as a Vole server"},
		"a redirect":         {page(302, "text/html", ""), "k", vole.ErrUnsupported, "not as a Vole server"},
		"another API":        {page(200, "application/json", `{"hello":"world"}`), "k", vole.ErrUnsupported, "not as a Vole server"},
		"an error of a kind": {page(400, "application/json", `{"error":{"code":"from_the_future","message":"no"}}`), "k", vole.ErrUnavailable, "no"},
		"a wrong key":        {good.url, "vole_nonsense", vole.ErrPermission, "key"},
		"no key":             {good.url, "", vole.ErrInvalid, "key"},
		"no URL":             {"vole.example.com", "k", vole.ErrInvalid, "http"},
		"a key in the URL":   {"http://user:secret@127.0.0.1:1", "k", vole.ErrInvalid, "key"},
	} {
		b, err := cloud.Open(t.Context(), cloud.Options{URL: c.url, Key: c.key, Patience: 300 * time.Millisecond})
		if err == nil {
			b.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v, want one that is %v and says %q", what, err, c.want, c.says)
		}
	}
}

// answerDroppingServer passes requests on to a server and drops as many responses as breaks
// says.
type answerDroppingServer struct {
	http.Handler
	breaks atomic.Int32 // how many responses are still to be dropped
	seen   atomic.Int32
}

func (g *answerDroppingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/server") || g.breaks.Add(-1) < 0 {
		g.Handler.ServeHTTP(w, r)
		return
	}
	g.seen.Add(1)
	// It is done, and the answer is lost.
	g.Handler.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Changes whose response was lost are made once, and the caller gets the response.
func TestLostAnswers(t *testing.T) {
	s, err := server.New(t.Context(), server.Options{Home: filepath.Join(t.TempDir(), "home")})
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.FirstKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := &answerDroppingServer{Handler: s.Handler()}
	hs := httptest.NewServer(g)
	t.Cleanup(func() {
		hs.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := cloud.Open(t.Context(), cloud.Options{URL: hs.URL, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	store := vole.New(b)
	defer store.Close()
	ctx := t.Context()
	var v *vole.Volume
	var f *vole.FS
	var h *vole.File
	var att *vole.Attachment
	steps := []struct {
		name string
		run  func() error
	}{
		{"create", func() (err error) { v, err = store.Create(ctx, "v", vole.Spec{}); return err }},
		{"open", func() (err error) { f, err = v.FS(ctx); return err }},
		{"mkdir", func() error { return f.Mkdir(ctx, "d", 0o755) }},
		{"write", func() error { return f.WriteFile(ctx, "d/f", []byte("data"), 0o644) }},
		{"rename", func() error { return f.Rename(ctx, "d/f", "d/g", vole.RenameOptions{NoReplace: true}) }},
		{"link", func() error { return f.Link(ctx, "d/g", "d/h") }},
		{"symlink", func() error { return f.Symlink(ctx, "g", "d/s") }},
		{"open exclusively", func() (err error) {
			h, err = f.Open(ctx, "d/x", vole.OpenOptions{Create: true, Exclusive: true, Append: true})
			return err
		}},
		{"append", func() error { _, err := h.Append(ctx, []byte("once")); return err }},
		{"close", func() error { return h.Close() }},
		{"remove", func() error { return f.Remove(ctx, "d/h") }},
		{"begin a session, attach", func() (err error) { att, err = v.Attach(ctx, vole.AttachOptions{Holder: "first"}); return err }},
		{"detach", func() error { return att.Detach(ctx) }},
		{"attach", func() error {
			a, err := v.Attach(ctx, vole.AttachOptions{Holder: "h"})
			if err == nil {
				err = a.Detach(ctx)
			}
			return err
		}},
		{"remove volume", func() error { return v.Remove(ctx) }},
	}
	for _, s := range steps {
		g.breaks.Store(1)
		before := g.seen.Load()
		if s.name == "remove volume" {
			data, err := f.ReadFile(ctx, "d/x")
			if err != nil || string(data) != "once" {
				t.Errorf("appended %q, %v", data, err)
			}
			g.breaks.Store(1)
		}
		if err := s.run(); err != nil {
			t.Fatalf("%s, its answer lost: %v", s.name, err)
		}
		if g.seen.Load() == before {
			t.Errorf("%s: nothing was cut off", s.name)
		}
	}
	if _, err := store.Get(context.Background(), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("after all: %v", err)
	}
}
