package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

// act is what a proxy does with a request instead of passing it on. n counts the
// requests it was asked about, from 1. It returns false to have it passed on.
type act func(n int, w http.ResponseWriter, r *http.Request) bool

// proxied opens a bucket through a proxy in front of a real service, which a real
// service cannot be made to fail like. The proxy does nothing until act is stored.
func proxied(t *testing.T, change func(*S3Options)) (*s3Store, *atomic.Pointer[act], *atomic.Int32) {
	t.Helper()
	var hook atomic.Pointer[act]
	var count atomic.Int32
	s := openTestS3(t, func(o *S3Options) {
		target, err := url.Parse(o.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		o.HeaderTimeout, o.StallTimeout = 10*time.Second, 10*time.Second
		if change != nil {
			change(o)
		}
		proxy := &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
			FlushInterval: -1,
			ErrorLog:      log.New(io.Discard, "", 0),
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if f := hook.Load(); f != nil && (*f)(int(count.Add(1)), w, r) {
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		o.Endpoint = server.URL
	})
	return s, &hook, &count
}

// set installs what the proxy does.
func set(h *atomic.Pointer[act], count *atomic.Int32, f act) {
	count.Store(0)
	h.Store(&f)
}

// drop ends the connection without an answer.
func drop() { panic(http.ErrAbortHandler) }

// answerLost passes the request on to the service, and then drops the connection.
func answerLost(t *testing.T, gateway string, r *http.Request) {
	t.Helper()
	out := r.Clone(context.Background())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", gateway
	res, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		t.Errorf("pass on: %v", err)
		return
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode > 299 {
		t.Errorf("pass on: status %d, %v", res.StatusCode, err)
	}
}

// refuse answers with an S3 error.
func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	io.Copy(io.Discard, r.Body)
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>as the test wants</Message></Error>", code)
	}
}

func TestFailuresThatPass(t *testing.T) {
	s, hook, count := proxied(t, nil)
	ctx := t.Context()
	data := random(50_000)
	for i, f := range []act{
		func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 3 {
				refuse(w, r, 503, "SlowDown")
			}
			return n < 3
		},
		func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				refuse(w, r, 500, "InternalError")
			}
			return n == 1
		},
		func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n < 3 {
				drop()
			}
			return false
		},
	} {
		key := fmt.Sprintf("o/%d", i)
		again := func() { t.Helper(); set(hook, count, f) }
		again()
		mustPut(t, s, key, data)
		again()
		if err := s.ReadAt(ctx, key, make([]byte, 10), 5); err != nil {
			t.Error(err)
		}
		again()
		if _, err := s.Stat(ctx, key); err != nil {
			t.Error(err)
		}
		again()
		wantBytes(t, s, key, data)
		again()
		if got := keysOf(t, s, key); len(got) != 1 {
			t.Error(got)
		}
		again()
		if err := s.Delete(ctx, key); err != nil {
			t.Error(err)
		}
	}
}

func TestFailuresThatLast(t *testing.T) {
	s, hook, count := proxied(t, func(o *S3Options) { o.Retries = 2 })
	ctx := t.Context()
	data := random(1000)
	for _, test := range []struct {
		status    int
		code      string
		kind      error
		attempts  int32
		uncertain bool
	}{
		{500, "InternalError", nil, 3, true},
		{503, "SlowDown", nil, 3, true},
		{403, "AccessDenied", driver.ErrPermission, 1, false},
		{403, "QuotaExceeded", driver.ErrNoSpace, 1, false},
		{507, "XMinioStorageFull", driver.ErrNoSpace, 1, false},
		{404, "NoSuchBucket", driver.ErrInvalid, 1, false},
		{501, "NotImplemented", driver.ErrUnsupported, 1, false},
		{400, "InvalidArgument", driver.ErrInvalid, 1, false},
		{400, "RequestTimeout", nil, 3, false},
	} {
		puts := new(atomic.Int32)
		set(hook, count, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				puts.Add(1)
			}
			refuse(w, r, test.status, test.code)
			return true
		})
		err := s.Put(ctx, "o/a", data, sumOf(data))
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(err.Error(), "o/a") ||
			errors.Is(err, ErrUncertain) != test.uncertain || errors.Is(err, driver.ErrNotExist) {
			t.Errorf("%s: %v", test.code, err)
		}
		if n := puts.Load(); n != test.attempts {
			t.Errorf("%s: %d attempts", test.code, n)
		}
	}
	hook.Store(nil)
	if keys := keysOf(t, s, ""); len(keys) != 0 {
		t.Errorf("stored: %q", keys)
	}
	s.opts.Retries = 1000
	set(hook, count, func(_ int, w http.ResponseWriter, r *http.Request) bool { refuse(w, r, 503, "SlowDown"); return true })
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := s.ReadAt(ctx, "o/a", make([]byte, 1), 0)
	wantErr(t, err, context.DeadlineExceeded)
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("the end of the context was noticed after %v", d)
	}
}

