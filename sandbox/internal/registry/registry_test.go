package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	server "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/volehq/vole"
)

// host is a registry on this host whose answers a test may change.
type host struct {
	t    *testing.T
	addr string
	hits sync.Map // path of a GET: *atomic.Int64

	answer atomic.Pointer[answer]
}

// answer takes the place of the registry's when it returns true.
type answer func(w http.ResponseWriter, r *http.Request) bool

// setAnswer changes what the requests from now on get. Requests that were
// given up may still run.
func (h *host) setAnswer(a answer) { h.answer.Store(&a) }

func newHost(t *testing.T) *host {
	t.Helper()
	t.Setenv("HOME", t.TempDir()) // no logins but those of the test
	t.Setenv("DOCKER_CONFIG", "")
	inner := server.New(server.Logger(log.New(io.Discard, "", 0)))
	h := &host{t: t}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			n, _ := h.hits.LoadOrStore(r.URL.Path, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		if a := h.answer.Load(); a == nil || *a == nil || !(*a)(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	h.addr = strings.TrimPrefix(s.URL, "http://")
	return h
}

// requests counts those of paths that contain something.
func (h *host) requests(part string) (n int64) {
	h.hits.Range(func(path, count any) bool {
		if strings.Contains(path.(string), part) {
			n += count.(*atomic.Int64).Load()
		}
		return true
	})
	return n
}

func (h *host) ref(s string) Reference {
	h.t.Helper()
	ref, err := ParseReference(h.addr + "/" + s)
	if err != nil {
		h.t.Fatal(err)
	}
	return ref
}

// push stores an image, or an index, under a tag.
func (h *host) push(tag string, what remote.Taggable) {
	h.t.Helper()
	ref, err := name.ParseReference(h.addr + "/" + tag)
	if err != nil {
		h.t.Fatal(err)
	}
	if index, ok := what.(v1.ImageIndex); ok {
		err = remote.WriteIndex(ref, index)
	} else {
		err = remote.Write(ref, what.(v1.Image))
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func randomImage(t *testing.T, size, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func newCache(t *testing.T, max int64) *Cache {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCache(root, max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.pause = 0
	return c
}

// files lists the blobs of a cache, and what else is there and should not be.
func (c *Cache) files(t *testing.T) (list []string) {
	t.Helper()
	err := fs.WalkDir(c.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasPrefix(p, "blobs/") || strings.HasPrefix(p, tempDir)) {
			list = append(list, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (c *Cache) ensure(t *testing.T, ref Reference, policy Policy) string {
	t.Helper()
	img, err := c.Ensure(t.Context(), ref, policy, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Release(); err != nil {
		t.Fatal(err)
	}
	return img.Digest
}

func TestPolicies(t *testing.T) {
	h := newHost(t)
	c := newCache(t, DefaultMax)
	first, second := randomImage(t, 1000, 3), randomImage(t, 1000, 2)
	h.push("a/b:1", first)
	if _, err := c.Ensure(t.Context(), h.ref("a/b:1"), Never, nil); !errors.Is(err, vole.ErrNoSuch) {
		t.Errorf("never: %v, want ErrNoSuch", err)
	}
	if got := c.ensure(t, h.ref("a/b:1"), Missing); got != digestOf(t, first) {
		t.Errorf("missing: %s, want %s", got, digestOf(t, first))
	}
	if list := c.files(t); len(list) != 5 {
		t.Errorf("the cache has %v", list)
	}
	asked := h.requests("/v2/")
	for _, p := range []Policy{Missing, Never} {
		if got := c.ensure(t, h.ref("a/b:1"), p); got != digestOf(t, first) || h.requests("/v2/") != asked {
			t.Errorf("%s: %s, after %d requests more", p, got, h.requests("/v2/")-asked)
		}
	}
	h.push("a/b:1", second)
	if got := c.ensure(t, h.ref("a/b:1"), Always); got != digestOf(t, second) {
		t.Errorf("always: %s, want %s", got, digestOf(t, second))
	}
	blobs := h.requests("/blobs/")
	if got := c.ensure(t, h.ref("a/b:1"), Always); got != digestOf(t, second) || h.requests("/blobs/") != blobs {
		t.Errorf("always, unchanged: %s, %d blobs more", got, h.requests("/blobs/")-blobs)
	}
	// By digest it is found whatever it was called.
	if got := c.ensure(t, h.ref("other@"+digestOf(t, second)), Never); got != digestOf(t, second) {
		t.Errorf("by digest: %s", got)
	}
	if _, err := c.Ensure(t.Context(), h.ref("a/b:nosuch"), Missing, nil); !errors.Is(err, vole.ErrNoSuch) || !strings.Contains(err.Error(), "a/b:nosuch") {
		t.Errorf("no such tag: %v", err)
	}
}

func TestIndex(t *testing.T) {
	h := newHost(t)
	c := newCache(t, DefaultMax)
	mine, other := randomImage(t, 1000, 1), randomImage(t, 1000, 1)
	platform := func(os, arch string) v1.Descriptor {
		return v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}
	}
	inner := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other, Descriptor: platform("plan9", runtime.GOARCH)},
		mutate.IndexAddendum{Add: mine, Descriptor: platform("linux", runtime.GOARCH)})
	h.push("multi:1", inner)
	h.push("nested:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner}))
	h.push("foreign:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other, Descriptor: platform("plan9", "386")}))
	for _, ref := range []string{"multi:1", "nested:1", "multi@" + digestOf(t, inner)} {
		if got := c.ensure(t, h.ref(ref), Missing); got != digestOf(t, mine) {
			t.Errorf("%s: %s, want %s", ref, got, digestOf(t, mine))
		}
	}
	if list := c.files(t); len(list) != 3 {
		t.Errorf("the cache has %v", list)
	}
	if _, err := c.Ensure(t.Context(), h.ref("foreign:1"), Missing, nil); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("of another platform: %v, want ErrUnsupported", err)
	}
}

// Whatever a registry sends, what is kept has the size and digest that were stated.
func TestHostileRegistry(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 5000, 1)
	h.push("x:1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	manifest := func(change func(m *v1.Manifest)) func(w http.ResponseWriter, r *http.Request) bool {
		m := m.DeepCopy()
		change(m)
		return serve("/manifests/", string(types.DockerManifestSchema2), []byte(mustJSON(t, m)))
	}
	layer := func(body []byte) func(w http.ResponseWriter, r *http.Request) bool {
		return serve("/blobs/"+m.Layers[0].Digest.String(), "application/octet-stream", body)
	}
	size := int(m.Layers[0].Size)
	manyLayers := func(m *v1.Manifest) { m.Layers = slices.Repeat(m.Layers, 1025) }
	for what, tt := range map[string]struct {
		answer answer
		want   error
	}{
		"an endless manifest":     {endless("/manifests/"), vole.ErrCorrupt},
		"a manifest of commas":    {serve("/manifests/", "x", bytes.Repeat([]byte(","), 1<<20)), vole.ErrCorrupt},
		"a manifest that is none": {serve("/manifests/", "x", []byte("<html>")), vole.ErrCorrupt},
		"no configuration":        {serve("/manifests/", "x", []byte("{}")), vole.ErrCorrupt},
		"the first form":          {serve("/manifests/", string(types.DockerManifestSchema1), []byte("{}")), vole.ErrUnsupported},
		"image and index at once": {serve("/manifests/", "x", []byte(strings.Replace(mustJSON(t, m), "{", `{"manifests":[],`, 1))), vole.ErrCorrupt},
		"an index in itself":      {serve("/manifests/", string(types.OCIImageIndex), []byte(`{"manifests":[{"digest":"`+digestOf(t, img)+`","size":1}]}`)), nil},
		"no image":                {manifest(func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), vole.ErrUnsupported},
		"many layers":             {manifest(manyLayers), vole.ErrUnsupported},
		"a size beyond all":       {manifest(func(m *v1.Manifest) { m.Layers[0].Size = 1<<63 - 1 }), vole.ErrCorrupt},
		"a size below nothing":    {manifest(func(m *v1.Manifest) { m.Layers[0].Size = -1 }), vole.ErrCorrupt},
		"more than the cache has": {manifest(func(m *v1.Manifest) { m.Layers[0].Size = 1 << 39 }), vole.ErrNoSpace},
		"a huge configuration":    {manifest(func(m *v1.Manifest) { m.Config.Size = 1 << 30 }), vole.ErrCorrupt},
		"a size too small":        {manifest(func(m *v1.Manifest) { m.Layers[0].Size-- }), vole.ErrCorrupt},
		"a size too large":        {manifest(func(m *v1.Manifest) { m.Layers[0].Size++ }), nil},
		"other content":           {layer(bytes.Repeat([]byte("x"), size)), vole.ErrCorrupt},
		"less content":            {layer([]byte("x")), nil},
		"an endless layer":        {endless("/blobs/"), nil},
		"no layer":                {missing("/blobs/" + m.Layers[0].Digest.String()), vole.ErrNoSuch},
		"a path as a digest":      {serve("/manifests/", "x", []byte(strings.Replace(mustJSON(t, m), m.Layers[0].Digest.String(), "sha256:../../../../x", 1))), vole.ErrCorrupt},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCache(t, DefaultMax)
			h.setAnswer(tt.answer)
			defer h.setAnswer(nil)
			_, err := c.Ensure(t.Context(), h.ref("x:1"), Missing, nil)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			for _, f := range c.files(t) { // perhaps the one that was right
				if strings.HasPrefix(f, tempDir) || strings.Contains(f, m.Layers[0].Digest.Hex) && what != "no image" {
					t.Errorf("%s is in the cache", f)
				}
			}
			if list := c.readIndex().Manifests; len(list) > 0 {
				t.Errorf("the index names %v", list)
			}
		})
	}
}

func serve(part, mediaType string, body []byte) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
			return false
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body)
		return true
	}
}

func endless(part string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
			return false
		}
		for {
			if _, err := w.Write(bytes.Repeat([]byte{' '}, 1<<16)); err != nil {
				return true
			}
		}
	}
}

