package cloud_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

const hostileID = "0192f0c1-7c1e-7d7e-9d8e-000000000001"

// fakeServer is a server with one handler for each path below api.Prefix.
type fakeServer map[string]func(w http.ResponseWriter, r *http.Request)

// respondJSON returns a handler that responds with body, as JSON, which it need not be.
func respondJSON(body string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
}

var wellBehavedServer = fakeServer{
	"/server":                 respondJSON(`{"api":2,"caps":{"backend":"local","dir":true},"instance":"i","key":"k","key_name":"n","org":"o","scopes":["write"],"version":"1"}`),
	"/volumes/" + hostileID:   respondJSON(`{"id":"` + hostileID + `","name":"v","kind":"dir","labels":{},"state":"ready","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z","used":0,"used_stale":false}`),
	"/sessions":               respondJSON(`{"id":"s","lease_seconds":60}`),
	"/sessions/s":             respondJSON(`{}`),
	"/sessions/s/filesystems": respondJSON(`{"id":"f"}`),
	"/filesystems/f/handles":  respondJSON(`{"id":"h","entry":{"name":"f","type":"file","inode":1,"nlink":1,"size":5,"uid":0,"gid":0,"mode":"0644","allocated":0}}`),
	"/handles/h":              respondJSON(`{}`),
}

// with returns the server with one answer replaced.
func (h fakeServer) with(path string, answer func(w http.ResponseWriter, r *http.Request)) fakeServer {
	out := fakeServer{path: answer}
	for k, v := range h {
		if k != path {
			out[k] = v
		}
	}
	return out
}

