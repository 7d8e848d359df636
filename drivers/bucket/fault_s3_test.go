package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

// behindProxy is a namespace whose objects are reached through a proxy; direct is the
// same without it.
func behindProxy(t *testing.T) (proxy *servers.Proxy, opts, direct bucket.Options) {
	t.Helper()
	s3 := servers.S3(t)
	proxy = servers.NewProxy(t, s3.Endpoint)
	conf := bucket.S3{
		Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey,
		PathStyle: true, HeaderTimeout: time.Second,
	}
	direct = bucket.Options{Database: filepath.Join(t.TempDir(), "namespace.db"), S3: &conf, Maintain: -1}
	opts = direct
	bad := conf
	bad.Endpoint = proxy.URL()
	opts.S3 = &bad
	return proxy, opts, direct
}

// s3Faults are what services have done to their clients.
var s3Faults = []struct {
	name  string
	fault servers.Fault
}{
	{"500", servers.Fault{Status: 500}},
	{"503", servers.Fault{Status: 503}},
	{"slow", servers.Fault{Delay: 100 * time.Millisecond}},
	{"hangs", servers.Fault{Delay: 1500 * time.Millisecond}}, // longer than the client waits
	{"done and 500", servers.Fault{AfterForward: true}},
	{"drop", servers.Fault{Drop: true}},
	{"done and drop", servers.Fault{DropAfter: true}},
	{"half", servers.Fault{HalfBody: true}},
	{"short", servers.Fault{Short: true}},
	{"flip", servers.Fault{Flip: true}},
}

// TestS3Faults: whatever the blob store does to 10 to 30 % of the requests, a call
// succeeds or fails, no byte that is read is wrong, and what was acknowledged is there.
func TestS3Faults(t *testing.T) {
	t.Parallel()
	proxy, opts, direct := behindProxy(t)
	_, _, f := openShared(t, opts)
	_, _, other := openShared(t, opts)
	var had publishedFiles
	for i, k := range s3Faults {
		var n atomic.Int64
		rate := 0.1 + 0.2*rand.Float64()
		if k.name == "hangs" {
			rate = 0.1
		}
		proxy.Set(func(*http.Request) servers.Fault {
			if rand.Float64() > rate {
				return servers.Fault{}
			}
			n.Add(1)
			return k.fault
		})
		var ok, failed int64
		for try := 0; try == 0 || n.Load() < 3 && try < 20; try++ {
			a, b := had.exercise(t, f, other, fmt.Sprintf("r%d/%d", i, try), 300*time.Millisecond)
			ok, failed = ok+a, failed+b
		}
		t.Logf("%s: %d faults, %d calls succeeded, %d failed", k.name, n.Load(), ok, failed)
		if n.Load() == 0 || failed > ok {
			t.Errorf("%s: %d faults, %d calls succeeded, %d failed", k.name, n.Load(), ok, failed)
		}
	}
	proxy.Set(nil)
	s, _, f := openShared(t, direct)
	for path, data := range had.list {
		if got, err := f.ReadFile(t.Context(), path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; %d were written", path, len(got), err, len(data))
		}
	}
	mustAuditClean(t, s, "after faults of the blob store")
	// What hung may still arrive. Longer than that is the grace time for.
	time.Sleep(2 * time.Second)
	removeAllAndSweep(t, direct)
}

// publishedFiles are files that readers may know of.
type publishedFiles struct {
	mu   sync.Mutex // guards list
	list map[string][]byte
}

func (p *publishedFiles) add(path string, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		p.list = map[string][]byte{}
	}
	p.list[path] = data
}

func (p *publishedFiles) pickOne() (string, []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, data := range p.list {
		return path, data
	}
	return "", nil
}

