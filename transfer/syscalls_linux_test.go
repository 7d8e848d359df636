package transfer_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

const tracedEnv = "VOLE_TEST_TRACED_SOURCE"

// Each file of the host that is copied is opened once, however deep it lies, and each
// directory a few times: to resolve the path of every file anew takes longer than the copy.
func TestOpensPerFile(t *testing.T) {
	if dir := os.Getenv(tracedEnv); dir != "" {
		copyTraced(t, dir)
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	const files = 400
	counts := map[int]int{}
	for _, n := range []int{0, files} {
		dir := t.TempDir()
		deep := filepath.Join(dir, "a", "b", "c", "d")
		must(t, os.MkdirAll(deep, 0o755))
		for i := range n {
			must(t, os.WriteFile(filepath.Join(deep, fmt.Sprintf("f%d", i)), []byte("content"), 0o644))
		}
		trace := filepath.Join(t.TempDir(), "trace")
		cmd := exec.Command(strace, "-f", "-qq", "-c", "-e", "trace=openat,openat2,open", "-o", trace, os.Args[0], "-test.run=^TestOpensPerFile$")
		cmd.Env = append(os.Environ(), tracedEnv+"="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("the kernel does not let strace work: %v: %s", err, out)
		}
		counts[n] = tracedCalls(t, trace)
	}
	if opens := counts[files] - counts[0]; opens < files/2 || opens > files+files/8 {
		t.Errorf("%d more opens for %d files", opens, files)
	}
}

// copyTraced copies a directory into a disk volume, as create --from does.
func copyTraced(t *testing.T, dir string) {
	h, err := transfer.OpenHost(dir)
	must(t, err)
	defer h.Close()
	_, err = transfer.NeedOf(t.Context(), h, ".")
	must(t, err)
	to := newFS(t, openHome(t), "v", vole.Spec{Kind: vole.KindDisk, Capacity: 16 * vole.MiB})
	_, err = transfer.Copy(t.Context(), transfer.Volume(to), ".", h, ".", transfer.Options{Root: true})
	must(t, err)
}

// tracedCalls is the total that strace -c has counted.
func tracedCalls(t *testing.T, trace string) int {
	data, err := os.ReadFile(trace)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	columns := strings.Fields(lines[len(lines)-1]) // % time, seconds, usecs/call, calls, perhaps errors, total
	if len(columns) < 5 || columns[len(columns)-1] != "total" {
		t.Fatalf("no total in %s", data)
	}
	n, err := strconv.Atoi(columns[3])
	must(t, err)
	return n
}
