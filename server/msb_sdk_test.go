package server

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server/internal/accounts"
)

// msbServer is a server on the loopback.
type msbServer struct {
	*Server
	url string

	mu   sync.Mutex
	took map[string]bool // patterns of the requests that came
}

func (s *msbServer) seen(pattern string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.took[pattern]
}

// startMSB serves the bucket in dir, beside others that do.
func startMSB(t *testing.T, dir string) *msbServer {
	t.Helper()
	return startMSBOf(t, Options{Bucket: &bucket.Options{Dir: dir}})
}

func startMSBOf(t *testing.T, opts Options) *msbServer {
	t.Helper()
	s, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	m := &msbServer{Server: s, took: map[string]bool{}}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Handler().ServeHTTP(w, r)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.took[r.Pattern] = true
	}))
	m.url = hs.URL
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		hs.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// key makes a key and returns its secret.
func (s *msbServer) key(t *testing.T, scopes accounts.Scope, volumes ...string) string {
	t.Helper()
	_, secret, err := s.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "test", Scopes: scopes, Volumes: volumes})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// TestMicrosandboxClient runs the published client of microsandbox against servers.
func TestMicrosandboxClient(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("the client has no addon for this kernel and processor")
	}
	packages := npmPackages(t, filepath.Join("testdata", "msb"))
	t.Run("bucket", func(t *testing.T) { runMSBClient(t, packages, Options{Bucket: &bucket.Options{Dir: t.TempDir()}}) })
	t.Run("home", func(t *testing.T) { runMSBClient(t, packages, Options{Home: t.TempDir()}) })
}

func runMSBClient(t *testing.T, packages string, opts Options) {
	s := startMSBOf(t, opts)
	for _, as := range []struct{ rights, key string }{
		{"write", s.key(t, accounts.Write)}, {"read", s.key(t, accounts.Read)}, {"none", "vole_" + strings.Repeat("A", 43)},
	} {
		node := exec.CommandContext(t.Context(), "node", filepath.Join("testdata", "msb", "volumes.mjs"), as.rights)
		node.Env = append(os.Environ(), "MSB_PACKAGES="+packages, "MSB_BACKEND=cloud", "MSB_HOME="+t.TempDir(), "MSB_API_URL="+s.url, "MSB_API_KEY="+as.key)
		out, err := node.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "done\n") {
			t.Fatalf("as %s: %v\n%s", as.rights, err, out)
		}
	}
	for _, want := range msbRoutes {
		if want != "PATCH /v1/volumes/{id}" && !s.seen(want) { // the client changes no volumes
			t.Errorf("the client never asked for %s", want)
		}
	}
}

// msbRoutes is all that the dialect has.
var msbRoutes = []string{
	"GET /v1/volumes", "POST /v1/volumes", "GET /v1/volumes/default", "PATCH /v1/volumes/{id}", "DELETE /v1/volumes/{id}",
	"GET /v1/volumes/{id}/files", "DELETE /v1/volumes/{id}/files", "GET /v1/volumes/{id}/files/content", "PUT /v1/volumes/{id}/files/content",
	"GET /v1/volumes/{id}/files/stat", "GET /v1/volumes/{id}/files/exists", "POST /v1/volumes/{id}/files/mkdir",
	"POST /v1/volumes/{id}/files/copy", "POST /v1/volumes/{id}/files/rename",
}