func TestNobodyThere(t *testing.T) {
	s, _, _ := proxied(t, func(o *S3Options) { o.Retries = 1 })
	dead := httptest.NewServer(http.NotFoundHandler())
	opts := s.opts
	opts.Endpoint = dead.URL
	dead.Close()
	_, err := OpenS3(t.Context(), opts)
	if err == nil {
		t.Fatal("opened")
	}
	gone, err := newS3Store(opts)
	if err != nil {
		t.Fatal(err)
	}
	gone.opts.Region = "us-east-1"
	err = gone.Put(t.Context(), "o/a", nil, 0)
	if err == nil || errors.Is(err, ErrUncertain) {
		t.Errorf("nothing was sent: %v", err)
	}
}

// TestAnswerLost drops the connection after the service did what it was asked.
func TestAnswerLost(t *testing.T) {
	s, hook, count := proxied(t, func(o *S3Options) { o.Retries = 3 })
	gateway := strings.TrimPrefix(s3Config(t).Endpoint, "http://")
	lost := func(method string) act {
		done := false
		return func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || done || method == http.MethodPost && r.URL.Query().Has("uploads") {
				return false
			}
			done = true
			answerLost(t, gateway, r)
			drop()
			return true
		}
	}
	data := random(20 << 20)
	set(hook, count, lost(http.MethodPut))
	mustPut(t, s, "o/put", data[:8<<20])
	set(hook, count, lost(http.MethodPost))
	if err := s.Write(t.Context(), "o/write", bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	set(hook, count, lost(http.MethodDelete))
	if err := s.Delete(t.Context(), "o/put"); err != nil {
		t.Error(err)
	}
	hook.Store(nil)
	wantBytes(t, s, "o/write", data)

	// And the service cannot be asked what became of it.
	first := lost(http.MethodPut)
	set(hook, count, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if !first(n, w, r) {
			refuse(w, r, 403, "AccessDenied")
		}
		return true
	})
	err := s.Put(t.Context(), "o/put", data[:1000], sumOf(data[:1000]))
	wantErr(t, err, ErrUncertain)
	wantErr(t, err, driver.ErrPermission)
	hook.Store(nil)
	wantBytes(t, s, "o/put", data[:1000])
}

// damaging flips a byte of the first body that it reads.
type damaging struct {
	io.ReadCloser
	done bool
}

func (d *damaging) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if n > 0 && !d.done {
		p[n/2] ^= 1
		d.done = true
	}
	return n, err
}

func TestDamagedOnTheWay(t *testing.T) {
	s, hook, count := proxied(t, nil)
	set(hook, count, func(n int, _ http.ResponseWriter, r *http.Request) bool {
		if n == 1 || r.URL.Query().Get("partNumber") == "2" && n < 5 {
			r.Body = &damaging{ReadCloser: r.Body}
		}
		return false
	})
	data := random(40 << 20)
	mustPut(t, s, "o/a", data[:1<<20])
	wantBytes(t, s, "o/a", data[:1<<20])
	count.Store(1)
	if err := s.Write(t.Context(), "o/w", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, s, "o/w", data)
}