func (h fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.HeaderInstance, "i")
	if answer, ok := h[strings.TrimPrefix(r.URL.Path, api.Prefix)]; ok {
		answer(w, r)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func openHostile(t *testing.T, h http.Handler) (*cloud.Backend, driver.FS) {
	t.Helper()
	hs := httptest.NewServer(h)
	t.Cleanup(hs.Close)
	b, err := cloud.Open(t.Context(), cloud.Options{URL: hs.URL, Key: "k", Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	f, err := b.OpenFS(t.Context(), hostileID, driver.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return b, f
}

// readWholeDir reads a directory to its end.
func readWholeDir(t *testing.T, f driver.FS, opts driver.DirOptions) error {
	d, err := f.OpenDir(t.Context(), "d", opts)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		if _, err = d.Read(t.Context(), 100); err != nil {
			return err
		}
	}
}

func entryJSON(name string) string {
	quoted, _ := json.Marshal(name)
	return fmt.Sprintf(`{"name":%s,"type":"file","inode":1,"nlink":1,"size":0,"uid":0,"gid":0,"mode":"0644","allocated":0}`, quoted)
}

// No name of an entry that means another place gets past the backend.
func TestHostileNames(t *testing.T) {
	page := func(entry string) string { return `{"entries":[` + entry + `]}` }
	good := entryJSON("good")
	for what, body := range map[string]string{
		"up": page(entryJSON("..")), "here": page(entryJSON(".")), "empty": page(entryJSON("")), "up and away": page(entryJSON("../x")),
		"absolute": page(entryJSON("/etc")), "two elements": page(entryJSON("a/b")), "NUL": page(entryJSON("a\x00b")),
		"long":         page(entryJSON(strings.Repeat("n", 256))),
		"in bytes":     page(strings.Replace(good, `"name":"good"`, `"name":"good","name_bytes":"Li4="`, 1)),
		"no bytes":     page(strings.Replace(good, `"name":"good"`, `"name":"good","name_bytes":""`, 1)),
		"twice":        page(good + "," + good),
		"backwards":    page(entryJSON("b") + "," + entryJSON("a")),
		"unknown type": page(strings.Replace(good, `"file"`, `"door"`, 1)),
		"owner":        page(strings.Replace(good, `"uid":0`, `"uid":-1`, 1)),
		"large owner":  page(strings.Replace(good, `"gid":0`, `"gid":4294967296`, 1)),
		"size":         page(strings.Replace(good, `"size":0`, `"size":-1`, 1)),
		"links":        page(strings.Replace(good, `"nlink":1`, `"nlink":-1`, 1)),
		"mode":         page(strings.Replace(good, `"mode":"0644"`, `"mode":"177777"`, 1)),
		"too many":     page(strings.Repeat(good+",", api.MaxPageLen) + good),
		"cursor":       `{"entries":[` + good + `],"next":"a\u001b[31mb"}`,
		"no advance":   `{"entries":[],"next":"x"}`,
	} {
		_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/entries", respondJSON(body)))
		if err := readWholeDir(t, f, driver.DirOptions{Sorted: true}); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/entries", respondJSON(page(good))))
	if err := readWholeDir(t, f, driver.DirOptions{Sorted: true}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// A listing that repeats itself ends, sorted or not, and whatever its cursors are.
func TestHostileListingEnds(t *testing.T) {
	var n atomic.Int64
	for what, c := range map[string]struct {
		cursor func(n int64) int64
		sorted bool
	}{
		"one cursor":  {func(int64) int64 { return 1 }, false},
		"two cursors": {func(n int64) int64 { return n % 2 }, false},
		"new cursors": {func(n int64) int64 { return n }, true},
	} {
		_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/entries", func(w http.ResponseWriter, r *http.Request) {
			respondJSON(fmt.Sprintf(`{"entries":[%s],"next":"c%d"}`, entryJSON("x"), c.cursor(n.Add(1))))(w, r)
		}))
		if err := readWholeDir(t, f, driver.DirOptions{Sorted: c.sorted}); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	b, _ := openHostile(t, wellBehavedServer.with("/volumes", respondJSON(`{"volumes":[],"next":"c"}`)).with("/audit", respondJSON(`{"records":[],"next":"c"}`)))
	if _, err := b.List(t.Context(), driver.Filter{Cursor: "c"}); !errors.Is(err, driver.ErrCorrupt) {
		t.Error(err)
	}
	if _, err := b.Audit(t.Context(), "c", 10); !errors.Is(err, driver.ErrCorrupt) {
		t.Error(err)
	}
}

// An answer without end, and a small one that decodes to gigabytes, are refused in bounded
// memory.
func TestHostileSizes(t *testing.T) {
	repeat := func(begin, part string, most int) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, begin)
			block := strings.Repeat(part, 64<<10/len(part))
			for sent := 0; sent < most; sent += len(block) {
				if _, err := io.WriteString(w, block); err != nil {
					return
				}
			}
		}
	}
	for what, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"objects": repeat(`{"entries":[`, `{},`, 8<<20), "arrays": repeat(`{"entries":`, `[`, 8<<20), "labels": repeat(`{"entries":[{"x":{`, `"a":"",`, 14<<20),
		"text": repeat(`{"next":"`, `x`, 1<<30), "blanks": repeat(``, ` `, 1<<30),
	} {
		_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/entries", answer))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := readWholeDir(t, f, driver.DirOptions{})
		runtime.ReadMemStats(&after)
		if !errors.Is(err, driver.ErrUnavailable) || after.TotalAlloc-before.TotalAlloc > 192<<20 {
			t.Errorf("%s: %v, %d MiB were allocated", what, err, (after.TotalAlloc-before.TotalAlloc)>>20)
		}
	}
}

