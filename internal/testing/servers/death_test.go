package servers_test

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/internal/testing/servers"
)

const deathEnv = "VOLE_TEST_SERVERS_CHILD"

// TestDeath: when a process is killed, its servers end too. The directory it leaves is
// removed by the next.
func TestDeath(t *testing.T) {
	if os.Getenv(deathEnv) != "" {
		fmt.Println(servers.PG(t))
		fmt.Println(servers.S3(t).Endpoint)
		select {}
	}
	if runtime.GOOS != "linux" {
		t.Skip("the kernel does not end the children of a killed process")
	}
	skipWithout(t)
	tmp := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeath$")
	cmd.Env = append(os.Environ(), deathEnv+"=1", "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(tmp), 0o755); err != nil { // the child's rule is for what is beneath its TMPDIR
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for lines := bufio.NewScanner(out); len(addrs) < 2 && lines.Scan(); {
		u, err := url.Parse(strings.TrimSpace(lines.Text()))
		if err != nil || u.Host == "" {
			t.Errorf("the child says %q", lines.Text())
			break
		}
		addrs = append(addrs, u.Host)
	}
	for _, addr := range addrs {
		if !listens(addr) {
			t.Errorf("nothing listens on %s", addr)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for _, addr := range addrs {
		for listens(addr) {
			if time.Now().After(deadline) {
				t.Fatalf("the server on %s outlives its process", addr)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	sweeps(t, tmp)
}

// skipWithout skips t where a server is not installed.
func skipWithout(t *testing.T) {
	t.Helper()
	p, err := servers.StartPostgres(t.Context(), "")
	servers.Check(t, err)
	g, err := servers.StartGateway(t.Context(), "")
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	servers.Check(t, err)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// sweeps checks that a process removes what a killed one left, once it is old enough.
func sweeps(t *testing.T, tmp string) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(tmp, "*"))
	if len(left) != 1 {
		t.Fatalf("the killed process left %q, want one directory", left)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left[0], old, old); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	if err := servers.Cleanup(); err != nil {
		t.Fatal(err)
	}
	g, err := servers.StartGateway(t.Context(), "")
	servers.Check(t, err)
	defer servers.Cleanup()
	defer g.Close()
	if _, err := os.Stat(left[0]); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", left[0], err)
	}
}

func listens(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}
