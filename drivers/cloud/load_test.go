package cloud_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

var (
	loadTime    = flag.Duration("load.time", 3*time.Second, "how long the clients of TestLoad are at work")
	loadClients = flag.Int("load.clients", 500, "how many there are")
	loadBig     = flag.Int64("load.big", 256, "MiB that TestMemory moves")
)

// TestLoad has many clients at work at once. None of them may be refused anything.
func TestLoad(t *testing.T) {
	c := startChild(t, childSpec{Bucket: &bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}})
	url, ctx := "http://"+c.addr, context.Background()
	setup := connect(t, url, c.key)
	v, err := setup.Create(ctx, "shared", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	fsys := mustFS(t, setup, v.ID())
	for i := range 100 {
		if err := fsys.WriteFile(ctx, fmt.Sprintf("common/%d", i), make([]byte, 4000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var done, failed atomic.Int64
	var wg, begun sync.WaitGroup
	begun.Add(*loadClients)
	var until atomic.Int64
	slow := make([]time.Duration, *loadClients)
	for i := range *loadClients {
		wg.Go(func() {
			store := connect(t, url, c.key)
			fsys := mustFS(t, store, v.ID())
			begun.Done()
			begun.Wait()
			until.CompareAndSwap(0, time.Now().Add(*loadTime).UnixNano())
			rnd := rand.New(rand.NewPCG(7, uint64(i)))
			for n := 0; time.Now().UnixNano() < until.Load(); n++ {
				start := time.Now()
				if err := runLoadStep(ctx, fsys, rnd, i, n); err != nil {
					failed.Add(1)
					t.Errorf("client %d: %v", i, err)
					return
				}
				done.Add(1)
				slow[i] = max(slow[i], time.Since(start))
			}
			if err := store.Close(); err != nil {
				t.Errorf("client %d: close: %v", i, err)
			}
		})
	}
	wg.Wait()
	slowest := time.Duration(0)
	for _, d := range slow {
		slowest = max(slowest, d)
	}
	t.Logf("%d clients: %d steps in %v, %d failed, the slowest took %v; the server had at most %d MiB", *loadClients, done.Load(), *loadTime, failed.Load(), slowest, peakResidentMemory(t, c)>>20)
}

// runLoadStep makes a few requests of one kind.
func runLoadStep(ctx context.Context, fsys *vole.FS, rnd *rand.Rand, i, n int) error {
	switch k := rnd.IntN(10); {
	case k < 4:
		b, err := fsys.ReadFile(ctx, fmt.Sprintf("common/%d", rnd.IntN(100)))
		if err == nil && len(b) != 4000 {
			err = fmt.Errorf("read %d bytes", len(b))
		}
		return err
	case k < 7:
		_, err := fsys.Stat(ctx, fmt.Sprintf("common/%d", rnd.IntN(100)))
		return err
	case k < 8:
		list, err := fsys.ReadDir(ctx, "common")
		if err == nil && len(list) != 100 {
			err = fmt.Errorf("listed %d names", len(list))
		}
		return err
	}
	path := fmt.Sprintf("own/%d/%d", i, n%4)
	data := fmt.Appendf(nil, "%d of %d", n, i)
	if err := fsys.WriteFile(ctx, path, data, 0o644); err != nil {
		return err
	}
	got, err := fsys.ReadFile(ctx, path)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%s has %q, not %q", path, got, data)
	}
	return err
}

// mostResident is what a server may need in memory for streams, however long they are.
// Two chunks of 8 MiB are put or fetched ahead at once, another is read, and the collector
// lets the heap grow before it runs.
const mostResident = 96 << 20

// TestMemory sends a big file up and down.
func TestMemory(t *testing.T) {
	c := startChild(t, childSpec{Bucket: &bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}})
	ctx := context.Background()
	setup := connect(t, "http://"+c.addr, c.key)
	v, err := setup.Create(ctx, "shared", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	fsys := mustFS(t, setup, v.ID())
	size := *loadBig << 20
	idle := peakResidentMemory(t, c)
	start := time.Now()
	if _, err := fsys.WriteFrom(ctx, "big", io.LimitReader(&pattern{}, size), vole.WriteOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	up, most := time.Since(start), peakResidentMemory(t, c)
	start = time.Now()
	r, err := fsys.NewReader(ctx, "big", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := compareReaders(r, io.LimitReader(&pattern{}, size)); err != nil {
		t.Error(err)
	}
	_ = r.Close()
	down := time.Since(start)
	rate := func(d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }
	t.Logf("%d MiB: up %.0f MB/s, down %.0f MB/s; the server had %d MiB, then at most %d, then %d", size>>20, rate(up), rate(down), idle>>20, most>>20, peakResidentMemory(t, c)>>20)
	if got := peakResidentMemory(t, c); got > mostResident {
		t.Errorf("the server had %d MiB resident; the most is %d", got>>20, mostResident>>20)
	}
}

// pattern is bytes that differ from one block to the next.
type pattern struct{ off uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.off>>12) ^ byte(p.off)
		p.off++
	}
	return len(b), nil
}

func compareReaders(a, b io.Reader) error {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := io.ReadFull(a, x)
		m, _ := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("other bytes after %d", off)
		}
		off += int64(n)
		if err != nil {
			if n < len(x) && (err == io.EOF || err == io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
	}
}

// peakResidentMemory is the most memory that a server has had, in bytes; 0 where that is not told.
func peakResidentMemory(t *testing.T, c *child) int64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}
