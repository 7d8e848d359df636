package cloud_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/testing/servers"
)

var (
	faultKills = flag.Int("fault.kills", 5, "how often servers are killed in each test")
	faultSeed  = flag.Uint64("fault.seed", 1, "of what is random")
)

// TestKill kills a server while clients write, and checks that nothing it acknowledged is lost,
// and that no file is torn.
func TestKill(t *testing.T) {
	for name, spec := range map[string]childSpec{
		"Local":  {Home: filepath.Join(t.TempDir(), "home")},
		"SQLite": {Bucket: &bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}},
	} {
		t.Run(name, func(t *testing.T) {
			c := startChild(t, spec)
			f := newKillTest(t, c.key)
			f.relay.add(c.addr)
			f.run(func(rnd *rand.Rand) {
				time.Sleep(time.Duration(200+rnd.IntN(800)) * time.Millisecond)
				f.relay.remove(c.addr)
				c.kill()
				c = startChild(t, spec)
				f.relay.add(c.addr)
			})
		})
	}
}

// TestKillOfTwo kills one of two servers of the same namespace, again and again.
func TestKillOfTwo(t *testing.T) {
	s3 := servers.S3(t)
	spec := childSpec{Advertise: true, Bucket: &bucket.Options{Database: servers.PG(t), Conns: 8, S3: &bucket.S3{
		Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, PathStyle: true,
	}}}
	one := startChild(t, spec)
	two := startChild(t, spec)
	f := newKillTest(t, one.key)
	f.relay.add(one.addr)
	f.relay.add(two.addr)
	f.run(func(rnd *rand.Rand) {
		time.Sleep(time.Duration(200+rnd.IntN(800)) * time.Millisecond)
		one.kill() // the relay learns of it when it dials
		f.relay.remove(one.addr)
		one, two = two, startChild(t, spec)
		f.relay.add(two.addr)
	})
}

// killTest runs workers, each with a client of its own, while servers are killed.
type killTest struct {
	t     *testing.T
	relay *relay
	key   string
	store *vole.Store
	vol   string
	ended atomic.Bool
	steps atomic.Int64 // acknowledged
	fails atomic.Int64 // reported as failed

	mu    sync.Mutex
	names map[string]string // volumes that were made: ids by name
}

func newKillTest(t *testing.T, key string) *killTest {
	return &killTest{t: t, relay: startRelay(t), key: key, names: map[string]string{}}
}

