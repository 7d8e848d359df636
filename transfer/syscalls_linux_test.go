package transfer_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// tracedHomeEnv is the home that a traced process works on.
const tracedHomeEnv = "VOLE_TEST_TRACED_HOME"

// A file of a dir volume takes five system calls on its way into a tar stream: it is opened,
// described, asked for attributes, read and closed.
func TestCallsPerFileToTar(t *testing.T) {
	if home := os.Getenv(tracedHomeEnv); home != "" {
		s, err := vole.Open(t.Context(), vole.Options{Home: home})
		must(t, err)
		defer s.Close()
		v, err := s.Get(t.Context(), "v")
		must(t, err)
		f, err := v.OpenFS(t.Context(), vole.FSOptions{ReadOnly: true})
		must(t, err)
		_, err = transfer.ToTar(t.Context(), io.Discard, f, ".", ".", transfer.Options{})
		must(t, errors.Join(err, f.Close()))
		return
	}
	const files = 400
	counts := map[int]int{}
	for _, n := range []int{0, files} {
		home := filepath.Join(t.TempDir(), "home")
		s, err := vole.Open(t.Context(), vole.Options{Home: home})
		must(t, err)
		f := newFS(t, s, "v", vole.Spec{})
		must(t, f.MkdirAll(t.Context(), "a/b/c/d", 0o755))
		for i := range n {
			must(t, f.WriteFile(t.Context(), fmt.Sprintf("a/b/c/d/f%d", i), []byte("content"), 0o644))
		}
		must(t, errors.Join(f.Close(), s.Close()))
		counts[n] = traced(t, "%file,%desc", tracedHomeEnv+"="+home)["total"]
	}
	if calls := counts[files] - counts[0]; calls < 4*files || calls > 5*files+files/4 {
		t.Errorf("%d more system calls for %d files", calls, files)
	}
}

// traced runs the calling test in another process, with the given variable set, and returns
// how often it made each of these system calls, and under "total" all of them.
func traced(t *testing.T, calls, env string) map[string]int {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	test, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(strace, "-f", "-qq", "-c", "-e", "trace="+calls, "-o", trace, os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the kernel does not let strace work: %v: %s", err, out)
	}
	return countedCalls(t, trace)
}

// countedCalls is what strace -c has counted.
func countedCalls(t *testing.T, trace string) map[string]int {
	data, err := os.ReadFile(trace)
	must(t, err)
	counts := map[string]int{}
	for line := range strings.Lines(string(data)) {
		columns := strings.Fields(line) // % time, seconds, usecs/call, calls, perhaps errors, name
		if len(columns) < 5 {
			continue
		}
		if n, err := strconv.Atoi(columns[3]); err == nil {
			counts[columns[len(columns)-1]] = n
		}
	}
	if counts["total"] == 0 {
		t.Fatalf("no total in %s", data)
	}
	return counts
}