func missing(part string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
			return false
		}
		http.NotFound(w, r)
		return true
	}
}

// A transfer that breaks off is begun again.
func TestBrokenTransfer(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 50_000, 1)
	h.push("x:1", img)
	m, _ := img.Manifest()
	var cut atomic.Bool
	h.setAnswer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, m.Layers[0].Digest.String()) || cut.Swap(true) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(m.Layers[0].Size))
		w.Write([]byte("only this"))
		return true
	})
	c := newCache(t, DefaultMax)
	p := &recorder{}
	got, err := c.Ensure(t.Context(), h.ref("x:1"), Missing, p)
	if err != nil {
		t.Fatal(err)
	}
	got.Release()
	if p.bytes.Load() != p.total || p.total < 50_000 || !p.ended {
		t.Errorf("progress: %d of %d bytes, ended: %v", p.bytes.Load(), p.total, p.ended)
	}
}

type recorder struct {
	total int64
	bytes atomic.Int64
	ended bool
}

func (r *recorder) Begin(_ string, n int64) { r.total = n }
func (r *recorder) Add(n int)               { r.bytes.Add(int64(n)) }
func (r *recorder) End(error)               { r.ended = true }

// Many that want the same image fetch it once.
func TestAtOnce(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 5000, 4))
	c := newCache(t, DefaultMax)
	before := h.requests("/blobs/")
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			img, err := c.Ensure(t.Context(), h.ref("x:1"), Missing, nil)
			if err != nil {
				t.Error(err)
				return
			}
			img.Release()
		})
	}
	wait.Wait()
	if n := h.requests("/blobs/") - before; n != 5 {
		t.Errorf("%d blobs were fetched, want 5", n)
	}
}