// A session's id, lease and address are checked before they are used: above all no
// address gets the key that lies elsewhere and has no TLS.
func TestHostileSession(t *testing.T) {
	for what, body := range map[string]string{
		"elsewhere":      `{"id":"s","lease_seconds":60,"url":"http://192.0.2.1:80"}`,
		"a name":         `{"id":"s","lease_seconds":60,"url":"http://localhost.example"}`,
		"a user":         `{"id":"s","lease_seconds":60,"url":"http://u:p@127.0.0.1"}`,
		"a query":        `{"id":"s","lease_seconds":60,"url":"http://127.0.0.1?x"}`,
		"another scheme": `{"id":"s","lease_seconds":60,"url":"file:///etc"}`,
		"no host":        `{"id":"s","lease_seconds":60,"url":"http://:80"}`,
		"id":             `{"id":"../keys","lease_seconds":60}`,
		"no id":          `{"lease_seconds":60}`,
		"no lease":       `{"id":"s"}`,
		"short lease":    `{"id":"s","lease_seconds":1e-9}`,
		"negative lease": `{"id":"s","lease_seconds":-1}`,
	} {
		b, _ := openHostile(t, wellBehavedServer.with("/sessions", respondJSON(body)))
		_, err := b.Attach(t.Context(), hostileID, driver.AttachOptions{Holder: "h"})
		if !errors.Is(err, driver.ErrUnsupported) && !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	b, _ := openHostile(t, wellBehavedServer.with("/sessions", respondJSON(`{"id":"s","lease_seconds":1e300}`)))
	if _, err := b.Attach(t.Context(), hostileID, driver.AttachOptions{Holder: "h"}); errors.Is(err, driver.ErrCorrupt) || errors.Is(err, driver.ErrUnsupported) {
		t.Error(err)
	}
}

// Ranges of data, links and attributes that cannot be are refused.
func TestHostileFiles(t *testing.T) {
	for what, body := range map[string]string{
		"nothing": `{"start":0,"end":0}`, "backwards": `{"start":9,"end":3}`, "negative": `{"start":-9,"end":30}`, "before": `{"start":1,"end":4}`,
	} {
		_, f := openHostile(t, wellBehavedServer.with("/handles/h/extent", respondJSON(body)))
		h, err := f.Open(t.Context(), "f", driver.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.NextData(t.Context(), 4); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, target := range map[string]string{"empty": "", "NUL": "a\x00b", "long": strings.Repeat("x", driver.MaxPathLen+1)} {
		_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/readlink", respondJSON(target)))
		if _, err := f.Readlink(t.Context(), "l"); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("link %s: %v", what, err)
		}
	}
	_, long := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/xattr", respondJSON(strings.Repeat("x", driver.MaxXattrLen+1))))
	if value, err := long.Getxattr(t.Context(), "f", "user.a"); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("a value that is too long: %d bytes, %v", len(value), err)
	}
	for what, body := range map[string]string{"empty": `{"names":[""]}`, "NUL": `{"names":["user.\u0000"]}`, "long": `{"names":["` + strings.Repeat("x", 300) + `"]}`} {
		_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/xattrs", respondJSON(body)))
		if _, err := f.Listxattr(t.Context(), "f"); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("attribute %s: %v", what, err)
		}
	}
	_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/stat", respondJSON(entryJSON("../../x"))))
	if e, err := f.Lstat(t.Context(), "d/f"); err != nil || e.Name != "f" {
		t.Errorf("%q, %v", e.Name, err)
	}
}

// What a server says in errors reaches no terminal as it is.
func TestHostileErrors(t *testing.T) {
	evil := "\x1b]0;x\x07\u009b31m\u202e\r\n"
	quoted, _ := json.Marshal(evil)
	b, _ := openHostile(t, wellBehavedServer.with("/keys", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, `{"error":{"code":"internal","message":%s,"request_id":%s}}`, quoted, quoted)
	}))
	_, err := b.Keys(t.Context())
	if err == nil || err.Error() != api.PlainText(err.Error()) {
		t.Errorf("%q", err)
	}
}

