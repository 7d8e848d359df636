package servers_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/volehq/vole/internal/testing/servers"
)

// TestProxySigned: through a faithful proxy an S3 client works, signatures included, and
// an object of several megabytes with an odd name comes back as it was put.
func TestProxySigned(t *testing.T) {
	c := servers.S3(t)
	p := servers.NewProxy(t, c.Endpoint)
	c.Endpoint = p.URL()
	cl := client(t, c)
	data := bytes.Repeat([]byte("0123456789"), 1<<19)
	const key = "a b/ü%2F+?&=~;'"
	if err := put(t, cl, c.Bucket, key, data, minio.PutObjectOptions{UserMetadata: map[string]string{"M": "v"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, cl, c.Bucket, key); err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %d bytes, %v", len(got), err)
	}
	u, err := cl.PresignedGetObject(t.Context(), c.Bucket, key, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, body, err := do(t.Context(), http.MethodGet, u.String(), "")
	if err != nil || resp.StatusCode != http.StatusOK || body != string(data) {
		t.Errorf("presigned get: %v, %v, %d bytes", resp, err, len(body))
	}
	n := 0
	for o := range cl.ListObjects(t.Context(), c.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if n++; o.Err != nil || o.Key != key {
			t.Errorf("list: %q, %v", o.Key, o.Err)
		}
	}
	if n != 1 {
		t.Errorf("list: %d objects", n)
	}
}

// TestProxyS3Errors: an S3 client understands the errors that the proxy makes, and what
// was forwarded before an error is done.
func TestProxyS3Errors(t *testing.T) {
	c := servers.S3(t)
	direct := client(t, c)
	p := servers.NewProxy(t, c.Endpoint)
	c.Endpoint = p.URL()
	cl := client(t, c)
	for _, k := range []struct {
		name  string
		fault servers.Fault
		code  string // "" for an error of the network
		done  bool
	}{
		{"status", servers.Fault{Status: 503}, "SlowDown", false},
		{"after", servers.Fault{Status: 503, AfterForward: true}, "SlowDown", true},
		{"after500", servers.Fault{AfterForward: true}, "InternalError", true},
		{"drop", servers.Fault{Drop: true}, "", false},
		{"dropafter", servers.Fault{DropAfter: true}, "", true},
	} {
		t.Run(k.name, func(t *testing.T) {
			p.Set(func(*http.Request) servers.Fault { return k.fault })
			err := put(t, cl, c.Bucket, k.name, []byte("v"), minio.PutObjectOptions{})
			if err == nil {
				t.Error("the put succeeded")
			}
			var s3err minio.ErrorResponse
			if code := minio.ToErrorResponse(err).Code; errors.As(err, &s3err) != (k.code != "") || k.code != "" && code != k.code {
				t.Errorf("the put failed with %q: %v", code, err)
			}
			data, err := get(t, direct, c.Bucket, k.name)
			if (err == nil && string(data) == "v") != k.done {
				t.Errorf("behind the proxy: %q, %v", data, err)
			}
		})
	}
}

// TestProxyBody: faults of the response's body.
func TestProxyBody(t *testing.T) {
	const content = "0123456789abcdefghij"
	var served atomic.Int64
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.Header().Set("ETag", `"e"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}))
	t.Cleanup(backend.Close)
	p := servers.NewProxy(t, backend.URL)
	for _, k := range []struct {
		name   string
		method string
		fault  servers.Fault
		body   string
		length int64
		cut    bool
	}{
		{"none", http.MethodGet, servers.Fault{}, content, 20, false},
		{"none", http.MethodHead, servers.Fault{}, "", 20, false},
		{"half", http.MethodGet, servers.Fault{HalfBody: true}, content[:10], 20, true},
		{"short", http.MethodGet, servers.Fault{Short: true}, content[:13], 13, false},
		{"short", http.MethodHead, servers.Fault{Short: true}, "", 13, false},
		{"flip", http.MethodGet, servers.Fault{Flip: true}, "0123456789" + "`" + "bcdefghij", 20, false},
	} {
		t.Run(k.name+k.method, func(t *testing.T) {
			p.Set(func(*http.Request) servers.Fault { return k.fault })
			resp, body, err := do(t.Context(), k.method, p.URL(), "")
			if cut := errors.Is(err, io.ErrUnexpectedEOF); cut != k.cut || !cut && err != nil {
				t.Fatalf("error %v, want a cut: %v", err, k.cut)
			}
			if body != k.body || resp.ContentLength != k.length || resp.StatusCode != 200 || resp.Header.Get("ETag") != `"e"` {
				t.Errorf("%v with body %q, want %q and length %d", resp, body, k.body, k.length)
			}
		})
	}
	backend.Close()
	p.Set(nil)
	if resp, _, err := do(t.Context(), http.MethodGet, p.URL(), ""); err != nil || resp.StatusCode != http.StatusBadGateway {
		t.Errorf("without a backend: %v, %v", resp, err)
	}
}

// TestProxyDelay: a request that is held back arrives although its client gave up.
func TestProxyDelay(t *testing.T) {
	arrived := make(chan string, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- string(body)
	}))
	t.Cleanup(backend.Close)
	p := servers.NewProxy(t, backend.URL)
	const delay = 200 * time.Millisecond
	p.Set(func(*http.Request) servers.Fault { return servers.Fault{Delay: delay} })
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), delay/4)
	defer cancel()
	if _, _, err := do(ctx, http.MethodPut, p.URL(), "late"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client did not give up: %v", err)
	}
	if body := <-arrived; body != "late" || time.Since(begin) < delay {
		t.Errorf("%q arrived after %v", body, time.Since(begin))
	}
	p.Set(func(*http.Request) servers.Fault { return servers.Fault{Delay: time.Hour} })
	done := make(chan error)
	go func() {
		_, _, err := do(context.Background(), http.MethodPut, p.URL(), "never")
		done <- err
	}()
	time.Sleep(delay / 4)
	p.Close()
	if err := <-done; err == nil {
		t.Error("a closed proxy answered")
	}
	p.Close()
}

func do(ctx context.Context, method, url, body string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}
