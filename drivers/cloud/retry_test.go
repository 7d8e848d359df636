package cloud_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/api"
)

// openScriptedFS opens the volume of a fake server. do gets each request first and returns whether
// it has responded; the other requests are answered as by a server with one empty volume.
func openScriptedFS(t *testing.T, do func(w http.ResponseWriter, r *http.Request) bool) *vole.FS {
	t.Helper()
	const id = "0190f3c4-0000-7000-8000-000000000001"
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if do(w, r) {
			return
		}
		w.Header().Set(api.HeaderInstance, "one")
		w.Header().Set("Content-Type", "application/json")
		switch path := strings.TrimPrefix(r.URL.Path, api.Prefix); {
		case path == "/server":
			fmt.Fprintf(w, `{"api":%d,"instance":"one","org":"o","scopes":["admin"],"caps":{"backend":"bucket","kinds":["dir"]}}`, api.Version)
		case path == "/cancel":
			fmt.Fprint(w, `{"done":false}`)
		case path == "/sessions":
			fmt.Fprint(w, `{"id":"s","lease_seconds":30}`)
		case strings.HasSuffix(path, "/filesystems"):
			fmt.Fprint(w, `{"id":"f"}`)
		case strings.HasSuffix(path, "/handles"):
			fmt.Fprint(w, `{"id":"h","entry":{"name":"x","type":"file","mode":"0644","inode":7}}`)
		case r.Method == "DELETE", strings.HasPrefix(path, "/handles/") && r.Method != "GET":
			w.WriteHeader(http.StatusNoContent)
		default:
			fmt.Fprintf(w, `{"id":%q,"name":"v","kind":"dir","state":"ready"}`, id)
		}
	}))
	t.Cleanup(hs.Close)
	b, err := cloud.Open(context.Background(), cloud.Options{URL: hs.URL, Key: "k", Patience: 3 * time.Second})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = b.Close() })
	v, err := vole.New(b).Get(context.Background(), "v")
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func writeRefusal(w http.ResponseWriter, status int, code string) {
	w.Header().Set(api.HeaderInstance, "one")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":"not now"}}`, code)
}

// A stream gives its bytes once. If the server refuses it when some have gone out, what is
// left must not be stored as the file.
func TestStreamRefusedWhenBegun(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		var mu sync.Mutex
		var got []int
		f := openScriptedFS(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != "PUT" || !strings.HasSuffix(r.URL.Path, "/content") {
				return false
			}
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, len(b)); len(got) == 1 {
				code := "rate_limited"
				if status == http.StatusServiceUnavailable {
					code = "unavailable"
				}
				writeRefusal(w, status, code)
				return true
			}
			w.Header().Set(api.HeaderInstance, "one")
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"size":%d}`, len(b))
			return true
		})
		ctx := context.Background()
		n, err := f.WriteFrom(ctx, "big", io.MultiReader(bytes.NewReader(make([]byte, 3<<20))), vole.WriteOptions{})
		if err == nil && n != 3<<20 || len(got) > 1 {
			t.Errorf("status %d: wrote %d, %v; the server got %v", status, n, err, got)
		}
	}
}

// net/http makes requests again by itself that have an Idempotency-Key. One whose answer was
// lost may only go to the process that had it, which If-Instance sees to.
func TestLostAnswerGoesToSameInstance(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	f := openScriptedFS(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/rename") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if asked = append(asked, r.Header.Get(api.HeaderIfInstance)); r.Header.Get(api.HeaderIdempotencyKey) == "" {
			t.Error("no idempotency key")
		}
		if len(asked) == 1 {
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = c.Close()
			}
			return true
		}
		writeRefusal(w, http.StatusConflict, "outcome_unknown")
		return true
	})
	ctx := context.Background()
	err := f.Rename(ctx, "a", "b", vole.RenameOptions{})
	if len(asked) != 2 || asked[0] != "" || asked[1] != "one" || driver.Classify(err).Err != driver.ErrUnavailable {
		t.Errorf("asked for the instances %q, %v", asked, err)
	}
}