// A server that switches protocols, which no request asks for, gets no connection to hold:
// a read of one is ended neither by a context nor by the watch for silence.
func TestHostileSwitch(t *testing.T) {
	hijacked := make(chan struct{})
	t.Cleanup(func() { close(hijacked) })
	switches := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nVole-Instance: i\r\nContent-Type: application/json\r\n\r\n")
		<-hijacked
	}
	errs := make(chan error, 1)
	_, f := openHostile(t, wellBehavedServer.with("/volumes/"+hostileID+"/entries", switches))
	go func() { errs <- readWholeDir(t, f, driver.DirOptions{}) }()
	select {
	case err := <-errs:
		if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "101") {
			t.Errorf("%v, want ErrUnavailable for HTTP 101", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the client waits for a connection that is no HTTP any more")
	}
}

// Closing many things at a silent server waits in full for the first one only.
func TestSilentClose(t *testing.T) {
	var asked atomic.Int32
	silent := func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}
	b, f := openHostile(t, wellBehavedServer.with("/handles/h", silent).with("/sessions/s", silent).with("/filesystems/f", silent))
	const files, wait = 30, time.Second
	for range files {
		if _, err := f.Open(t.Context(), "f", driver.OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	b.SetCloseWait(wait)
	begun := time.Now()
	if err := b.Close(); err == nil {
		t.Error("no error")
	}
	// On a busy machine some requests are given up, after a 30th of wait, before they arrive.
	if took := time.Since(begun); asked.Load() <= files/2 || took > 15*wait {
		t.Errorf("%d requests, %v", asked.Load(), took)
	}
}

// A server that accepts a request and stays silent, or stops in the middle of a response, does
// not block the client for ever.
func TestSilentServer(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	stall := func(begin string) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if begin != "" {
				_, _ = io.WriteString(w, begin)
				w.(http.Flusher).Flush()
			}
			select {
			case <-done:
			case <-r.Context().Done():
			}
		}
	}
	for what, begin := range map[string]string{"nothing": "", "a part": `{"keys":[`} {
		b, f := openHostile(t, wellBehavedServer.with("/keys", stall(begin)).with("/events", stall(": \n")).with("/volumes/"+hostileID+"/readlink", stall(begin)))
		b.SetSilence(50 * time.Millisecond)
		if _, err := b.Keys(t.Context()); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := f.Readlink(t.Context(), "l"); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if err := b.Watch(t.Context(), "", func(api.Event) error { return nil }); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Content that ends where the connection ends may be truncated: it is refused.
func TestBlindEnd(t *testing.T) {
	for head, good := range map[string]bool{"HTTP/1.0 200 OK\r\n": false, "HTTP/1.1 200 OK\r\nConnection: close\r\n": false, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n": true} {
		_, f := openHostile(t, wellBehavedServer.with("/handles/h/data", func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, head+api.HeaderInstance+": i\r\nContent-Type: "+api.TypeBytes+"\r\n\r\n12345")
		}))
		h, err := f.Open(t.Context(), "f", driver.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := h.ReadAt(t.Context(), make([]byte, 5), 0)
		if good != (err == nil && n == 5) || !good && !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%q: %d, %v", head, n, err)
		}
	}
}

// A proxy that answers a page of its own must not be taken for the server.
func TestAnswerOfAnother(t *testing.T) {
	var mu sync.Mutex
	away := false
	f := openScriptedFS(t, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if away {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>down for maintenance</html>")
		}
		return away
	})
	ctx := context.Background()
	h, err := f.Open(ctx, "x", vole.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	away = true
	mu.Unlock()
	b := make([]byte, 64)
	if n, err := h.ReadAt(ctx, b, 0); driver.Classify(err).Err != driver.ErrUnavailable {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if _, err := h.WriteAt(ctx, []byte("x"), 0); driver.Classify(err).Err != driver.ErrUnavailable {
		t.Errorf("write: %v", err)
	}
	if err := f.Mkdir(ctx, "d", 0o755); driver.Classify(err).Err != driver.ErrUnavailable {
		t.Errorf("mkdir: %v", err)
	}
	mu.Lock()
	away = false
	mu.Unlock()
}