// exercise has two writers and two readers at work for a time, and returns how many
// calls succeeded and failed.
func (p *publishedFiles) exercise(t *testing.T, f, other *vole.FS, dir string, d time.Duration) (ok, failed int64) {
	var succeeded, refused atomic.Int64
	count := func(err error) {
		if err == nil {
			succeeded.Add(1)
			return
		}
		refused.Add(1)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, vole.ErrNotFound) {
			t.Errorf("a fault of the store looks like a loss: %v", err)
		}
	}
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for w := range 2 {
		all.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				path := fmt.Sprintf("%s/w%d/%d", dir, w, i)
				data := pattern(rand.Uint64(), 17<<10+rand.IntN(200<<10))
				err := put(f, path, data, i%2 == 0)
				count(err)
				if err == nil {
					p.add(path, data)
				}
			}
		})
		all.Go(func() {
			for time.Now().Before(end) {
				path, data := p.pickOne()
				if path == "" {
					continue
				}
				got, err := other.ReadFile(context.Background(), path)
				count(err)
				if err == nil && !bytes.Equal(got, data) {
					t.Errorf("%s: wrong bytes were read", path)
				}
			}
		})
	}
	all.Wait()
	return succeeded.Load(), refused.Load()
}

// put writes a file in one call, or by handle.
func put(f *vole.FS, path string, data []byte, whole bool) error {
	ctx := context.Background()
	if whole {
		return f.WriteFile(ctx, path, data, 0o644)
	}
	if err := f.MkdirAll(ctx, filepath.Dir(path), 0o755); err != nil {
		return err
	}
	h, err := f.Open(ctx, path, vole.OpenOptions{Write: true, Create: true})
	if err != nil {
		return err
	}
	_, err = h.WriteAt(ctx, data, 0)
	if err == nil {
		err = h.Sync(ctx)
	}
	return errors.Join(err, h.Close())
}

// TestS3Flipped: what always comes back wrong is never handed out.
func TestS3Flipped(t *testing.T) {
	t.Parallel()
	proxy, opts, direct := behindProxy(t)
	opts.S3.Retries = 1
	_, _, f := openShared(t, direct)
	data := pattern(1, 300<<10)
	if err := f.WriteFile(t.Context(), "file", data, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, f = openShared(t, opts)
	for _, k := range []struct {
		name  string
		fault servers.Fault
	}{{"flip", servers.Fault{Flip: true}}, {"short", servers.Fault{Short: true}}} {
		proxy.Set(func(*http.Request) servers.Fault { return k.fault })
		got, err := f.ReadFile(t.Context(), "file")
		if err == nil {
			t.Errorf("%s: read %d bytes, the right ones: %v", k.name, len(got), bytes.Equal(got, data))
		}
		if k.name == "flip" && !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: %v", k.name, err)
		}
	}
	proxy.Set(nil)
	if got, err := f.ReadFile(t.Context(), "file"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
}

// TestS3Down: when the blob store is down calls fail in bounded time, saying so, a
// context ends them at once, and all goes on when it is back.
func TestS3Down(t *testing.T) {
	t.Parallel()
	proxy, opts, direct := behindProxy(t)
	_, _, f := openShared(t, opts)
	data := pattern(1, 100<<10)
	if err := f.WriteFile(t.Context(), "file", data, 0o644); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(ctx context.Context) error{
		"write": func(ctx context.Context) error { return f.WriteFile(ctx, "file", data[1:], 0o644) },
		"read":  func(ctx context.Context) error { _, err := f.ReadFile(ctx, "file"); return err },
	}
	proxy.Set(func(*http.Request) servers.Fault { return servers.Fault{Drop: true} })
	var all sync.WaitGroup
	for name, call := range calls {
		all.Go(func() {
			begin := time.Now()
			err := call(context.Background())
			if took := time.Since(begin); err == nil || took > 20*time.Second {
				t.Errorf("%s with the store down: %v after %v", name, err, took)
			}
			for _, kind := range []error{vole.ErrCorrupt, fs.ErrNotExist, vole.ErrNotFound, vole.ErrNoSpace, vole.ErrExists} {
				if errors.Is(err, kind) {
					t.Errorf("%s with the store down: %v", name, err)
				}
			}
		})
	}
	all.Wait()
	for _, fault := range []servers.Fault{{Delay: time.Hour}, {Status: 503}} {
		proxy.Set(func(*http.Request) servers.Fault { return fault })
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
			begin := time.Now()
			err := call(ctx)
			cancel()
			if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took > 15*time.Second {
				t.Errorf("%s until the deadline: %v after %v", name, err, took)
			}
		}
	}
	proxy.Set(nil)
	if got, err := f.ReadFile(t.Context(), "file"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
	if err := calls["write"](t.Context()); err != nil {
		t.Error(err)
	}
	removeAllAndSweep(t, direct)
}
