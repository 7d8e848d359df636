package sandbox

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole"
)

// A signal ends the fetching of an image, and nothing was made.
func TestPullIsInterrupted(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	e := openEnv(t, tempHome(t))
	asked := make(chan struct{}, 100)
	gone := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	}))
	defer s.Close()
	defer close(gone)
	signals := make(chan os.Signal, 1)
	c := shellConfig(t, "true", "v:/v")
	c.Image = strings.TrimPrefix(s.URL, "http://") + "/x:1"
	go func() { <-asked; signals <- syscall.SIGINT }()
	if _, err := e.m.Run(testContext(t), c, IO{Signals: signals}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	if _, err := e.store.Get(testContext(t), "v"); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("the volume was made: %v", err)
	}
	e.checkClean()
}