// The cache has a bound. What was used last stays, and what is used by somebody.
func TestEviction(t *testing.T) {
	h := newHost(t)
	for i := range 4 {
		h.push(fmt.Sprintf("x:%d", i), randomImage(t, 100_000, 1))
	}
	h.push("big:1", randomImage(t, 400_000, 1))
	c := newCache(t, 320_000)
	for i := range 3 {
		c.ensure(t, h.ref(fmt.Sprintf("x:%d", i)), Missing)
	}
	c.ensure(t, h.ref("x:0"), Never) // x:1 is now the oldest
	if err := c.writeBytes(tempDir+"/left", []byte("by a pull that was killed")); err != nil {
		t.Fatal(err)
	}
	c.ensure(t, h.ref("x:3"), Missing)
	for i, want := range []bool{true, false, true, true} {
		img, err := c.Ensure(t.Context(), h.ref(fmt.Sprintf("x:%d", i)), Never, nil)
		if (err == nil) != want {
			t.Errorf("x:%d: %v, kept: %v", i, err, want)
		}
		if err == nil {
			img.Release()
		}
	}
	var sum int64
	for _, f := range c.files(t) {
		st, err := c.root.Stat(f)
		if err != nil || strings.HasPrefix(f, tempDir) {
			t.Errorf("%s: %v", f, err)
			continue
		}
		sum += st.Size()
	}
	if sum > 320_000 {
		t.Errorf("the cache has %d bytes", sum)
	}
	if _, err := c.Ensure(t.Context(), h.ref("big:1"), Missing, nil); !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("an image larger than the cache: %v, want ErrNoSpace", err)
	}
}

// What is damaged in the cache is fetched again: the index, a manifest, and with the policy
// always a layer.
func TestDamagedCache(t *testing.T) {
	h := newHost(t)
	img := randomImage(t, 5000, 1)
	h.push("x:1", img)
	m, _ := img.Manifest()
	c := newCache(t, DefaultMax)
	for file, policy := range map[string]Policy{
		indexFile: Missing, "blobs/sha256/" + strings.TrimPrefix(digestOf(t, img), "sha256:"): Missing,
		blobPath(m.Layers[0].Digest): Always,
	} {
		want := c.ensure(t, h.ref("x:1"), Missing)
		good, err := c.root.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.root.WriteFile(file, bytes.Repeat([]byte("x"), len(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := c.ensure(t, h.ref("x:1"), policy); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
		if b, err := c.root.ReadFile(file); err != nil || !bytes.Equal(b, good) {
			t.Errorf("%s is still damaged: %v", file, err)
		}
	}
}

// A cache is an OCI layout that other tools read.
func TestCacheIsLayout(t *testing.T) {
	h := newHost(t)
	h.push("x:1", randomImage(t, 1000, 1))
	c := newCache(t, DefaultMax)
	c.ensure(t, h.ref("x:1"), Missing)
	for _, f := range []string{"oci-layout", "index.json"} {
		if b, err := os.ReadFile(filepath.Join(c.root.Name(), f)); err != nil || b[0] != '{' {
			t.Errorf("%s: %q, %v", f, b, err)
		}
	}
}