// run calls kill faultKills times while the workers are at work, and then verifies the volume.
func (f *killTest) run(kill func(rnd *rand.Rand)) {
	t, ctx := f.t, context.Background()
	f.store = connect(t, f.relay.url(), f.key)
	defer f.store.Close()
	v, err := f.store.Create(ctx, "shared", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f.vol = v.ID()
	var workers []worker
	for range 4 {
		workers = append(workers, &smallWriter{}, &handleWriter{}, &renamer{})
	}
	workers = append(workers, &bigWriter{}, &creator{f: f}, &creator{f: f})
	var wg sync.WaitGroup
	for i, w := range workers {
		rnd := rand.New(rand.NewPCG(*faultSeed, uint64(i)))
		store := connect(t, f.relay.url(), f.key)
		defer store.Close() // while there is a server
		fsys := f.open(store)
		dir := fmt.Sprintf("%T-%d", w, i)[len("*cloud_test."):]
		wg.Go(func() {
			if err := w.begin(ctx, fsys, dir); err != nil {
				t.Errorf("%s: begin: %v", dir, err)
				return
			}
			for !f.ended.Load() {
				if ok := w.step(t, rnd); ok {
					f.steps.Add(1)
				} else {
					f.fails.Add(1)
				}
			}
			w.end(t)
		})
	}
	rnd := rand.New(rand.NewPCG(*faultSeed, 1000))
	for range *faultKills {
		kill(rnd)
	}
	time.Sleep(500 * time.Millisecond)
	f.ended.Store(true)
	wg.Wait()
	f.verify(workers)
	t.Logf("%d kills: %d steps acknowledged, %d reported as failed", *faultKills, f.steps.Load(), f.fails.Load())
	if f.steps.Load() == 0 {
		t.Error("nothing was acknowledged")
	}
}

func (f *killTest) open(store *vole.Store) *vole.FS {
	f.t.Helper()
	v, err := store.Get(context.Background(), f.vol)
	if err != nil {
		f.t.Fatal(err)
	}
	fsys, err := v.FS(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return fsys
}

// verify checks the volumes and what the workers wrote, with a client of its own.
func (f *killTest) verify(workers []worker) {
	t, ctx := f.t, context.Background()
	store := connect(t, f.relay.url(), f.key)
	defer store.Close()
	fsys := f.open(store)
	for _, w := range workers {
		w.verify(t, fsys)
	}
	count := map[string]int{}
	for v, err := range store.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		count[v.Name()]++
		if id := f.names[v.Name()]; id != "" && id != v.ID() {
			t.Errorf("the volume %s was made as %s and is %s", v.Name(), id, v.ID())
		}
	}
	for name := range f.names {
		if count[name] != 1 {
			t.Errorf("the volume %s is there %d times", name, count[name])
		}
	}
	err := store.Check(ctx, vole.CheckOptions{}, func(x vole.Finding) error {
		t.Logf("check: %+v", x)
		return nil
	})
	if err != nil {
		t.Errorf("check: %v", err)
	}
}

// TestCanceled gives requests up at random moments: what was reported as cancelled has
// no effect after that.
func TestCanceled(t *testing.T) {
	for _, e := range engines {
		if e.name != "Local" && e.name != "SQLite" {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			r := startServer(t, e.fresh(t))
			setup := r.open(t, false)
			v, err := setup.Create(t.Context(), "shared", vole.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			var given, early atomic.Int64
			var wg sync.WaitGroup
			for i := range 8 {
				rnd := rand.New(rand.NewPCG(*faultSeed, uint64(i)))
				wg.Go(func() {
					c := &canceler{fs: mustFS(t, r.open(t, false), v.ID()), dir: fmt.Sprintf("c%d", i), rnd: rnd, given: &given, early: &early}
					c.run(t)
				})
			}
			wg.Wait()
			t.Logf("%d were given up, %d of them had been done by then", given.Load(), early.Load())
			if given.Load() == 0 {
				t.Error("nothing was given up")
			}
		})
	}
}

func mustFS(t *testing.T, s *vole.Store, id string) *vole.FS {
	t.Cleanup(func() { _ = s.Close() })
	v, err := s.Get(context.Background(), id)
	if err != nil {
		t.Error(err)
		return nil
	}
	fsys, err := v.FS(context.Background())
	if err != nil {
		t.Error(err)
	}
	return fsys
}

type canceler struct {
	fs           *vole.FS
	dir          string
	rnd          *rand.Rand
	given, early *atomic.Int64
}

func (c *canceler) run(t *testing.T) {
	ctx := context.Background()
	if c.fs == nil {
		return
	}
	type seen struct {
		path  string
		there bool
	}
	var after []seen
	for i := range 150 {
		path := fmt.Sprintf("%s/%d", c.dir, i)
		part, cancel := context.WithTimeout(ctx, time.Duration(c.rnd.IntN(4000))*time.Microsecond)
		var err error
		switch c.rnd.IntN(3) {
		case 0:
			err = c.fs.WriteFile(part, path, make([]byte, c.rnd.IntN(100_000)), 0o644)
		case 1:
			err = c.fs.MkdirAll(part, path, 0o755)
		default:
			err = c.fs.Symlink(part, "target", path)
		}
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		c.given.Add(1)
		_, err = c.fs.Lstat(ctx, path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", path, err)
		}
		after = append(after, seen{path, err == nil})
		if err == nil {
			c.early.Add(1)
		}
	}
	time.Sleep(300 * time.Millisecond)
	for _, s := range after {
		_, err := c.fs.Lstat(ctx, s.path)
		if there := err == nil; there != s.there {
			t.Errorf("%s was given up; it was there then: %v, and is later: %v (%v)", s.path, s.there, there, err)
		}
	}
}
