package transfer_test

import (
	"bytes"
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

// tracedEnv says what a traced process fills, and from where.
const tracedEnv = "VOLE_TEST_TRACED_FILL"

// What a file of the host, or of a tar stream, costs in system calls on its way into a volume,
// however deep it lies: to resolve the path of every file anew, or to set its metadata
// by a call of its own for each, takes longer than the copy.
func TestCallsPerFile(t *testing.T) {
	if what := os.Getenv(tracedEnv); what != "" {
		kind, from, _ := strings.Cut(what, ":")
		fillTraced(t, vole.Kind(kind), from)
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	const files = 400
	for _, c := range []struct {
		kind        vole.Kind
		tar         bool
		opens, most int // calls for each file
	}{
		{vole.KindDisk, false, 1, 8}, // look, open, stat, attributes, read, close, two at the image
		{vole.KindDir, false, 2, 12}, // look, open, stat, attributes, read, close; create, write, owner, mode, times, close
		{vole.KindDir, true, 1, 6},   // the second half of that
	} {
		t.Run(fmt.Sprintf("%s from tar %v", c.kind, c.tar), func(t *testing.T) {
			opens, all := tracedFill(t, strace, c.kind, c.tar, files)
			noOpens, none := tracedFill(t, strace, c.kind, c.tar, 0)
			if n := opens - noOpens; n < files*c.opens/2 || n > files*c.opens+files/8 {
				t.Errorf("%d more opens for %d files", n, files)
			}
			if n := all - none; n < files || n > files*c.most+files/2 {
				t.Errorf("%d more calls for %d files, which is more than %d each", n, files, c.most)
			}
		})
	}
}

// tracedFill counts the system calls of a process that fills a volume with that many files.
func tracedFill(t *testing.T, strace string, kind vole.Kind, tar bool, files int) (opens, all int) {
	t.Helper()
	from := t.TempDir()
	deep := filepath.Join(from, "a", "b", "c", "d")
	must(t, os.MkdirAll(deep, 0o755))
	for i := range files {
		must(t, os.WriteFile(filepath.Join(deep, fmt.Sprintf("f%d", i)), []byte("content"), 0o644))
	}
	if tar {
		from = tarOf(t, from)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-qq", "-c", "-e", "trace=%file,%desc", "-o", trace, os.Args[0], "-test.run=^TestCallsPerFile$")
	cmd.Env = append(os.Environ(), tracedEnv+"="+string(kind)+":"+from)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the kernel does not let strace work: %v: %s", err, out)
	}
	counts := countedCalls(t, trace)
	return counts["open"] + counts["openat"] + counts["openat2"], counts["total"]
}

// tarOf makes a tar file of a directory.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	h, err := transfer.OpenHost(dir)
	must(t, err)
	defer h.Close()
	v := newFS(t, openHome(t), "v", vole.Spec{})
	_, err = transfer.Copy(t.Context(), transfer.Volume(v), ".", h, ".", transfer.Options{Root: true})
	must(t, err)
	var b bytes.Buffer
	_, err = transfer.ToTar(t.Context(), &b, v, ".", ".", transfer.Options{})
	must(t, err)
	name := filepath.Join(t.TempDir(), "x.tar")
	must(t, os.WriteFile(name, b.Bytes(), 0o644))
	return name
}

// fillTraced makes a volume of a directory or a tar file, as create --from does.
func fillTraced(t *testing.T, kind vole.Kind, from string) {
	spec := vole.Spec{Kind: kind}
	if kind == vole.KindDisk {
		spec.Capacity = 16 * vole.MiB
	}
	_, err := openHome(t).Build(t.Context(), "v", spec, func(v *vole.Volume) error {
		f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
		must(t, err)
		defer f.Close()
		opts := transfer.Options{Owner: os.Geteuid() == 0, Root: true}
		if strings.HasSuffix(from, ".tar") {
			in, err := os.Open(from)
			must(t, err)
			defer in.Close()
			_, err = transfer.FromTar(t.Context(), transfer.Volume(f), ".", in, opts)
			return err
		}
		h, err := transfer.OpenHost(from)
		must(t, err)
		defer h.Close()
		_, err = transfer.Copy(t.Context(), transfer.Volume(f), ".", h, ".", opts)
		return err
	})
	must(t, err)
}

// countedCalls is what strace -c has counted, by call, and the total without those of Go's own
// waiting and of the end of the test.
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
	for name, n := range counts {
		if strings.HasPrefix(name, "epoll") || name == "unlinkat" {
			counts["total"] -= n
		}
	}
	return counts
}
