package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server/internal/accounts"
)

// e2bServer is a server of an empty bucket, listening on the loopback.
type e2bServer struct {
	*Server
	url string
}

// e2bMaxFile is what the server takes: a little more than the largest file of volume.mjs.
const e2bMaxFile = 65 << 20

func startE2B(t *testing.T) *e2bServer {
	t.Helper()
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, MaxFile: e2bMaxFile})
	return &e2bServer{w.Server, w.url}
}

// key makes a key as the SDK takes it.
func (s *e2bServer) key(t *testing.T, n accounts.NewKey) (id, secret string) {
	t.Helper()
	if n.Org == "" {
		n.Org = DefaultOrg
	}
	n.Name, n.Format = "test", "e2b"
	k, secret, err := s.accounts.CreateKey(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return k.ID, secret
}

// TestE2BClient runs the published client of E2B against a server.
func TestE2BClient(t *testing.T) {
	t.Parallel()
	packages := npmPackages(t, filepath.Join("testdata", "e2b"))
	s := startE2B(t)
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	_, read := s.key(t, accounts.NewKey{Scopes: accounts.Read})
	node := exec.CommandContext(t.Context(), "node", filepath.Join("testdata", "e2b", "volume.mjs"))
	node.Env = append(os.Environ(), "E2B_PACKAGE="+filepath.Join(packages, "node_modules", "e2b"),
		"E2B_API_URL="+s.url, "E2B_VOLUME_API_URL="+s.url, "E2B_API_KEY="+key, "E2B_READ_KEY="+read)
	out, err := node.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "done\n") {
		t.Fatalf("%v\n%s", err, out)
	}
}
