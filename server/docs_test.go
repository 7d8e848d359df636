package server

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The examples of the documentation run as they stand.
func TestExamplesOfDocs(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("there is no ", tool)
		}
	}
	doc, err := os.ReadFile("../docs/server.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail\n"
	for _, part := range strings.Split(string(doc), "```sh\n")[1:] {
		code, _, _ := strings.Cut(part, "```")
		script += code
	}
	r := startServer(t, Options{}, nil, time.Second)
	cmd := exec.Command("bash")
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(os.Environ(), "VOLE_URL=http://"+r.addr, "KEY="+r.key, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"hello\n", "hello\nell", `"name":"copy"`, `"name":"ci"`, `"code":"volume_not_found"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the examples do not print %q:\n%s", want, out)
		}
	}
}
