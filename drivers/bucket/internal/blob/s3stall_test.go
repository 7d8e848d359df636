package blob

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

// cut is a response that ends after so many bytes, or hangs there until the test ends.
type cut struct {
	http.ResponseWriter
	left int
	hang chan struct{}
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		if c.hang == nil {
			drop()
		}
		<-c.hang
		drop()
	}
	return n, err
}

func TestHalfBodies(t *testing.T) {
	for _, name := range []string{"cut", "hang"} {
		t.Run(name, func(t *testing.T) {
			s, hook, count := proxied(t, func(o *S3Options) { o.Retries, o.StallTimeout = 2, 300*time.Millisecond })
			data := random(1 << 20)
			var hang chan struct{}
			if name == "hang" {
				hang = make(chan struct{})
				t.Cleanup(func() { close(hang) })
			}
			// More cuts than retries: what counts is that it goes on.
			set(hook, count, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n < 6 {
					w = &cut{w, 150_000, hang}
				}
				http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(data))
				return true
			})
			p := make([]byte, 900_000)
			if err := s.ReadAt(t.Context(), "o/a", p, 100_000); err != nil || !bytes.Equal(p, data[100_000:1_000_000]) {
				t.Fatal(err)
			}
			count.Store(0)
			wantBytes(t, s, "o/a", data)
			if n := count.Load(); n < 6 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestHangs has a service that takes a request and says nothing.
func TestHangs(t *testing.T) {
	s, hook, count := proxied(t, func(o *S3Options) {
		o.Retries, o.HeaderTimeout, o.StallTimeout = 1, 300*time.Millisecond, 300*time.Millisecond
	})
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	set(hook, count, func(int, http.ResponseWriter, *http.Request) bool { <-release; return false })
	start := time.Now()
	err := s.ReadAt(t.Context(), "o/a", make([]byte, 1), 0)
	wantErr(t, err, errStalled)
	// More than the buffers between take, so that the upload itself stands still.
	data := make([]byte, 64<<20)
	err = s.Put(t.Context(), "o/a", data, sumOf(data))
	wantErr(t, err, errStalled)
	wantErr(t, err, ErrUncertain)
	if d := time.Since(start); d > time.Minute {
		t.Errorf("that took %v", d)
	}
}

// TestSlowIsNoHang reads and writes for longer than any single wait may last.
func TestSlowIsNoHang(t *testing.T) {
	s, hook, count := proxied(t, func(o *S3Options) {
		o.Retries, o.HeaderTimeout, o.StallTimeout = -1, 500*time.Millisecond, 500*time.Millisecond
	})
	data := random(32 << 20)
	set(hook, count, func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		r.Body = struct {
			io.Reader
			io.Closer
		}{&slowly{r: r.Body}, r.Body}
		return false
	})
	start := time.Now()
	mustPut(t, s, "o/a", data)
	if time.Since(start) < time.Second {
		t.Error("the upload was not slow")
	}
	set(hook, count, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		for off := 0; off < 100; off += 10 {
			if off == 0 {
				w.Header().Set("Content-Length", "100")
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			}
			w.Write(data[off : off+10])
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		return true
	})
	p := make([]byte, 100)
	if err := s.ReadAt(t.Context(), "o/a", p, 0); err != nil || !bytes.Equal(p, data[:100]) {
		t.Error(err)
	}
}

// slowly takes a second and a half for 32 MiB.
type slowly struct{ r io.Reader }

func (s *slowly) Read(p []byte) (int, error) {
	n, err := io.ReadFull(s.r, p[:min(len(p), 32<<10)])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	time.Sleep(1500 * time.Microsecond)
	return n, err
}

// TestRangesThatLie has a service that answers a range with something else.
func TestRangesThatLie(t *testing.T) {
	var contentRange string
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		if contentRange != "" {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(body)
	}))
	t.Cleanup(server.Close)
	s, err := newS3Store(S3Options{Endpoint: server.URL, Bucket: "bucket", Region: "r", AccessKey: "a", SecretKey: "s", Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		contentRange string
		body         int
		kind         error
	}{
		{"", 100, driver.ErrUnsupported},
		{"bytes 0-9/100", 10, nil},
		{"bytes 10-29/100", 20, nil},
		{"bytes 10-14/15", 5, driver.ErrCorrupt},
		{"nonsense", 10, nil},
	} {
		contentRange, body = test.contentRange, make([]byte, test.body)
		err := s.ReadAt(t.Context(), "o/a", make([]byte, 10), 10)
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) {
			t.Errorf("%q: %v", test.contentRange, err)
		}
	}
}

func TestListGoesOn(t *testing.T) {
	s, hook, count := proxied(t, nil)
	n := 0
	for i := range 9 {
		mustPut(t, s, "o/"+string(rune('a'+i)), nil)
	}
	set(hook, count, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n%2 == 0 {
			drop()
		}
		return false
	})
	last := ""
	for info, err := range s.listPages(t.Context(), "", 2) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Key <= last {
			t.Errorf("%s after %s", info.Key, last)
		}
		last = info.Key
		n++
	}
	if n != 9 {
		t.Errorf("%d objects", n)
	}
}
