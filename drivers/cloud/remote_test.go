package cloud

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// What the server has lost, or what cannot be reached where the server said, is opened again
// and tried again; other errors are the caller's.
func TestWithRemote(t *testing.T) {
	unreachable := &unreachableError{"host", syscall.ECONNREFUSED}
	for what, c := range map[string]struct {
		server *url.URL
		errs   []error // of one try after the other
		want   error
		tries  int
		stale  []bool // whether the session of each try is stale afterwards
	}{
		"good":                     {nil, []error{nil}, nil, 1, []bool{false}},
		"lost":                     {nil, []error{api.ErrStale, nil}, nil, 2, []bool{false, false}},
		"lost for ever":            {nil, []error{api.ErrStale, api.ErrStale, api.ErrStale}, driver.ErrUnavailable, 3, []bool{false, false, false}},
		"unreachable":              {&url.URL{}, []error{unreachable, nil}, nil, 2, []bool{true, false}},
		"unreachable by all":       {nil, []error{unreachable}, driver.ErrUnavailable, 1, []bool{false}},
		"an error of the file":     {&url.URL{}, []error{driver.ErrNotExist}, driver.ErrNotExist, 1, []bool{false}},
		"an error after reopening": {&url.URL{}, []error{api.ErrStale, driver.ErrIsDir}, driver.ErrIsDir, 2, []bool{false, false}},
	} {
		var opened []*remoteRef
		open := func(stale *remoteRef) (*remoteRef, error) {
			if n := len(opened); n > 0 && stale != opened[n-1] {
				t.Errorf("%s: open is told of another remote than the last", what)
			}
			opened = append(opened, &remoteRef{session: &session{server: c.server}})
			return opened[len(opened)-1], nil
		}
		err := withRemote(nil, open, func(*remoteRef) error { return c.errs[len(opened)-1] })
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || len(opened) != c.tries {
			t.Errorf("%s: %v after %d tries, want %v after %d", what, err, len(opened), c.want, c.tries)
			continue
		}
		for i, stale := range c.stale {
			if opened[i].session.isStale() != stale {
				t.Errorf("%s: session %d is stale: %v", what, i, !stale)
			}
		}
	}
	failed := errors.New("cannot open")
	if err := withRemote(nil, func(*session) (*session, error) { return nil, failed }, nil); err != failed {
		t.Errorf("%v, want the error of open", err)
	}
}

// A handle that is being reopened leaves a server that cannot be reached at the address it
// advertised, as every other operation does.
func TestReopenLeavesUnreachableServer(t *testing.T) {
	const id = "0190f3c4-0000-7000-8000-000000000001"
	dead := httptest.NewServer(http.NotFoundHandler())
	deadURL := dead.URL
	dead.Close()
	var handles, sessions atomic.Int32
	var mu sync.Mutex
	advertised := "" // of the next session
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set(api.HeaderInstance, "one")
		w.Header().Set("Content-Type", "application/json")
		switch path := strings.TrimPrefix(r.URL.Path, api.Prefix); {
		case path == "/server":
			_, _ = w.Write([]byte(`{"api":2,"instance":"one","org":"o","scopes":["admin"],"caps":{"backend":"bucket","dir":true}}`))
		case path == "/sessions":
			sessions.Add(1)
			_, _ = w.Write([]byte(`{"id":"s","lease_seconds":30,"url":"` + advertised + `"}`))
			advertised = ""
		case strings.HasSuffix(path, "/filesystems"):
			_, _ = w.Write([]byte(`{"id":"f"}`))
		case strings.HasSuffix(path, "/handles"):
			handles.Add(1)
			_, _ = w.Write([]byte(`{"id":"h","entry":{"name":"x","type":"file","mode":"0644","inode":7}}`))
		case strings.HasPrefix(path, "/handles/") && r.Method == "GET":
			if handles.Load() == 1 { // the first handle is lost
				w.WriteHeader(http.StatusGone)
				_, _ = w.Write([]byte(`{"error":{"code":"unknown_session","message":"gone"}}`))
				return
			}
			_, _ = w.Write([]byte(`{"name":"x","type":"file","mode":"0644","inode":7}`))
		default:
			_, _ = w.Write([]byte(`{"id":"` + id + `","name":"v","kind":"dir","state":"ready"}`))
		}
	}))
	defer hs.Close()
	b, err := Open(t.Context(), Options{URL: hs.URL, Key: "k", Patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fsys, err := b.OpenFS(t.Context(), id, driver.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open(t.Context(), "x", driver.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The file system has moved to a session at a server that ends before the file is reopened.
	mu.Lock()
	advertised = deadURL
	mu.Unlock()
	f.(*handle).remote.ref.session.markStale()
	gone, err := b.ensureSession(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	fsys.(*volumeFS).remote = &remoteRef{session: gone, id: "f"}
	if _, err := f.Stat(t.Context()); err != nil || sessions.Load() != 3 {
		t.Errorf("%v after %d sessions, want the file reopened in the third", err, sessions.Load())
	}
}
