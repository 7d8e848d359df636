package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/server"
)

// benchServer measures a server of a local home beside a bare one of net/http: its file
// server for reads, and a handler that replaces files as durably for writes. Both answer
// the same client over the same protocol.
func benchServer(e *env) error {
	b, err := newServerBench(e)
	if err != nil {
		return err
	}
	for _, c := range []int{1, 16, 128} {
		n := e.sizeFor(200, 50) * min(c, 16)
		for _, k := range []struct {
			what        string
			n           int
			vole, floor func(client int) error
		}{
			{"read of 4 KiB", 5 * n, b.getCall(b.vole("content", "small")), b.getCall(b.plain + "/small")},
			{"stat", 5 * n, b.getCall(b.vole("stat", "small")), b.headCall(b.plain + "/small")},
			{"write of 4 KiB", n, b.putCall(func(i int) string { return b.vole("content", fmt.Sprint("w", i)) }), b.putCall(func(i int) string { return fmt.Sprint(b.plain, "/w", i) })},
		} {
			if err := b.addRow(c, k.n, k.what, k.vole, k.floor); err != nil {
				return err
			}
		}
	}
	return nil
}

// serverBench is the two servers and their client.
type serverBench struct {
	e          *env
	client     *http.Client
	url, plain string // of the volume, of the bare server
	key        string
}

func newServerBench(e *env) (*serverBench, error) {
	home, err := os.MkdirTemp(e.dir, "served-")
	if err != nil {
		return nil, err
	}
	s, err := server.New(e.ctx, server.Options{Home: home})
	if err != nil {
		return nil, err
	}
	e.atEnd(s.Close)
	b := &serverBench{e: e, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}}
	if b.key, err = s.FirstKey(e.ctx); err != nil {
		return nil, err
	}
	base, err := b.listen(func(ctx context.Context, ln net.Listener) error { return s.Serve(ctx, ln, time.Second) })
	if err != nil {
		return nil, err
	}
	b.url = base + "/vole/v1/volumes/"
	req, err := http.NewRequestWithContext(e.ctx, "POST", base+"/vole/v1/volumes", bytes.NewReader([]byte(`{"name":"bench"}`)))
	if err != nil {
		return nil, err
	}
	if err := b.doRequest(req, nil); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(e.dir, "bare-")
	if err != nil {
		return nil, err
	}
	if b.plain, err = b.listen(func(ctx context.Context, ln net.Listener) error {
		hs := &http.Server{Handler: plainFileServer(dir)}
		context.AfterFunc(ctx, func() { _ = hs.Close() })
		return hs.Serve(ln)
	}); err != nil {
		return nil, err
	}
	for _, to := range []string{b.vole("content", "small"), b.plain + "/small"} {
		if err := b.putCall(func(int) string { return to })(0); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// plainFileServer serves a directory, and takes files as durably as Vole does.
func plainFileServer(dir string) http.Handler {
	get := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			get.ServeHTTP(w, r)
			return
		}
		err := writeAtomic(filepath.Join(dir, filepath.Base(r.URL.Path)), func(f *os.File) error { return plainCopy(f, r.Body) })
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// listen serves until the end of the run.
func (b *serverBench) listen(serve func(ctx context.Context, ln net.Listener) error) (url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	b.e.atEnd(func() error {
		b.client.CloseIdleConnections()
		stop()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return "http://" + ln.Addr().String(), nil
}

func (b *serverBench) vole(route, path string) string {
	return b.url + "bench/" + route + "?path=" + url.QueryEscape(path)
}

func (b *serverBench) doRequest(req *http.Request, to io.Writer) error {
	req.Header.Set("Authorization", "Bearer "+b.key)
	res, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if to == nil {
		to = io.Discard
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{res.Body}, make([]byte, min(chunk, max(512, res.ContentLength))))
	if res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s", req.Method, req.URL, res.Status)
	}
	return err
}

func (b *serverBench) request(method, url string, body io.Reader, size int64) error {
	req, err := http.NewRequestWithContext(b.e.ctx, method, url, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	return b.doRequest(req, nil)
}

func (b *serverBench) getCall(url string) func(int) error {
	return func(int) error { return b.request("GET", url, nil, 0) }
}

func (b *serverBench) headCall(url string) func(int) error {
	return func(int) error { return b.request("HEAD", url, nil, 0) }
}

func (b *serverBench) putCall(url func(client int) string) func(int) error {
	return func(i int) error { return b.request("PUT", url(i), bytes.NewReader(small), int64(len(small))) }
}

// addRow measures how many requests so many clients get answered in a second, and how long
// the slowest in a hundred take.
func (b *serverBench) addRow(clients, n int, what string, vole, floor func(client int) error) error {
	var vs, fs []time.Duration
	side := func(late *[]time.Duration, fn func(int) error) func(n int) (time.Duration, error) {
		return func(n int) (time.Duration, error) {
			var left atomic.Int64
			left.Store(int64(n))
			var mu sync.Mutex
			start := time.Now()
			err := parallel(clients, func(i int) error {
				var took []time.Duration
				for left.Add(-1) >= 0 {
					at := time.Now()
					if err := fn(i); err != nil {
						return err
					}
					took = append(took, time.Since(at))
				}
				mu.Lock()
				defer mu.Unlock()
				*late = append(*late, took...)
				return nil
			})
			return time.Since(start), err
		}
	}
	v, f, err := b.e.measureInTurns(n, side(&vs, vole), side(&fs, floor))
	if err != nil {
		return err
	}
	r := b.e.addRate(fmt.Sprintf("server: %s, %d clients, beside net/http", what, clients), "/s", 1/v.Seconds(), 1/f.Seconds(), 0.5)
	r.Note = fmt.Sprintf("p99 %v, floor %v", p99(vs), p99(fs))
	return nil
}

func p99(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)*99/100].Round(10 * time.Microsecond)
}

// benchServerBig measures one large file each way.
func benchServerBig(e *env) error {
	b, err := newServerBench(e)
	if err != nil {
		return err
	}
	size := int64(b.e.sizeFor(256<<20, 32<<20))
	put := func(url string) side {
		return singleCalls(func() error { return b.request("PUT", url, newPattern(size), size) })
	}
	get := func(url string) side { return singleCalls(func() error { return b.request("GET", url, nil, 0) }) }
	d, err := b.e.measureInRotation(1, put(b.vole("content", "big")), put(b.plain+"/big"), get(b.vole("content", "big")), get(b.plain+"/big"))
	if err != nil {
		return err
	}
	b.e.addStream(fmt.Sprintf("server: write of %d MiB, beside net/http", size>>20), size, d[0], d[1], 0.8)
	b.e.addStream(fmt.Sprintf("server: read of %d MiB, beside net/http", size>>20), size, d[2], d[3], 0.8)
	return nil
}
