package transfer_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
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
			opens, all := tracedFill(t, c.kind, c.tar, files)
			noOpens, none := tracedFill(t, c.kind, c.tar, 0)
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
func tracedFill(t *testing.T, kind vole.Kind, tar bool, files int) (opens, all int) {
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
	counts := traced(t, "%file,%desc", tracedEnv+"="+string(kind)+":"+from)
	for name, n := range counts { // Go's own waiting, and the end of the test
		if strings.HasPrefix(name, "epoll") || name == "unlinkat" {
			counts["total"] -= n
		}
	}
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
