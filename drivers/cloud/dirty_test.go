package cloud_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/server"
)

// restartableServer is a server that can restart at the same address.
type restartableServer struct {
	t    *testing.T
	opts server.Options
	now  atomic.Pointer[server.Server]
	url  string
	key  string
}

func newRestartableServer(t *testing.T) *restartableServer {
	r := &restartableServer{t: t, opts: server.Options{Home: filepath.Join(t.TempDir(), "home")}}
	r.start()
	key, err := r.now.Load().FirstKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.key = key
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.now.Load().Handler().ServeHTTP(w, req) }))
	r.url = hs.URL
	t.Cleanup(func() {
		hs.Close()
		if err := r.now.Load().Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *restartableServer) start() {
	s, err := server.New(context.Background(), r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.now.Store(s)
}

func (r *restartableServer) restart() {
	if err := r.now.Load().Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

// Writes that a server had not synced when it ended are reported as lost, once; later ones are
// not.
func TestLostWrites(t *testing.T) {
	r := newRestartableServer(t)
	b, err := cloud.Open(t.Context(), cloud.Options{URL: r.url, Key: r.key})
	if err != nil {
		t.Fatal(err)
	}
	store := vole.New(b)
	defer store.Close()
	ctx := t.Context()
	v, err := store.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, err error, lost bool) {
		t.Helper()
		if lost != errors.Is(err, vole.ErrUnavailable) || !lost && err != nil {
			t.Errorf("%s: %v; lost should be %v", what, err, lost)
		}
	}
	t.Run("handle", func(t *testing.T) {
		f, err := v.FS(ctx)
		want("open", err, false)
		h, err := f.Open(ctx, "f", vole.OpenOptions{Create: true})
		want("open", err, false)
		write := func() {
			_, err := h.WriteAt(ctx, []byte("data"), 0)
			want("write", err, false)
		}
		write()
		r.restart()
		want("sync", h.Sync(ctx), true)
		want("sync", h.Sync(ctx), false)
		r.restart()
		write() // the first after the restart
		want("sync of what was written after the restart", h.Sync(ctx), false)
		write()
		r.restart()
		write()
		want("sync", h.Sync(ctx), true)
		write()
		r.restart()
		want("close", h.Close(), true)
	})
	t.Run("batch", func(t *testing.T) {
		f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		want("open", err, false)
		want("mkdir", f.Mkdir(ctx, "d", 0o755), false)
		r.restart()
		want("sync", f.Sync(ctx), true)
		want("write", f.WriteFile(ctx, "d2/f", []byte("x"), 0o644), false)
		want("sync", f.Sync(ctx), false)
		h, err := f.Open(ctx, "by-handle", vole.OpenOptions{Create: true})
		want("open", err, false)
		_, err = h.WriteAt(ctx, []byte("data"), 0)
		want("write", err, false)
		want("close", h.Close(), false)
		r.restart()
		want("sync after a file was closed", f.Sync(ctx), true)
		want("mkdir", f.Mkdir(ctx, "e", 0o755), false)
		r.restart()
		want("close", f.Close(), true)
	})
}

// A write during a Sync is not part of it: if the server ends afterwards, Close reports it as
// lost.
func TestWriteDuringSync(t *testing.T) {
	syncing, wrote := make(chan struct{}), make(chan struct{})
	var gone sync.WaitGroup
	f := openScriptedFS(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/sync"):
			close(syncing)
			<-wrote
		case r.Method == "DELETE" && strings.Contains(r.URL.Path, "/handles/"):
			writeRefusal(w, http.StatusGone, "unknown_session") // the server has restarted
			return true
		}
		return false
	})
	ctx := context.Background()
	h, err := f.Open(ctx, "x", vole.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("a"), 0); err != nil {
		t.Fatal(err)
	}
	gone.Go(func() {
		if err := h.Sync(ctx); err != nil {
			t.Errorf("sync: %v", err)
		}
	})
	<-syncing
	if _, err := h.WriteAt(ctx, []byte("b"), 1); err != nil {
		t.Fatal(err)
	}
	close(wrote)
	gone.Wait()
	if err := h.Close(); driver.Classify(err).Err != driver.ErrUnavailable {
		t.Errorf("close: %v", err)
	}
}
